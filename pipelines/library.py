"""Training and recommending from Python: a DataFrame in, a Recommender out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from idbert.errors import ConfigError
from idbert.files import written_aside
from idbert.inputs.frames import frame_part
from idbert.retrieval.recommender import Recommender
from idbert.run_dir import MARKER, RunDir
from idbert.run_lock import release_all
from pipelines import rec_finetune, rec_pretrain
from pipelines.ablation_plan import merged
from pipelines.cli import PLUGINS, import_plugins, settings_from
from pipelines.corridor import DataSettings

LOG = "interactions.parquet"
"""What the name of the file ends in that holds the log of a run, beside its folder."""


def train(
    log: pd.DataFrame | str | Path,
    run: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    pretrain: bool = False,
) -> Recommender:
    """Train a next-item model on a log, evaluate it, and return what recommends by it.

    It is `python -m pipelines.rec_finetune` (or rec_pretrain), and leaves the same folder: a run
    that was stopped goes on, a finished one is opened, and `Recommender.load(run)` opens it later.

        recommender = train(frame, "runs/shop", {"training.epochs": 5})
        recommender.recommend(frame, k=10)

    Args:
        log: Events with the columns user_id, item_id and timestamp, or what the settings
            data.user_column and so on say; or whatever --data.source reads. Of a DataFrame these
            columns are written beside the run's folder, as RUN-interactions.parquet.
        run: The run's folder.
        settings: Those of the command: nested, or with dots.
        pretrain: Whether a masked-item model is trained (BERT4Rec), by rec_pretrain.

    Raises:
        ConfigError: a setting is unknown or out of range, or the folder holds a run of other
            settings or of another log.
        DataError: the log is not what it must be.
        Unfinished: the training was stopped by SIGTERM; called again, it goes on.
    """
    command = rec_pretrain if pretrain else rec_finetune
    config_class = command.RecPretrainSettings if pretrain else command.RecFinetuneSettings
    source = _beside(Path(run)) if isinstance(log, pd.DataFrame) else Path(log)
    given = merged(merged({}, settings or {}), {"run": str(run), "data.source": str(source)})
    import_plugins(given.get(PLUGINS, ()))
    config = settings_from(config_class, given)
    try:
        if isinstance(log, pd.DataFrame):
            _write(log, config.data, source, RunDir(Path(run)))
        command.main(config)
        return Recommender.load(run)
    finally:
        release_all()


def _beside(run: Path) -> Path:
    return run.with_name(f"{run.name}-{LOG}")


def _write(log: pd.DataFrame, data: DataSettings, path: Path, run: RunDir) -> None:
    """Write what is read of a log beside a run's folder, unless it is there.

    Raises:
        ConfigError: the folder holds a run of another log.
        DataError: the log is not what it must be.
    """
    wanted = data.columns()
    frame_part(log, wanted)  # refuses what cannot be used
    columns = [name for name in wanted.values() if name in log.columns]
    table = pa.Table.from_pandas(log[columns], preserve_index=False)
    if path.exists() and pq.read_table(path).equals(table):
        return
    # Without the file it is left to the run's own digest whether the log is the same.
    is_begun = (run.path / MARKER).exists() and (run.is_complete or run.checkpoints.exists())
    if is_begun and path.exists():
        raise ConfigError(
            f"{run.path} is of another log than this. Name another folder, or delete this one."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        pq.write_table(table, aside)
