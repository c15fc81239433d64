"""python -m pipelines.rec_index: the vectors of a run in a FAISS index."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from idbert.errors import CheckpointError, ConfigError, IdbertError
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.item_models import load_item_model
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_choice import AUTO, ChoiceSettings, choose_index
from idbert.retrieval.query_times import check_moment
from idbert.retrieval.recommender import Recommender
from idbert.retrieval.vector_files import read_parts
from idbert.rows import FIRST_ITEM
from idbert.run_dir import MARKER, RunDir
from idbert.tables import Interactions
from pipelines.cli import logger, naming_plugins_of, run_command, stage
from pipelines.corridor import EXPORTED, STAGES, log_settings_of, open_prepared, read_log

USER_INDEX = "user_index"
"""Folder of the users' index inside a run."""


@dataclass(frozen=True)
class RecIndexSettings:
    """What is indexed, and how."""

    run: str = "runs/rec_finetune"
    """The finished run; the index becomes its folder `index`."""
    factory: str = "Flat"
    """A FAISS factory string: Flat is exact; HNSW32, IVF1024,SQfp16, IVF1024,SQ8, ... trade recall
    for speed or memory. Or auto: chosen by the number of vectors and the recall that is measured
    with users of the log; what was measured is in the index's folder, with a chart."""
    auto: ChoiceSettings = field(default_factory=ChoiceSettings)
    """What an index must find that is chosen by factory=auto"""
    users: bool = False
    """Whether the vectors of the log's users are indexed too, as the folder `user_index`."""
    at: str | None = None
    """The moment for which the users' vectors are made, for a model that reads it
    (time_bias.query_time): an ISO date, or seconds since 1970-01-01 UTC."""
    vectors: str | None = None
    """The folder that rec_export wrote for this run: of items, whose vectors become `index`, or of
    users, whose vectors become `user_index`. Default: they are made here."""

    def __post_init__(self) -> None:
        if self.users and self.vectors is not None:
            raise ConfigError(
                "users makes the users' vectors here, and vectors names a folder of them. Leave "
                "one of them out."
            )
        if self.at is not None and (self.vectors is not None or not self._reads_users):
            raise ConfigError(
                "at says for which moment users' vectors are made, and none are made here. Give "
                "--users or --factory=auto, or leave it out."
            )
        if self.factory != AUTO and self.auto != ChoiceSettings():
            raise ConfigError(
                f"the settings of --auto choose an index, and factory={self.factory} is chosen. "
                "Give --factory=auto, or leave them out."
            )

    @property
    def _reads_users(self) -> bool:
        return self.users or self.factory == AUTO


def main(config: RecIndexSettings) -> None:
    """Export the item vectors of a finished run to a FAISS index.

    A vector's last component is the item's bias, so that the inner product with a user's vector is
    the model's score. rec_recommend and Recommender.load then search the index.
    """
    run = RunDir.open(config.run, STAGES)
    if config.vectors is not None:
        with stage("index the exported vectors"):
            _index_exported(config, config.vectors, run)
        return
    with naming_plugins_of(run):
        model = load_item_model(run.model)
    if config.users or config.at is not None:
        check_moment(model.config.reads_times, config.at)
    vectors_VD = model.item_vectors().numpy()
    with stage("index the items"):
        items = Vocabulary.load(run.path).ids
        index = _built(config, vectors_VD[FIRST_ITEM:], items, run)
        index.save(run.index, run.model_sha256)
    if config.users:
        with stage("index the users"):
            users, vectors_UD = _user_vectors(run, config.at)
            _built(config, vectors_UD, users).save(run.path / USER_INDEX, run.model_sha256)


def _index_exported(config: RecIndexSettings, folder: str, run: RunDir) -> None:
    """Build the index of what rec_export has written.

    Raises:
        CheckpointError: the vectors are unfinished, damaged, or of another model.
        ConfigError: they are of a layer, by which no scores are made.
    """
    exported = RunDir(Path(folder))
    if (exported.path / MARKER).is_file() and not exported.is_complete:
        raise CheckpointError(
            f"{folder}: the export has not finished. Give the same rec_export command again; "
            "finished parts are not made again."
        )
    exported = RunDir.open(folder, [EXPORTED])
    made_of = exported.read_config()
    if made_of["model"] != run.model_sha256:
        raise CheckpointError(
            f"{folder} holds vectors of another model than {run.path}. Export them again with "
            f"rec_export --run {run.path}."
        )
    if made_of.get("layer") is not None:
        raise ConfigError(
            f"{folder} holds vectors of layer {made_of['layer']}, and recommendations are searched "
            "with those that rec_export makes without --layer."
        )
    ids, vectors_ND = read_parts(sorted(exported.path.glob("part-*.parquet")))
    is_items = made_of["what"] == "items"
    target = run.index if is_items else run.path / USER_INDEX
    _built(config, vectors_ND, ids, run if is_items else None).save(target, run.model_sha256)


def _built(
    config: RecIndexSettings, vectors_ND: np.ndarray, ids: pa.Array, asking: RunDir | None = None
) -> VectorIndex:
    """Build the index; where one is to be chosen, by queries of a run's users if it is given."""
    if config.factory != AUTO:
        return VectorIndex.build(vectors_ND, ids, factory=config.factory)
    queries: dict[str, Any] = {}
    if asking is not None and len(vectors_ND) >= config.auto.exact_below:
        queries = _queries(asking, config)
    return choose_index(vectors_ND, ids, config.auto, **queries)


def _queries(run: RunDir, config: RecIndexSettings) -> dict[str, Any]:
    """Return the vectors of some users of the run's log; nothing if it cannot be read any more."""
    try:
        vectors_QD = _user_vectors(run, config.at, config.auto.queries, config.auto.seed)[1]
    except IdbertError as error:
        logger.warning("recall will be measured with items in place of users: %s", error)
        return {}
    return {"queries_QD": vectors_QD, "queries_are": "users"}


def _user_vectors(
    run: RunDir, at: str | None, sample: int | None = None, seed: int = 0
) -> tuple[pa.Array, np.ndarray]:
    """Return the users of the run's log, or so many of them, and one vector each."""
    data = log_settings_of(run).data
    log = open_prepared(data) or read_log(data)
    if sample is not None:
        is_table = isinstance(log, Interactions)
        count = len(log.user_offsets()) - 1 if is_table else len(log.events)
        kept_U = np.isin(np.arange(count), np.random.default_rng(seed).permutation(count)[:sample])
        if isinstance(log, Interactions):
            log = log.filter(np.repeat(kept_U, np.diff(log.user_offsets())))
        else:
            log = log.of_users(kept_U)
    return Recommender.load(run.path, index=False).user_vectors(log, at=at)


if __name__ == "__main__":
    run_command(main, RecIndexSettings)
