"""Rows that single queries must not get, taken out of what an index found."""

import numpy as np
from jaxtyping import Int64


def without(
    scores_QK: np.ndarray,
    rows_QK: np.ndarray,
    queries_Q: np.ndarray,
    excluded_T: np.ndarray,
    offsets: np.ndarray,
    *,
    num_rows: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Take the excluded rows out of each query's result; what follows moves up.

    Args:
        scores_QK: of the rows that were found.
        rows_QK: the rows that were found; -1: none.
        queries_Q: places of these queries among those that `offsets` bounds.
        excluded_T: rows that a query must not get, of all queries, end to end.
        offsets: where each query's begin, and where the last ones end.
        num_rows: N, rows of the index.

    Returns:
        Scores and rows as they came; -inf and -1 behind those that are left.
    """
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


def distinct_counts(
    excluded_T: Int64[np.ndarray, "T"], offsets: Int64[np.ndarray, "_"]
) -> Int64[np.ndarray, "Q"]:
    """Return how many different rows each query must not get.

    Args:
        excluded_T: rows that a query must not get, of all queries, end to end; some come twice.
        offsets: where each query's begin, and where the last ones end.
    """
    queries_T = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order_T = np.lexsort((excluded_T, queries_T))
    rows_T, queries_T = excluded_T[order_T], queries_T[order_T]
    is_first_T = np.ones(len(rows_T), dtype=bool)
    is_first_T[1:] = (rows_T[1:] != rows_T[:-1]) | (queries_T[1:] != queries_T[:-1])
    return np.bincount(queries_T[is_first_T], minlength=len(offsets) - 1)
