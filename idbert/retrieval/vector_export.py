"""The vectors of a catalogue's items or of a log's users, part by part, in a folder of parquet.

A part is the work of one call, on this machine or on any worker of a Ray cluster: who makes it
changes nothing in it. A part that is there is not made again.
"""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32
from tqdm import tqdm

from idbert.errors import ConfigError, DataError
from idbert.inputs.prepared_log import PreparedLog
from idbert.inputs.vocabulary import Vocabulary
from idbert.ray_cluster import CPUS_A_TASK, RaySettings, check_shared, cluster, in_workers
from idbert.retrieval.histories import read_histories
from idbert.retrieval.query_times import with_query_times
from idbert.retrieval.recommender import Recommender
from idbert.retrieval.vector_files import is_written, part_path, write_part
from idbert.retrieval.vectors import Layer, item_layer_vectors
from idbert.tables import Interactions

logger = logging.getLogger(__name__)

PART_SIZE = 65_536
"""Vectors of a part: at 65 components some 17 MB."""


@dataclass(frozen=True)
class RayExportSettings(RaySettings):
    """Which Ray makes the vectors, by how many workers."""

    workers: int = 1
    """Workers; each loads the model once and makes one part after the other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 1:
            raise ConfigError(f"ray.workers is {self.workers}; it must be at least 1.")


@dataclass(frozen=True)
class ItemSource:
    """The items of a run's catalogue, in its order.

    Attributes:
        run: the folder of a finished run.
        layer: whose vectors, see `Layer`. None: those that are searched, whose last component is
            the item's bias, so that inner products with users' vectors are the scores.
    """

    run: Path
    layer: Layer = None

    def count(self) -> int:
        """Return the number of items."""
        return Vocabulary.load(self.run).num_items

    def vectors(
        self, recommender: Recommender, start: int, stop: int
    ) -> tuple[pa.Array, Float32[np.ndarray, "N D"]]:
        """Return the ids and vectors of the items from `start` to before `stop`."""
        ids = recommender.vocabulary.ids.slice(start, stop - start)
        if self.layer is None:
            return ids, recommender.item_vectors(slice(start, stop))
        vectors = item_layer_vectors(recommender.model, self.layer, slice(start, stop))
        return ids, vectors.cpu().numpy()


@dataclass(frozen=True)
class UserSource:
    """The users of a log, in the order of their ids, as `Recommender.user_vectors` sees them.

    Attributes:
        log: the log as a table, which travels to the workers; or the folder of a prepared log,
            which they map.
        behaviour: which kind of event to predict; None: the most frequent one.
        at: the moment for which is recommended, for models that read it.
    """

    log: Interactions | Path
    behaviour: str | None = None
    at: str | None = None

    def count(self) -> int:
        """Return the number of users."""
        return len(self._offsets) - 1

    def vectors(
        self, recommender: Recommender, start: int, stop: int
    ) -> tuple[pa.Array, Float32[np.ndarray, "N D"]]:
        """Return ids and vectors of the users from `start` on; without a known item they have none.

        Raises:
            DataError: an id is of another type than the vocabulary's.
            ConfigError: the behaviour is not one, or `at` lacks or cannot act.
        """
        histories = read_histories(self._events(start, stop), recommender.vocabulary)
        reads = recommender.model.config.reads_times
        histories = with_query_times(histories, reads, self.at).not_empty()
        if len(histories) == 0:
            width = recommender.model.item_vectors().shape[1]
            return histories.keys, np.empty((0, width), np.float32)
        return histories.keys, recommender.encode(histories, self.behaviour)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without what was mapped here."""
        return {"log": self.log, "behaviour": self.behaviour, "at": self.at}

    @cached_property
    def _prepared(self) -> PreparedLog:
        assert isinstance(self.log, Path)
        return PreparedLog.open(self.log)

    @cached_property
    def _offsets(self) -> np.ndarray:
        if isinstance(self.log, Path):
            return self._prepared.events.offsets
        return self.log.user_offsets()

    def _events(self, start: int, stop: int) -> Interactions:
        if isinstance(self.log, Path):
            return self._prepared.interactions(slice(start, stop))
        first, last = self._offsets[start], self._offsets[stop]
        return self.log.with_table(self.log.table.slice(first, last - first))


