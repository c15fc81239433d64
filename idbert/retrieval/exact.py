"""Exact search by matrix products: the same answers as a Flat index, and any filter."""

from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from idbert.errors import ConfigError

TablePrecision: TypeAlias = Literal["float32", "bfloat16"]
"""In which numbers vectors are kept and multiplied."""

_SCORES_AT_ONCE = 2**24  # 64 MiB
_BLOCK = 64
_SPARE = 32
"""Rows beyond those wanted that bfloat16 scores propose, to be scored again."""


class ExactIndex:
    """Vectors that are searched by inner product, all of them, on the device where they are.

    In bfloat16 the table takes half the memory and the product a quarter of the time on a processor
    that has bfloat16; the vectors are rounded to 8 bits behind the point, so that a few neighbours
    change places. What is found is then scored again in float32, by the rounded vectors.

    Args:
        vectors_ND: one vector a row.
        table_precision: in which numbers vectors are kept and multiplied.

    Raises:
        ConfigError: there is no such precision.
    """

    def __init__(
        self, vectors_ND: Float32[Tensor, "N D"], table_precision: TablePrecision = "float32"
    ) -> None:
        if table_precision not in ("float32", "bfloat16"):
            raise ConfigError(
                f"table_precision is '{table_precision}'; it must be float32 or bfloat16. For 8 "
                "bits a component build an index with factory SQ8."
            )
        self.table_precision = table_precision
        self._vectors_ND: Float[Tensor, "N D"] = vectors_ND
        if table_precision == "bfloat16":
            self._vectors_ND = vectors_ND.bfloat16()

    def __len__(self) -> int:
        """Return N, the number of vectors."""
        return len(self._vectors_ND)

    def vectors(self, rows: Int64[np.ndarray, "Q"]) -> Float32[np.ndarray, "Q D"]:
        """Return the vectors in the given rows."""
        return self._vectors_ND[self._on_device(rows)].float().cpu().numpy()

    @torch.no_grad()
    def scores(self, queries_QD: Float32[np.ndarray, "Q D"]) -> Float32[np.ndarray, "Q N"]:
        """Return the inner products of each query with all vectors."""
        queries = self._on_device(queries_QD).to(self._vectors_ND.dtype)
        return (queries @ self._vectors_ND.T).float().cpu().numpy()

    @torch.no_grad()
    def search(
        self,
        queries_QD: Float32[np.ndarray, "Q D"],
        k: int,
        *,
        allowed_N: Bool[np.ndarray, "N"] | None = None,
        excluded: tuple[Int64[np.ndarray, "T"], Int64[np.ndarray, "_"]] | None = None,
    ) -> tuple[Float32[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
        """Return the rows with the largest inner products to each query, best first.

        Args:
            queries_QD: one query a row.
            k: rows wanted; at most N are returned.
            allowed_N: true where a row may be returned; None: everywhere.
            excluded: for each query the rows that it must not get, end to end, and Q + 1 bounds.

        Returns:
            Scores and rows [Q, min(k, N)]; -inf and -1 where fewer were left.
        """
        width = min(k, len(self))
        scores_QK = np.full((len(queries_QD), width), -np.inf, np.float32)
        rows_QK = np.full((len(queries_QD), width), -1, np.int64)
        candidates = forbidden = None
        if allowed_N is not None:
            if 2 * np.count_nonzero(allowed_N) > len(self):  # to copy the rest would cost more
                forbidden = self._on_device(np.flatnonzero(~allowed_N))
            else:
                candidates = np.flatnonzero(allowed_N)
        count = len(self) if candidates is None else len(candidates)
        if count == 0 or len(queries_QD) == 0:
            return scores_QK, rows_QK
        vectors = self._vectors_ND
        if candidates is not None:
            vectors = vectors[self._on_device(candidates)]
        found = min(width, count)
        step = max(1, min(len(queries_QD), _SCORES_AT_ONCE // count))
        # One buffer for all chunks: to be given fresh memory costs as much as the product.
        products = torch.empty(step, count, dtype=vectors.dtype, device=vectors.device)
        is_rounded = self.table_precision != "float32"
        buffer = torch.empty(step, count, device=vectors.device) if is_rounded else products
        for start in range(0, len(queries_QD), step):
            chunk = slice(start, start + step)
            queries = self._on_device(queries_QD[chunk])
            rows_in = slice(len(queries))
            torch.mm(queries.to(vectors.dtype), vectors.T, out=products[rows_in])
            scores = buffer[rows_in].copy_(products[rows_in]) if is_rounded else products[rows_in]
            if forbidden is not None:
                scores[:, forbidden] = -torch.inf
            if excluded is not None:
                offsets = excluded[1][start : start + step + 1]
                _exclude(scores, excluded[0][offsets[0] : offsets[-1]], offsets, candidates)
            if is_rounded:
                best, places = _scored_again(queries, vectors, scores, found)
            else:
                best, places = best_of_rows(scores, found)
            scores_QK[chunk, :found] = best.cpu().numpy()
            rows = places.cpu().numpy()
            rows = rows if candidates is None else candidates[rows]
            rows_QK[chunk, :found] = np.where(np.isneginf(scores_QK[chunk, :found]), -1, rows)
        return scores_QK, rows_QK

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._vectors_ND.device)


def best_of_rows(
    scores_QN: Float32[Tensor, "Q N"], k: int
) -> tuple[Float32[Tensor, "Q K"], Int64[Tensor, "Q K"]]:
    """Return the k largest scores of each row, and their places; as torch.topk, but faster.

    The k largest lie in the k blocks whose maxima are largest. Finding maxima reads each score
    once, at the speed of memory; only k blocks are then sorted. At 1M scores a row that took a
    fifth of the time of topk.
    """
    queries, count = scores_QN.shape
    blocks = count // _BLOCK
    if blocks < 2 * k or scores_QN.device.type != "cpu":
        best = scores_QN.topk(k, dim=1)
        return best.values, best.indices
    whole = scores_QN[:, : blocks * _BLOCK].view(queries, blocks, _BLOCK)
    chosen_QK = whole.amax(dim=2).topk(k, dim=1).indices
    places = (chosen_QK[:, :, None] * _BLOCK + torch.arange(_BLOCK)).flatten(1)
    rest = torch.arange(blocks * _BLOCK, count).expand(queries, -1)
    places = torch.cat([places, rest], dim=1)
    best = scores_QN.gather(1, places).topk(k, dim=1)
    return best.values, places.gather(1, best.indices)


def _scored_again(
    queries: Tensor, vectors: Tensor, scores: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Choose somewhat more than k rows by rounded scores, then order them by exact products."""
    rounded, places = best_of_rows(scores, min(k + _SPARE, vectors.shape[0]))
    exact = torch.einsum("qd,qcd->qc", queries, vectors[places].float())
    best = exact.masked_fill(torch.isneginf(rounded), -torch.inf).topk(k, dim=1)
    return best.values, places.gather(1, best.indices)


def _exclude(
    scores: Tensor, excluded_T: np.ndarray, offsets: np.ndarray, candidates: np.ndarray | None
) -> None:
    """Set the scores of each query's excluded rows to -inf, in place.

    Args:
        scores: of some queries, one column a candidate.
        excluded_T: rows, end to end.
        offsets: bounds of each query's.
        candidates: the rows that the columns stand for, ascending; None: all.
    """
    queries_T, places_T = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)), excluded_T
    if candidates is not None:
        places_T = np.searchsorted(candidates, excluded_T).clip(max=len(candidates) - 1)
        is_candidate_T = candidates[places_T] == excluded_T
        queries_T, places_T = queries_T[is_candidate_T], places_T[is_candidate_T]
    queries = torch.from_numpy(queries_T).to(scores.device)
    scores[queries, torch.from_numpy(places_T).to(scores.device)] = -torch.inf
