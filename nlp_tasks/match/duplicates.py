"""Near-duplicates: texts that are joined by pairs of almost equal vectors."""

import numpy as np
from jaxtyping import Float32, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from idbert.errors import ConfigError
from nlp_tasks.match.neighbours import score_blocks

_PAIRS_AT_ONCE = 2**22
_ROUNDING = 1e-6
"""By which the cosine of two equal vectors may fall short of 1 in float32."""


def near_duplicates(
    vectors_ND: Float32[np.ndarray, "N D"],
    threshold: float | int = 0.95,
    *,
    cosine: bool = True,
    device: str = "cpu",
    progress: bool = False,
) -> list[Int64[np.ndarray, "_"]]:
    """Return the clusters of vectors that pairs above a threshold join, the largest first.

    Two vectors of a cluster need not be alike themselves: a chain of pairs joins them. All pairs
    are looked at, and at most some 8 million of them are held at a time, however alike all are.

    Args:
        vectors_ND: one a row.
        threshold: the least score of a pair; at a cosine of 1, equal vectors are still found.
        cosine: whether the score is the cosine; else the inner product.
        device: where it is computed.
        progress: show a progress bar on stderr, if that is a terminal.

    Returns:
        The rows of each cluster of two or more, ascending.

    Raises:
        ConfigError: the threshold is no cosine.
        DataError: a vector is not finite.
    """
    if cosine and not -1 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; a cosine is from -1 to 1.")
    least = threshold - _ROUNDING if cosine else threshold
    clusters = _Clusters(len(vectors_ND))
    blocks = score_blocks(vectors_ND, cosine=cosine, upper=True, device=device, progress=progress)
    for rows, first, scores in blocks:
        pairs = (scores >= least).nonzero().cpu().numpy()
        clusters.join(pairs[:, 0] + rows.start, pairs[:, 1] + first)
    labels_N = clusters.labels()
    order_N = np.argsort(labels_N, kind="stable")
    stops = np.flatnonzero(np.diff(labels_N[order_N])) + 1
    groups = [group for group in np.split(order_N, stops) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


class _Clusters:
    """Which of N things are joined, learned pair by pair; holds few pairs at a time."""

    def __init__(self, num: int) -> None:
        self._labels_N = np.arange(num)
        self._pairs: list[np.ndarray] = []
        self._held = 0

    def join(self, firsts: np.ndarray, seconds: np.ndarray) -> None:
        if len(firsts):
            self._pairs.append(np.stack([self._labels_N[firsts], self._labels_N[seconds]]))
            self._held += len(firsts)
        if self._held > _PAIRS_AT_ONCE:
            self._merge()

    def labels(self) -> np.ndarray:
        self._merge()
        return self._labels_N

    def _merge(self) -> None:
        if not self._pairs:
            return
        num = len(self._labels_N)
        pairs = np.concatenate(self._pairs, axis=1)
        graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(num, num))
        joined = connected_components(graph, directed=False)[1]
        self._labels_N = joined[self._labels_N]
        self._pairs, self._held = [], 0
