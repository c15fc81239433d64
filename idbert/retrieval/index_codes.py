"""Codes of 4 bits in cells: what of a vector they keep, so that the best are told apart."""

from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32

_SAMPLE = 100_000
_LEFT_OUT = 0.0005
"""Share of a component's values beyond the lowest level, and beyond the highest."""

_FEW = 8
"""Queries that are faster one by one."""
_AS_FAISS_CHOOSES, _ONE_BY_ONE = 0, 10
"""FAISS's numbers of ways to scan fast codes; they find the same, but for ties of its codes."""


def code_differences(faiss: ModuleType, index: Any) -> None:
    """Let an untrained index of cells and fast 4-bit codes keep differences from a cell's centre.

    For inner products FAISS keeps whole vectors, which the same bits tell less exactly. Any other
    index is left as it is.
    """
    cells = fast_cells(faiss, index)
    if cells is not None:
        cells.by_residual = True


def level_codes(faiss: ModuleType, index: Any, stored_ND: Float32[np.ndarray, "N D"]) -> None:
    """Give a trained, empty index of one 4-bit code a component equally spaced levels.

    FAISS places the 16 levels where most values lie. The best items of a query are those with
    extreme values, which all got the outermost level and could not be told apart: of 1,000,000
    vectors of 64 components in 256 of 4,096 cells, 50 candidates then held 0.882 of the best 10;
    with differences from centres and equally spaced levels 0.982, as many as the cells did. Where a
    code stands for several components, or there are none, nothing changes.

    Args:
        faiss: the module.
        index: trained, of any type.
        stored_ND: the vectors that it was trained on.
    """
    cells = fast_cells(faiss, index)
    if cells is None or cells.pq.dsub != 1:
        return
    rows = np.random.default_rng(0).permutation(len(stored_ND))[:_SAMPLE]
    sample_SD = _before_cells(faiss, index, np.ascontiguousarray(stored_ND[np.sort(rows)]))
    _, nearest = cells.quantizer.search(sample_SD, 1)
    differences_SD = sample_SD - cells.quantizer.reconstruct_batch(nearest[:, 0])
    low_D, high_D = np.quantile(differences_SD, (_LEFT_OUT, 1 - _LEFT_OUT), axis=0)
    steps = np.linspace(0, 1, cells.pq.ksub)
    levels = low_D[:, None] + (high_D - low_D)[:, None] * steps
    faiss.copy_array_to_vector(levels.astype(np.float32).ravel(), cells.pq.centroids)


def scan_for(cells: Any, num_queries: int) -> None:
    """Let cells of fast codes be scanned in the way that is faster for so many queries.

    FAISS scans a cell once for all queries that ask for it, and to sort that out takes longer than
    it saves where there are few: of 1,000,000 vectors, 304 of 4,096 cells, 0.73 ms of a processor
    for one query by FAISS's choice and 0.56 one by one, 0.29 and 0.36 for each of 256; the rows of
    1,000 queries were the same. Another thread that chooses meanwhile changes the time alone.

    Args:
        cells: of `fast_cells`.
        num_queries: of the search that follows.
    """
    cells.implem = _ONE_BY_ONE if num_queries <= _FEW else _AS_FAISS_CHOOSES


def fast_cells(faiss: ModuleType, index: Any) -> Any:
    """Return the part of an index that holds cells of fast 4-bit codes; None: it has none."""
    try:
        cells = faiss.downcast_index(faiss.extract_index_ivf(index))
    except RuntimeError:
        return None
    return cells if isinstance(cells, faiss.IndexIVFPQFastScan) else None


def _before_cells(faiss: ModuleType, index: Any, vectors_ND: np.ndarray) -> np.ndarray:
    """Return vectors as the cells get them: through all transforms of the index."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return _before_cells(faiss, index.base_index, vectors_ND)
    if isinstance(index, faiss.IndexPreTransform):
        for place in range(index.chain.size()):
            vectors_ND = faiss.downcast_VectorTransform(index.chain.at(place)).apply(vectors_ND)
        return _before_cells(faiss, index.index, vectors_ND)
    return vectors_ND
