"""Exact search by matrix products: the same answers as a Flat index, and any filter."""

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

_SCORES_AT_ONCE = 2**26  # 256 MiB


class ExactIndex:
    """Vectors that are searched by inner product, all of them, on the device where they are.

    Args:
        vectors_ND: one vector a row.
    """

    def __init__(self, vectors_ND: Float32[Tensor, "N D"]) -> None:
        self._vectors_ND = vectors_ND

    def __len__(self) -> int:
        """Return N, the number of vectors."""
        return len(self._vectors_ND)

    def vectors(self, rows: Int64[np.ndarray, "Q"]) -> Float32[np.ndarray, "Q D"]:
        """Return the vectors in the given rows."""
        return self._vectors_ND[self._on_device(rows)].cpu().numpy()

    @torch.no_grad()
    def scores(self, queries_QD: Float32[np.ndarray, "Q D"]) -> Float32[np.ndarray, "Q N"]:
        """Return the inner products of each query with all vectors."""
        return (self._on_device(queries_QD) @ self._vectors_ND.T).cpu().numpy()

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
            allowed_N: true where a row may be returned; None: everywhere. Only these are scored.
            excluded: for each query the rows that it must not get, end to end, and Q + 1 bounds.

        Returns:
            Scores and rows [Q, min(k, N)]; -inf and -1 where fewer were left.
        """
        width = min(k, len(self))
        scores_QK = np.full((len(queries_QD), width), -np.inf, np.float32)
        rows_QK = np.full((len(queries_QD), width), -1, np.int64)
        candidates = np.arange(len(self)) if allowed_N is None else np.flatnonzero(allowed_N)
        if len(candidates) == 0:
            return scores_QK, rows_QK
        vectors = self._vectors_ND
        if allowed_N is not None:
            vectors = vectors[self._on_device(candidates)]
        found = min(width, len(candidates))
        step = max(1, _SCORES_AT_ONCE // len(candidates))
        for start in range(0, len(queries_QD), step):
            chunk = slice(start, start + step)
            scores = self._on_device(queries_QD[chunk]) @ vectors.T
            if excluded is not None:
                offsets = excluded[1][start : start + step + 1]
                _exclude(scores, excluded[0][offsets[0] : offsets[-1]], offsets, candidates)
            best, places = (tensor.cpu().numpy() for tensor in scores.topk(found, dim=1))
            scores_QK[chunk, :found] = best
            rows_QK[chunk, :found] = np.where(np.isneginf(best), -1, candidates[places])
        return scores_QK, rows_QK

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._vectors_ND.device)


def _exclude(
    scores: Tensor, excluded_T: np.ndarray, offsets: np.ndarray, candidates: np.ndarray
) -> None:
    """Set the scores of each query's excluded rows to -inf, in place."""
    queries_T = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    places_T = np.searchsorted(candidates, excluded_T).clip(max=len(candidates) - 1)
    is_candidate_T = candidates[places_T] == excluded_T
    queries = torch.from_numpy(queries_T[is_candidate_T]).to(scores.device)
    places = torch.from_numpy(places_T[is_candidate_T]).to(scores.device)
    scores[queries, places] = -torch.inf
