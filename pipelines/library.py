"""Training and recommending from Python: a DataFrame in, a Recommender out."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from idbert.errors import ConfigError
from idbert.files import written_aside
from idbert.retrieval.recommender import Recommender
from idbert.run_dir import MARKER, RunDir
from pipelines import rec_finetune, rec_pretrain
from pipelines.ablation_plan import merged
from pipelines.cli import settings_from

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
            data.user_column and so on say; or whatever --data.source reads. A DataFrame is written
            beside the run's folder, as RUN-interactions.parquet.
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
    source = _written(log, Path(run)) if isinstance(log, pd.DataFrame) else str(log)
    given = merged(merged({}, settings or {}), {"run": str(run), "data.source": source})
    command.main(settings_from(config_class, given))
    return Recommender.load(run)


def _written(log: pd.DataFrame, run: Path) -> str:
    """Write the log beside the run's folder, unless it is there.

    Raises:
        ConfigError: the folder holds a finished run of another log.
    """
    path = run.with_name(f"{run.name}-{LOG}")
    buffer = io.BytesIO()
    log.to_parquet(buffer, index=False)
    if path.exists() and path.read_bytes() == buffer.getvalue():
        return str(path)
    if (run / MARKER).exists() and RunDir(run).is_complete:
        raise ConfigError(
            f"{run} is trained, on another log than this. Name another folder, or delete this one."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_bytes(buffer.getvalue())
    return str(path)
