"""A FAISS index of vectors with external ids: built by a factory string, saved with a manifest.

The only file that imports FAISS. Vectors are ranked by inner product; normalise them for cosine.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int64

from idbert.errors import CheckpointError, ConfigError, DataError, ShapeError
from idbert.files import digest_of, verify, written_aside
from idbert.retrieval.extras import check_faiss_distributions, missing_faiss
from idbert.retrieval.index_codes import code_differences, fast_cells, level_codes, scan_for
from idbert.retrieval.index_device import MOST_ON_GPU, IndexDevice, on_device
from idbert.retrieval.index_exclusion import distinct_counts, without
from idbert.retrieval.index_manifest import MANIFEST, read_manifest, verify_size, write_manifest
from idbert.retrieval.index_recall import RecallCurve
from idbert.retrieval.index_settings import SearchSettings, factory_error, search_parameters
from idbert.retrieval.vectors import GRAPHS, stored_form, stored_width

logger = logging.getLogger(__name__)

_INDEX, _IDS = "index.faiss", "ids.parquet"
RECALL_CHART = "recall.svg"
"""Inside the folder of an index whose recall was measured."""
_QUERIES_AT_ONCE = 1024
_ROWS_AT_ONCE = 2**23
"""Rows that are fetched or ranked for the queries of a chunk: 12 bytes each, several times."""
_POINTS_A_CELL, _ROUNDS = 64, 10


class VectorIndex:
    """Vectors that are searched by inner product, and the ids that they belong to.

    Made by `build` or `load`. Row i holds the vector of `ids[i]`.

    Attributes:
        ids: external ids, string or int64, in the order of the rows.
        factory: the FAISS factory string that the index was built by.
        dimension: D, components of a vector.
        defaults: how thoroughly it is searched where a search does not say.
        recall: what was measured when these defaults were chosen; None: nothing was.
    """

    def __init__(self, index: Any, ids: pa.Array, factory: str, dimension: int) -> None:
        self._index = index
        self._fast_cells = fast_cells(_opened_faiss(), index)
        self.ids = ids
        self.factory = factory
        self.dimension = dimension
        self.defaults = SearchSettings()
        self.recall: RecallCurve | None = None
        self._most_fetched = len(ids)
        self._alone: AbstractContextManager[Any] = nullcontext()

    def __len__(self) -> int:
        """Return N, the number of vectors."""
        return len(self.ids)

    @property
    def num_bytes(self) -> int:
        """Bytes of the index on disk, without its ids; about those that it takes in memory."""
        return int(_faiss().serialize_index(self._index).nbytes)

    def vectors(self) -> Float32[np.ndarray, "N D"]:
        """Return all vectors, as exactly as the index keeps them.

        Raises:
            ConfigError: an index of this type cannot give vectors back.
        """
        try:
            vectors: np.ndarray = self._index.reconstruct_n(0, len(self))
        except RuntimeError as error:
            raise ConfigError(
                f"an index '{self.factory}' cannot give its vectors back. Choose another, such as "
                "Flat, SQ8 or HNSW32."
            ) from error
        return np.ascontiguousarray(vectors[:, : self.dimension])

    @classmethod
    def build(
        cls, vectors_ND: Float32[np.ndarray, "N D"], ids: pa.Array, *, factory: str = "Flat"
    ) -> "VectorIndex":
        """Train an index and add the vectors to it.

        Args:
            vectors_ND: one vector a row.
            ids: N external ids, string or int64.
            factory: a FAISS factory string: "Flat" is exact and best to about 50,000 vectors;
                "HNSW32", "IVF1024,SQfp16", "IVF1024,SQ8", "Pad72,PQ36x4fs,RFlat" are some that
                trade recall for time or memory, `vectors.coded_cells` the fastest for many.
                `index_choice.choose_index` chooses one.

        Raises:
            ConfigError: the factory string is unknown, cannot rank by inner product, does not fit
                the dimension, or needs more vectors to train on.
            DataError: a vector is not finite, or there are none.
            ShapeError: there are not as many ids as vectors.
            MissingExtraError: FAISS is not installed, or twice.
        """
        faiss = _faiss()
        _check_vectors(vectors_ND, ids)
        started = time.perf_counter()
        stored_ND = stored_form(vectors_ND, factory)
        try:
            index = faiss.index_factory(stored_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            inner_product = index.metric_type == faiss.METRIC_INNER_PRODUCT
            if inner_product:
                _limit_training(faiss, index)
                code_differences(faiss, index)
                index.train(stored_ND)
                level_codes(faiss, index, stored_ND)
                index.add(stored_ND)
        except RuntimeError as error:
            raise factory_error(factory, vectors_ND.shape, str(error)) from error
        if not inner_product:
            raise ConfigError(
                f"the index '{factory}' cannot rank by inner product. Choose another, such as "
                "Flat, HNSW32, HNSW32,SQ8 or IVF1024,Flat."
            )
        seconds = time.perf_counter() - started
        logger.info("index %s: %d vectors in %.1f s", factory, len(ids), seconds)
        return cls(index, ids, factory, vectors_ND.shape[1])

    def save(self, folder: str | Path, model_sha256: str) -> None:
        """Write index, ids and manifest as a folder, whole or not at all.

        Where the recall was measured, a chart of it is there too.

        Args:
            folder: replaced if it exists.
            model_sha256: digest of the weights that the vectors were made by.

        Raises:
            DataError: the disk has no room.
        """
        faiss = _faiss()
        with written_aside(Path(folder)) as aside:
            aside.mkdir()
            if self._fast_cells is not None:
                scan_for(self._fast_cells, len(self))  # what is written hangs on no search
            faiss.write_index(self._index, str(aside / _INDEX))
            pq.write_table(pa.table({"id": self.ids}), aside / _IDS)
            manifest: dict[str, Any] = {
                "factory": self.factory,
                "type": type(faiss.downcast_index(self._index)).__name__,
                "metric": "inner_product",
                "dimension": self.dimension,
                "count": len(self),
                "model_sha256": model_sha256,
                "search": asdict(self.defaults),
                "recall": None if self.recall is None else asdict(self.recall),
                "files": {name: digest_of(aside / name) for name in (_INDEX, _IDS)},
            }
            write_manifest(aside, manifest)
            if self.recall is not None:
                from idbert.retrieval.recall_chart import recall_chart  # brings matplotlib

                (aside / RECALL_CHART).write_text(recall_chart(self.recall), encoding="utf-8")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model_sha256: str | None = None,
        *,
        mapped: bool = False,
        device: IndexDevice = "cpu",
    ) -> "VectorIndex":
        """Open what `save` wrote; nothing is read before the manifest's digests are checked.

        The digests find damage. They do not make a stranger's index safe: FAISS is known to crash
        on files made for it.

        Args:
            folder: the index's folder.
            model_sha256: the weights that the index must belong to; None: any.
            mapped: whether the index stays on disk, and a page of it is read when a search first
                needs it; processes on one machine then share one copy. Of the index's file only the
                size is checked, since its digest would read all of it. The file must stay as it is
                while it is open; to build the index again is safe, for that writes another file.
            device: where it is searched.

        Raises:
            CheckpointError: there is no index, it is damaged, of another format, or of another
                model.
            ConfigError: it cannot be searched on that device, or a mapped one not on a GPU.
            MissingExtraError: FAISS is not installed, or twice, or without its GPU part.
        """
        if mapped and device != "cpu":
            raise ConfigError(
                f"a mapped index stays on disk, and index_device={device} copies it. Leave one of "
                "them out."
            )
        faiss = _faiss()
        folder = Path(folder)
        manifest = read_manifest(folder)
        if model_sha256 is not None and manifest["model_sha256"] != model_sha256:
            raise CheckpointError(
                f"{folder} is the index of another model ({manifest['model_sha256'][:12]}..., not "
                f"{model_sha256[:12]}...). Build it again for this one."
            )
        for name in (_INDEX, _IDS):
            if mapped and name == _INDEX:
                verify_size(folder / name, manifest["files"][name]["size"])
            else:
                verify(folder / name, manifest["files"][name])
        try:
            flags = (faiss.IO_FLAG_MMAP_IFC,) if mapped else ()
            index = faiss.read_index(str(folder / _INDEX), *flags)
            ids = pq.read_table(folder / _IDS).column("id").combine_chunks()
        except (RuntimeError, OSError, KeyError, pa.ArrowInvalid) as error:
            raise CheckpointError(f"{folder} cannot be read: {error}") from error
        dimension, count, factory = (manifest[name] for name in ("dimension", "count", "factory"))
        # FAISS may read a type back as a subclass of the one that was written.
        types = [kind.__name__ for kind in type(faiss.downcast_index(index)).__mro__]
        # Before vectors were filled up, an index kept them as wide as they were, or completed.
        widths = {stored_width(factory, dimension), dimension + bool(GRAPHS.search(factory))}
        is_as_said = manifest["type"] in types and index.d in widths
        if not is_as_said or (index.ntotal, len(ids)) != (count, count):
            raise CheckpointError(
                f"{folder} does not hold what its {MANIFEST} says: found {types[0]} of "
                f"{index.ntotal} vectors and {len(ids)} ids with {index.d} components. Build it "
                "again."
            )
        opened = cls(on_device(faiss, index, device, factory), ids, factory, dimension)
        if device != "cpu":
            opened._most_fetched = min(len(ids), MOST_ON_GPU)
            opened._alone = threading.Lock()  # FAISS's indexes on a GPU serve one call at a time
        opened.defaults = SearchSettings(**manifest.get("search") or {})
        if manifest.get("recall") is not None:
            opened.recall = RecallCurve.of(manifest["recall"])
        return opened

    def search(
        self,
        queries_QD: Float32[np.ndarray, "Q D"],
        k: int,
        settings: SearchSettings = SearchSettings(),  # noqa: B008 (frozen)
        *,
        allowed_N: Bool[np.ndarray, "N"] | None = None,
        excluded: tuple[Int64[np.ndarray, "T"], Int64[np.ndarray, "_"]] | None = None,
    ) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
        """Return the rows with the largest inner products to each query, best first.

        Args:
            queries_QD: one query a row.
            k: rows wanted; at most N are returned.
            settings: how thoroughly to search; what is None is as in `defaults`.
            allowed_N: true where a row may be returned; None: everywhere.
            excluded: for each query the rows that it must not get, end to end, and Q + 1 bounds.
                The index is asked for as many rows more; on a GPU for 2,048 at most.

        Returns:
            Scores and rows [Q, min(k, N)]; -inf and -1 where fewer were found.

        Raises:
            ConfigError: a setting or an allow-list cannot act on this type of index.
            ShapeError: the queries are not as wide as the vectors.
        """
        if queries_QD.shape[1] != self.dimension:
            raise ShapeError(
                f"the queries have {queries_QD.shape[1]} components, the index's vectors "
                f"{self.dimension}."
            )
        if k < 1:
            raise ConfigError(f"k is {k}; it must be at least 1.")
        num_queries, width = len(queries_QD), min(k, len(self))
        if width > self._most_fetched:
            raise ConfigError(
                f"k is {k}; on a GPU FAISS finds at most {self._most_fetched:,} rows. Lower it, or "
                "leave index_device out."
            )
        scores_QK = np.full((num_queries, width), -np.inf, np.float32)
        rows_QK = np.full((num_queries, width), -1, np.int64)
        counts_Q = np.zeros(num_queries, np.int64)
        if excluded is not None:
            counts_Q = distinct_counts(*excluded)  # an event that is repeated costs nothing
        # Queries that need about the same number of rows go together.
        order_Q = np.argsort(counts_Q, kind="stable")
        ranked = settings.completed_by(self.defaults).refine_factor or 1
        for part in _chunks((width + counts_Q[order_Q]) * ranked):
            chunk = order_Q[part]
            fetched = min(width + int(counts_Q[chunk[-1]]), self._most_fetched)
            scores, rows = self._search(queries_QD[chunk], fetched, settings, allowed_N)
            if excluded is not None:
                scores, rows = without(scores, rows, chunk, *excluded, num_rows=len(self))
            scores_QK[chunk], rows_QK[chunk] = scores[:, :width], rows[:, :width]
        return scores_QK, rows_QK

    def _search(
        self,
        queries_QD: np.ndarray,
        k: int,
        settings: SearchSettings,
        allowed_N: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        faiss = _opened_faiss()  # not _faiss(): what it reads to check takes longer than a search
        filled_QD = np.zeros((len(queries_QD), self._index.d), np.float32)  # as by stored_form
        filled_QD[:, : self.dimension] = queries_QD
        selector = None
        if allowed_N is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))
        unused = {name for name, value in vars(settings).items() if value is not None}
        settings = settings.completed_by(self.defaults)
        parameters = search_parameters(faiss, self._index, k, settings, selector, unused)
        if unused:
            name = min(unused)
            raise ConfigError(f"{name} cannot act on an index '{self.factory}'. Leave it out.")
        if self._fast_cells is not None:
            scan_for(self._fast_cells, len(queries_QD))
        try:
            with self._alone:
                scores_QK, rows_QK = self._index.search(filled_QD, k, params=parameters)
        except RuntimeError as error:
            if selector is None:
                raise
            raise ConfigError(
                f"an index '{self.factory}' cannot leave items out while it searches. Choose a "
                "Flat, HNSW or IVF index, or recommend without an index."
            ) from error
        scores_QK[rows_QK < 0] = -np.inf
        return scores_QK, rows_QK


def _chunks(needed_Q: Int64[np.ndarray, "Q"]) -> Iterator[slice]:
    """Cut queries so that one that needs many rows does not let others fetch as many.

    Args:
        needed_Q: rows that each needs, ascending.
    """
    start = 0
    while start < len(needed_Q):
        needed = needed_Q[start : start + _QUERIES_AT_ONCE]
        fetched = needed * np.arange(1, len(needed) + 1)  # by the first 1, 2, ... together
        stop = start + max(1, int(np.searchsorted(fetched, _ROWS_AT_ONCE, side="right")))
        yield slice(start, stop)
        start = stop


def _faiss() -> ModuleType:
    """Import FAISS, or say what to install."""
    check_faiss_distributions()
    try:
        return _opened_faiss()
    except ImportError as error:
        raise missing_faiss() from error


def _opened_faiss() -> ModuleType:
    import faiss

    module: ModuleType = faiss
    return module


def _limit_training(faiss: ModuleType, index: Any) -> None:
    """Let cells be found on a sample, in few rounds: more finds nothing more and takes minutes."""
    try:
        cells = faiss.extract_index_ivf(index)
    except RuntimeError:  # it has none
        return
    cells.cp.max_points_per_centroid, cells.cp.niter = _POINTS_A_CELL, _ROUNDS


def _check_vectors(vectors_ND: np.ndarray, ids: pa.Array) -> None:
    if len(ids) != len(vectors_ND):
        raise ShapeError(f"{len(vectors_ND)} vectors and {len(ids)} ids: each needs the other.")
    if len(ids) == 0:
        raise DataError("there are no vectors to build an index of.")
    wrong = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
    if len(wrong):
        named = ", ".join(str(ids[int(row)].as_py()) for row in wrong[:5])
        raise DataError(
            f"{len(wrong)} of {len(ids)} vectors hold NaN or infinity, those of {named}: the model "
            "diverged. Train again with a lower learning rate."
        )