@dataclass(frozen=True)
class VectorExport:
    """Which vectors become which parts.

    Attributes:
        run: the folder of the finished run whose model makes them.
        source: of what.
        folder: of the parts.
        made_of: what the vectors depend on, plain values; parts that say otherwise are made anew.
        part_size: items or users of a part.
        device: where the model computes.
        plugins: modules to import first, because they register parts of the model.
    """

    run: Path
    source: ItemSource | UserSource
    folder: Path
    made_of: Mapping[str, Any]
    part_size: int = PART_SIZE
    device: str = "cpu"
    plugins: tuple[str, ...] = ()

    def parts(self) -> list[Path]:
        """Return the files of all parts, written or not."""
        number = -(-self.source.count() // self.part_size)
        return [part_path(self.folder, part) for part in range(number)]


class PartWriter:
    """Makes parts, with the model loaded once.

    Args:
        export: which parts.
    """

    def __init__(self, export: VectorExport) -> None:
        for module in export.plugins:
            importlib.import_module(module)
        self._export = export
        self._count = export.source.count()
        self._recommender = Recommender.load(export.run, index=False, device=export.device)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, int]:
        """Write one part.

        Args:
            row: `part`, its number.

        Returns:
            `part`, and `vectors`, how many it has.
        """
        export, part = self._export, int(row["part"])
        start = part * export.part_size
        stop = min(start + export.part_size, self._count)
        ids, vectors_ND = export.source.vectors(self._recommender, start, stop)
        wrong = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
        if len(wrong):
            raise DataError(
                f"{len(wrong)} of {len(ids)} vectors hold NaN or infinity, the first is that of "
                f"{ids[int(wrong[0])].as_py()}: the model diverged. Train again with a lower "
                "learning rate."
            )
        write_part(part_path(export.folder, part), ids, vectors_ND, export.made_of)
        return {"part": part, "vectors": len(ids)}


def export_vectors(
    export: VectorExport, ray: RayExportSettings | None = None, *, files: Sequence[Path] = ()
) -> list[Path]:
    """Write all parts that are not there yet.

    Args:
        export: which parts; its folder is made if absent.
        ray: who makes them; None: this process.
        files: what workers read beside the run, to be checked on every machine.

    Returns:
        The files of all parts, in order.

    Raises:
        DataError: the log does not hold what it must, a worker died, or the disk has no room.
        ConfigError: a setting cannot act, or a machine of the cluster does not see the folders.
        MissingExtraError: Ray is not installed.
    """
    paths = export.parts()
    export.folder.mkdir(parents=True, exist_ok=True)
    missing = [part for part, path in enumerate(paths) if not is_written(path, export.made_of)]
    if len(missing) < len(paths):
        logger.info("%d of %d parts found finished", len(paths) - len(missing), len(paths))
    for stale in set(export.folder.glob("part-*.parquet")) - set(paths):
        stale.unlink()  # of an export in smaller parts that was given up
    made = 0
    with tqdm(
        desc="export",
        total=len(missing),
        unit=" parts",
        leave=False,
        disable=None,
    ) as bar:
        for row in _made(export, missing, ray, files) if missing else ():
            made += row["vectors"]
            bar.update()
    logger.info("%d vectors made in %d parts", made, len(missing))
    return paths


def _made(
    export: VectorExport,
    missing: Sequence[int],
    settings: RayExportSettings | None,
    files: Sequence[Path],
) -> Iterator[Mapping[str, Any]]:
    """Yield what `PartWriter` says of each part when it is written."""
    if settings is None:
        yield from map(PartWriter(export), ({"part": part} for part in missing))
        return
    with cluster(settings) as ray:
        check_shared(ray, in_workers([*files, export.run]), export.folder)
        rows = ray.data.from_items(
            [{"part": part} for part in missing], override_num_blocks=len(missing)
        )
        done = rows.map(
            PartWriter,
            fn_constructor_args=(export,),
            compute=ray.data.ActorPoolStrategy(size=min(settings.workers, len(missing))),
            num_cpus=CPUS_A_TASK,
            num_gpus=1 if export.device == "cuda" else None,
        )
        yield from done.iter_rows()
