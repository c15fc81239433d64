"""A FAISS index of vectors with external ids: built by a factory string, saved with a manifest.

The only file that imports FAISS. Vectors are ranked by inner product; normalise them for cosine.
"""

import json
import logging
import re
import time
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
from idbert.retrieval.index_settings import SearchSettings, factory_error, search_parameters
from idbert.retrieval.vectors import completed

logger = logging.getLogger(__name__)

FORMAT = 1
_MANIFEST, _INDEX, _IDS = "manifest.json", "index.faiss", "ids.parquet"
_GRAPHS = re.compile(r"HNSW|NSG")
_QUERIES_AT_ONCE = 1024


class VectorIndex:
    """Vectors that are searched by inner product, and the ids that they belong to.

    Made by `build` or `load`. Row i holds the vector of `ids[i]`.

    Attributes:
        ids: external ids, string or int64, in the order of the rows.
        factory: the FAISS factory string that the index was built by.
        dimension: D, components of a vector.
    """

    def __init__(self, index: Any, ids: pa.Array, factory: str, dimension: int) -> None:
        self._index = index
        self.ids = ids
        self.factory = factory
        self.dimension = dimension

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
            factory: a FAISS factory string: "Flat" is exact and best to about 100,000 vectors;
                "HNSW32", "IVF1024,Flat", "HNSW32,SQ8", "Pad72,PQ36x4fs,RFlat" are some that trade
                recall for time or memory.

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
        stored_ND = completed(vectors_ND) if _GRAPHS.search(factory) else vectors_ND
        stored_ND = np.ascontiguousarray(stored_ND)
        try:
            index = faiss.index_factory(stored_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            inner_product = index.metric_type == faiss.METRIC_INNER_PRODUCT
            if inner_product:
                index.train(stored_ND)
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

        Args:
            folder: replaced if it exists.
            model_sha256: digest of the weights that the vectors were made by.

        Raises:
            DataError: the disk has no room.
        """
        faiss = _faiss()
        with written_aside(Path(folder)) as aside:
            aside.mkdir()
            faiss.write_index(self._index, str(aside / _INDEX))
            pq.write_table(pa.table({"id": self.ids}), aside / _IDS)
            manifest = {
                "format": FORMAT,
                "factory": self.factory,
                "type": type(faiss.downcast_index(self._index)).__name__,
                "metric": "inner_product",
                "dimension": self.dimension,
                "count": len(self),
                "model_sha256": model_sha256,
                "files": {name: digest_of(aside / name) for name in (_INDEX, _IDS)},
            }
            (aside / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, model_sha256: str | None = None) -> "VectorIndex":
        """Open what `save` wrote; nothing is read before the manifest's digests are checked.

        The digests find damage. They do not make a stranger's index safe: FAISS is known to crash
        on files made for it.

        Args:
            folder: the index's folder.
            model_sha256: the weights that the index must belong to; None: any.

        Raises:
            CheckpointError: there is no index, it is damaged, of another format, or of another
                model.
            MissingExtraError: FAISS is not installed, or twice.
        """
        faiss = _faiss()
        folder = Path(folder)
        manifest = _read_manifest(folder)
        if model_sha256 is not None and manifest["model_sha256"] != model_sha256:
            raise CheckpointError(
                f"{folder} is the index of another model ({manifest['model_sha256'][:12]}..., not "
                f"{model_sha256[:12]}...). Build it again for this one."
            )
        for name in (_INDEX, _IDS):
            verify(folder / name, manifest["files"][name])
        try:
            index = faiss.read_index(str(folder / _INDEX))
            ids = pq.read_table(folder / _IDS).column("id").combine_chunks()
        except (RuntimeError, OSError, KeyError, pa.ArrowInvalid) as error:
            raise CheckpointError(f"{folder} cannot be read: {error}") from error
        dimension, count = manifest["dimension"], manifest["count"]
        stored = dimension + bool(_GRAPHS.search(manifest["factory"]))
        # FAISS may read a type back as a subclass of the one that was written.
        types = [kind.__name__ for kind in type(faiss.downcast_index(index)).__mro__]
        found = (index.d, index.ntotal, len(ids))
        if manifest["type"] not in types or found != (stored, count, count):
            raise CheckpointError(
                f"{folder} does not hold what its {_MANIFEST} says: found {types[0]} of "
                f"{found[1]} vectors and {found[2]} ids with {found[0]} components. Build it again."
            )
        return cls(index, ids, manifest["factory"], dimension)

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
            settings: how thoroughly to search.
            allowed_N: true where a row may be returned; None: everywhere.
            excluded: for each query the rows that it must not get, end to end, and Q + 1 bounds.
                The index is asked for as many rows more.

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
        scores_QK = np.full((num_queries, width), -np.inf, np.float32)
        rows_QK = np.full((num_queries, width), -1, np.int64)
        counts_Q = np.zeros(num_queries, np.int64) if excluded is None else np.diff(excluded[1])
        # Queries that need about the same number of rows go together.
        order_Q = np.argsort(counts_Q, kind="stable")
        for start in range(0, num_queries, _QUERIES_AT_ONCE):
            chunk = order_Q[start : start + _QUERIES_AT_ONCE]
            fetched = min(width + int(counts_Q[chunk].max()), len(self))
            scores, rows = self._search(queries_QD[chunk], fetched, settings, allowed_N)
            if excluded is not None:
                scores, rows = _without(scores, rows, chunk, *excluded, num_rows=len(self))
            scores_QK[chunk], rows_QK[chunk] = scores[:, :width], rows[:, :width]
        return scores_QK, rows_QK

    def _search(
        self,
        queries_QD: np.ndarray,
        k: int,
        settings: SearchSettings,
        allowed_N: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        faiss = _faiss()
        if self._index.d > self.dimension:  # the component that completed added
            queries_QD = np.pad(queries_QD, ((0, 0), (0, 1)))
        selector = None
        if allowed_N is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))
        unused = {name for name, value in vars(settings).items() if value is not None}
        parameters = search_parameters(faiss, self._index, k, settings, selector, unused)
        if unused:
            name = min(unused)
            raise ConfigError(f"{name} cannot act on an index '{self.factory}'. Leave it out.")
        try:
            scores_QK, rows_QK = self._index.search(
                np.ascontiguousarray(queries_QD), k, params=parameters
            )
        except RuntimeError as error:
            if selector is None:
                raise
            raise ConfigError(
                f"an index '{self.factory}' cannot leave items out while it searches. Choose a "
                "Flat, HNSW or IVF index, or recommend without an index."
            ) from error
        scores_QK[rows_QK < 0] = -np.inf
        return scores_QK, rows_QK


def _faiss() -> ModuleType:
    """Import FAISS, or say what to install."""
    check_faiss_distributions()
    try:
        import faiss
    except ImportError as error:
        raise missing_faiss() from error
    module: ModuleType = faiss
    return module


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


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no index (no {_MANIFEST}). Build one with rec_index, or recommend "
            "without an index."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}. Build the index again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of format {FORMAT}. Build the index again.")
    return manifest


def _without(
    scores_QK: np.ndarray,
    rows_QK: np.ndarray,
    queries_Q: np.ndarray,
    excluded_T: np.ndarray,
    offsets: np.ndarray,
    *,
    num_rows: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Take the excluded rows out of each query's result; what follows moves up."""
    lengths_Q = np.diff(offsets)[queries_Q]
    starts_Q = np.cumsum(lengths_Q) - lengths_Q
    places_T = np.repeat(offsets[queries_Q] - starts_Q, lengths_Q) + np.arange(lengths_Q.sum())
    pairs_T = np.repeat(np.arange(len(queries_Q)), lengths_Q) * num_rows + excluded_T[places_T]
    pairs_QK = np.arange(len(queries_Q))[:, None] * num_rows + rows_QK
    is_gone_QK = np.isin(pairs_QK, pairs_T) | (rows_QK < 0)
    scores_QK = np.where(is_gone_QK, -np.inf, scores_QK).astype(np.float32)
    rows_QK = np.where(is_gone_QK, -1, rows_QK)
    order_QK = np.argsort(is_gone_QK, axis=1, kind="stable")
    return np.take_along_axis(scores_QK, order_QK, 1), np.take_along_axis(rows_QK, order_QK, 1)
