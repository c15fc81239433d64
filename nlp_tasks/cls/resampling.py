"""How far a figure would move with other rows, and by how much one run is better than another.

A metric of the whole is computed from sums over rows (hits, decisions, products), so that a draw of
rows costs one sum and F1 or a correlation needs no mean of rows to stand for it.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Shaped
from scipy import sparse

from idbert.errors import ConfigError, DataError, suggestion
from idbert.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Interval,
    PairedDifference,
    percentile_interval,
    resampled_means,
)
from nlp_tasks.cls.metrics import METRICS_OF, Predictions, class_arrays

NOT_RESAMPLED = ("map", "spearman")
"""They need a ranking of every draw."""


def metric_interval(
    metric: str,
    predictions: Predictions,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of a metric; the arguments are as in `paired_rows`.

    Raises:
        ConfigError: the metric is unknown, or cannot be resampled this way.
    """
    _check(metric, predictions)
    sums = _row_sums(metric, predictions)
    drawn = _metric_of(metric)(resampled_means(sums, resamples, seed))
    return percentile_interval(drawn, level)


def paired_rows(
    metric: str,
    a: Predictions,
    b: Predictions,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> PairedDifference:
    """Return how much the metric of `a` is above that of `b`, with its bootstrap interval.

    Rows are drawn with replacement, the same for both, and the metric of each draw is computed.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.

    Args:
        metric: one of METRICS_OF but NOT_RESAMPLED.
        a: what one run predicted.
        b: what another predicted of the same rows in the same order.
        resamples: draws of N rows.
        level: share of the resampled differences inside the interval.
        seed: the same seed draws the same rows.

    Raises:
        ConfigError: the metric is unknown, or cannot be resampled this way.
        DataError: the two are of other rows or labels.
    """
    if a.labels != b.labels or not np.array_equal(a.targets, b.targets):
        raise DataError(
            "the two runs cannot be paired: their rows or labels differ. Test both on one file."
        )
    _check(metric, a)
    metric_of = _metric_of(metric)
    sums = [_row_sums(metric, predictions) for predictions in (a, b)]
    stacked = (
        sparse.hstack(sums, format="csr")
        if sparse.issparse(sums[0])
        else np.concatenate(sums, axis=1)
    )

    def difference(means: Float64[np.ndarray, "_ _"]) -> Float64[np.ndarray, "_"]:
        means_a, means_b = np.split(means, 2, axis=1)
        between: np.ndarray = metric_of(means_a) - metric_of(means_b)
        return between

    whole = difference(np.asarray(stacked.mean(axis=0)).reshape(1, -1))
    drawn = difference(resampled_means(stacked, resamples, seed))
    return PairedDifference(float(whole[0]), *percentile_interval(drawn, level))


def _check(metric: str, predictions: Predictions) -> None:
    kind = predictions.labels.kind
    known = [name for name in METRICS_OF[kind] if name not in NOT_RESAMPLED]
    if metric not in known:
        raise ConfigError(
            f"metric '{metric}' cannot be resampled; labels of kind {kind} have "
            f"{', '.join(known)}.{suggestion(metric, known)}"
        )


def _row_sums(
    metric: str, predictions: Predictions
) -> Float64[np.ndarray, "N _"] | sparse.csr_array:
    """Return what each row adds to the sums that a metric is computed from, [N, sums].

    Sparse for F1, to which a row adds at most two numbers a label that it has or is given.
    """
    targets, decisions = predictions.targets, predictions.decisions
    if metric in ("accuracy", "subset_accuracy"):
        correct = targets == decisions
        return np.asarray(correct.reshape(len(correct), -1).all(axis=1)[:, None], np.float64)
    if metric in ("macro_f1", "micro_f1"):
        borne, given = (
            _label_matrix(classes, predictions.labels.num_outputs)
            for classes in class_arrays(predictions)
        )
        return sparse.hstack([borne * given, borne + given], format="csr")
    x, y = decisions.astype(np.float64), targets.astype(np.float64)
    if metric == "pearson":
        x, y = standardised(x), standardised(y)  # or squares of large numbers drown differences
        return np.stack([x, y, x * x, y * y, x * y], axis=1)
    errors = np.abs(x - y)[:, None]
    return errors**2 if metric == "mse" else errors


def _label_matrix(classes: Shaped[np.ndarray, "N ..."], num_classes: int) -> sparse.csr_array:
    """Return 1 where a row has a label: [N, C], of classes [N] or of ones and zeros [N, C]."""
    if classes.ndim == 2:
        return sparse.csr_array((classes > 0).astype(np.float64))
    places = np.arange(len(classes))
    shape = (len(classes), num_classes)
    return sparse.csr_array((np.ones(len(classes)), (places, classes)), shape=shape)


def standardised(values_N: Shaped[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    """Return values with mean 0 and, unless they are all the same, standard deviation 1."""
    deviations_N: np.ndarray = values_N.astype(np.float64) - values_N.mean(dtype=np.float64)
    return deviations_N / (deviations_N.std() or 1)


def _macro_f1(means: np.ndarray) -> np.ndarray:
    hits, either = np.split(means, 2, axis=1)
    occurs = either > 0
    f1 = np.divide(2 * hits, either, out=np.zeros_like(hits), where=occurs)
    result: np.ndarray = f1.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)
    return result


def _micro_f1(means: np.ndarray) -> np.ndarray:
    hits, either = np.split(means, 2, axis=1)
    total = either.sum(axis=1)
    f1: np.ndarray = np.divide(2 * hits.sum(axis=1), total, np.zeros_like(total), where=total > 0)
    return f1


def _pearson(means: np.ndarray) -> np.ndarray:
    x, y, xx, yy, xy = means.T
    spread = np.sqrt(np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0))
    r: np.ndarray = np.divide(xy - x * y, spread, np.zeros_like(spread), where=spread > 1e-12)
    return r


def _metric_of(metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return what computes a metric from the means of its row sums, draw by draw."""
    return _FROM_MEANS.get(metric, lambda means: means[:, 0])


_FROM_MEANS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "pearson": _pearson,
}
