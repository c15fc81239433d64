"""How far a figure of pairs would move with other pairs, and by how much one run is better.

A draw of N pairs with replacement is a count of each pair. Ranks of a draw need no sorting: a
value's mean rank in it is the number of smaller values drawn, and half of those equal to it, so
that a thousand draws of a correlation of ranks cost a thousand sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Shaped

from idbert.errors import ConfigError, DataError, suggestion
from idbert.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Interval,
    PairedDifference,
    drawn_counts,
    percentile_interval,
)
from nlp_tasks.cls.resampling import standardised
from nlp_tasks.match.metrics import Thresholds, best_thresholds, thresholds_of
from nlp_tasks.match.pairs import PairKind

RESAMPLED: dict[PairKind, tuple[str, ...]] = {
    "score": ("spearman", "pearson"),
    "binary": ("auc", "accuracy", "f1"),
    "class": ("accuracy",),
    "none": (),
}
"""Metrics that have an interval; precision, recall and macro F1 stand beside one that has."""
CHUNK_BYTES = 16 * 2**20
NO_SPREAD = 1e-12


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """What a run says of labelled pairs.

    Attributes:
        scores: one a pair; of kind "class" one a pair and class.
        targets: as PairExamples has them.
        kind: of the targets.
        threshold: of kind "binary", for accuracy and F1; None: the best for these pairs.
        names: of the classes.
    """

    scores: Float[np.ndarray, "N ..."]
    targets: Shaped[np.ndarray, "N"]
    kind: PairKind
    threshold: float | Thresholds | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.targets)

    @property
    def thresholds(self) -> dict[str, float]:
        """The threshold of each metric that needs one."""
        if self.threshold is None:
            return best_thresholds(self.scores, self.targets)
        return thresholds_of(self.threshold)


def similarity_interval(
    metric: str,
    pairs: ScoredPairs,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of a metric of RESAMPLED.

    The threshold of accuracy and F1 stays where it is. The other arguments are as in
    `paired_similarity`.

    Raises:
        ConfigError: the metric is unknown or has no interval, or a number is out of range.
    """
    draws = [_figures(metric, [pairs], counts)[0] for counts in _draws(pairs, resamples, seed)]
    return percentile_interval(np.concatenate(draws), level)


def paired_similarity(
    metric: str,
    a: ScoredPairs,
    b: ScoredPairs,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> PairedDifference:
    """Return how much the metric of `a` is above that of `b`, with its bootstrap interval.

    Pairs are drawn with replacement, the same for both, and the metric of each draw is computed.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.

    Args:
        metric: one of RESAMPLED.
        a: what one run says of pairs.
        b: what another says of the same pairs in the same order.
        resamples: draws of N pairs.
        level: share of the resampled differences inside the interval.
        seed: the same seed draws the same pairs.

    Raises:
        ConfigError: the metric is unknown or has no interval, or a number is out of range.
        DataError: the two are of other pairs.
    """
    if a.kind != b.kind or not np.array_equal(a.targets, b.targets):
        raise DataError(
            "the two runs cannot be paired: their pairs or labels differ. Test both on one file."
        )
    whole = [values[0] for values in _figures(metric, [a, b], np.ones((1, len(a))))]
    drawn = []
    for counts_RN in _draws(a, resamples, seed):
        of_a, of_b = _figures(metric, [a, b], counts_RN)
        drawn.append(of_a - of_b)
    bounds = percentile_interval(np.concatenate(drawn), level)
    return PairedDifference(float(whole[0] - whole[1]), *bounds)


def paired_spearman(
    scores_a: Float[np.ndarray, "N"],
    scores_b: Float[np.ndarray, "N"],
    targets: Shaped[np.ndarray, "N"],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> PairedDifference:
    """Return how much Spearman's correlation of `scores_a` with the targets is above the other's.

    See `paired_similarity`.
    """
    a, b = ScoredPairs(scores_a, targets, "score"), ScoredPairs(scores_b, targets, "score")
    return paired_similarity("spearman", a, b, resamples=resamples, level=level, seed=seed)


def _draws(pairs: ScoredPairs, resamples: int, seed: int) -> Iterator[Float64[np.ndarray, "_ N"]]:
    """Yield how often each pair was drawn, in chunks of draws."""
    if len(pairs) == 0:
        raise DataError("there are no pairs to resample. Give at least one.")
    for counts in drawn_counts(len(pairs), resamples, seed, chunk_bytes=CHUNK_BYTES):
        yield counts.astype(np.float64)


def _figures(metric: str, runs: list[ScoredPairs], counts_RN: np.ndarray) -> list[np.ndarray]:
    """Return a metric of each run for each draw."""
    pairs = runs[0]
    if metric not in RESAMPLED[pairs.kind]:
        known = RESAMPLED[pairs.kind]
        raise ConfigError(
            f"metric '{metric}' cannot be resampled; pairs of kind {pairs.kind} have "
            f"{', '.join(known) or 'none'}.{suggestion(metric, known)}"
        )
    if metric == "spearman":
        target_ranks_RN = _ranks(pairs.targets, counts_RN)
        return [_pearson(_ranks(run.scores, counts_RN), target_ranks_RN, counts_RN) for run in runs]
    if metric == "pearson":
        targets_N = standardised(pairs.targets)
        return [_pearson(standardised(run.scores), targets_N, counts_RN) for run in runs]
    if metric == "auc":
        return [_auc(run, counts_RN) for run in runs]
    return [_of_decisions(metric, run, counts_RN) for run in runs]


def _ranks(values_N: np.ndarray, counts_RN: np.ndarray) -> np.ndarray:
    """Return the mean rank, from 1, of each value among those drawn."""
    _, place_N = np.unique(values_N, return_inverse=True)
    order = np.argsort(place_N, kind="stable")
    starts = np.flatnonzero(np.diff(place_N[order], prepend=-1))
    equal_RV = np.add.reduceat(counts_RN[:, order], starts, axis=1)
    ranks_RV = np.cumsum(equal_RV, axis=1) - (equal_RV - 1) / 2
    ranks_RN: np.ndarray = ranks_RV[:, place_N]
    return ranks_RN


def _pearson(x: np.ndarray, y: np.ndarray, counts_RN: np.ndarray) -> np.ndarray:
    """Return the correlation of x and y, [N] or [R, N], for each draw; 0 where one is constant."""
    total = counts_RN.sum(axis=1, keepdims=True)
    x = x - (counts_RN * x).sum(axis=1, keepdims=True) / total
    y = y - (counts_RN * y).sum(axis=1, keepdims=True) / total
    spread = np.sqrt((counts_RN * x * x).sum(axis=1) * (counts_RN * y * y).sum(axis=1))
    products = (counts_RN * x * y).sum(axis=1)
    there = spread > NO_SPREAD * total[:, 0]
    r: np.ndarray = np.divide(products, spread, np.zeros_like(spread), where=there)
    return r


def _auc(run: ScoredPairs, counts_RN: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve; 0.5 where a draw has only one label."""
    positive_RN = counts_RN * (run.targets == 1)
    positives = positive_RN.sum(axis=1)
    negatives = counts_RN.sum(axis=1) - positives
    above = (positive_RN * _ranks(run.scores, counts_RN)).sum(axis=1)
    above -= positives * (positives + 1) / 2
    pairs = positives * negatives
    area: np.ndarray = np.divide(above, pairs, np.full_like(above, 0.5), where=pairs > 0)
    return area


def _of_decisions(metric: str, run: ScoredPairs, counts_RN: np.ndarray) -> np.ndarray:
    """Return accuracy or F1 at the run's thresholds."""
    if run.kind == "class":
        right = (run.scores.argmax(axis=1) == run.targets).astype(np.float64)
        return counts_RN @ right / counts_RN.sum(axis=1)
    called = run.scores.astype(np.float64) >= run.thresholds[metric]
    positive = run.targets == 1
    if metric == "accuracy":
        return counts_RN @ (called == positive).astype(np.float64) / counts_RN.sum(axis=1)
    hits = counts_RN @ (called & positive).astype(np.float64)
    either = counts_RN @ (called.astype(np.float64) + positive)
    f1: np.ndarray = np.divide(2 * hits, either, np.zeros_like(hits), where=either > 0)
    return f1
