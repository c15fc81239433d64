"""Figures of matching: how well scores of pairs agree with what is true of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Integer, Shaped
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from idbert.errors import ConfigError, DataError, ShapeError
from nlp_tasks.match.pairs import PairExamples, PairKind

METRICS_OF: dict[PairKind, tuple[str, ...]] = {
    "score": ("spearman", "pearson"),
    "binary": ("auc", "average_precision", "accuracy", "f1", "precision", "recall"),
    "class": ("accuracy", "macro_f1"),
    "none": (),
}
"""What `similarity_metrics` reports for pairs of each kind, thresholds aside."""

DEFAULT_METRIC: dict[PairKind, str] = {
    "score": "spearman",
    "binary": "auc",
    "class": "accuracy",
    "none": "mrr",
}
"""The metric that decides which weights are best, unless another is named."""

RECALL_AT = (1, 10, 50)

Thresholds = Mapping[str, float]
"""The threshold of each metric that needs one, "accuracy" and "f1"; from `best_thresholds`."""


def similarity_metrics(
    scores: Float[np.ndarray, "N ..."],
    targets: Shaped[np.ndarray, "N"],
    kind: PairKind,
    threshold: float | Thresholds | None = None,
) -> dict[str, float]:
    """Return the figures of METRICS_OF, all as shares of 1.

    score: Spearman's and Pearson's correlation, 0 where a side is constant.
    binary: area under the ROC curve (0.5 if there is only one label) and average precision, which
    need no threshold; accuracy, and F1 with its precision and recall, of the pairs that are called
    the same where score >= threshold; and the thresholds themselves, as accuracy_threshold and
    f1_threshold.
    class: accuracy, and the mean of the classes' F1 (of those that occur or were predicted).

    Args:
        scores: one a pair; of kind "class" one a pair and class.
        targets: as PairExamples has them.
        kind: of the targets.
        threshold: of kind "binary": one for all, or those of `best_thresholds` of other rows;
            None: the best for these rows, which flatters where they are not the ones to tune on.

    Raises:
        ConfigError: pairs without labels, or a threshold where none is needed.
        DataError: there are no pairs, or a score is not finite.
        ShapeError: scores and targets do not fit.
    """
    _check(scores, targets, kind)
    if threshold is not None and kind != "binary":
        raise ConfigError(f"a threshold cannot act on pairs of kind {kind}. Leave it out.")
    if kind == "score":
        return {
            "spearman": _correlation(stats.spearmanr, scores, targets),
            "pearson": _correlation(stats.pearsonr, scores, targets),
        }
    if kind == "class":
        decisions = scores.argmax(axis=1)
        return {
            "accuracy": float(accuracy_score(targets, decisions)),
            "macro_f1": float(f1_score(targets, decisions, average="macro", zero_division=0)),
        }
    if threshold is None:
        threshold = best_thresholds(scores, targets)
    at = thresholds_of(threshold)
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, scores.astype(np.float64) >= at["f1"], average="binary", zero_division=0
    )
    both = 0 < targets.sum() < len(targets)
    return {
        "auc": float(roc_auc_score(targets, scores)) if both else 0.5,
        "average_precision": float(average_precision_score(targets, scores)) if both else 0.0,
        "accuracy": float(np.mean((scores.astype(np.float64) >= at["accuracy"]) == (targets == 1))),
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "accuracy_threshold": at["accuracy"],
        "f1_threshold": at["f1"],
    }


def best_threshold(
    scores: Float[np.ndarray, "N"],
    targets: Integer[np.ndarray, "N"],
    metric: Literal["accuracy", "f1"] = "accuracy",
) -> float:
    """Return the threshold with the best accuracy or F1 where score >= threshold means the same.

    It lies in the middle between two neighbouring scores, or just beyond all of them where nothing
    or everything is best called the same; of several that are equally good it is the highest.

    Raises:
        ConfigError: the metric is unknown.
        DataError: there are no pairs, or a score is not finite.
        ShapeError: scores and targets do not fit.
    """
    if metric not in ("accuracy", "f1"):
        raise ConfigError(f"metric is '{metric}'; a threshold is chosen by accuracy or f1.")
    _check(scores, targets, "binary")
    cuts, values = threshold_curve(scores, targets, metric)
    return float(cuts[np.argmax(values)])


def best_thresholds(
    scores: Float[np.ndarray, "N"], targets: Integer[np.ndarray, "N"]
) -> dict[str, float]:
    """Return the best threshold for each metric that needs one: "accuracy" and "f1"."""
    return {
        "accuracy": best_threshold(scores, targets, "accuracy"),
        "f1": best_threshold(scores, targets, "f1"),
    }


def thresholds_of(threshold: float | Thresholds) -> dict[str, float]:
    """Return a threshold for each metric that needs one, given one for all or each.

    Raises:
        ConfigError: one is missing.
    """
    if not isinstance(threshold, Mapping):
        return {"accuracy": float(threshold), "f1": float(threshold)}
    missing = [name for name in ("accuracy", "f1") if name not in threshold]
    if missing:
        raise ConfigError(f"the threshold for {missing[0]} is missing. Give both, or one number.")
    return {name: float(threshold[name]) for name in ("accuracy", "f1")}


def threshold_curve(
    scores: Float[np.ndarray, "N"],
    targets: Integer[np.ndarray, "N"],
    metric: Literal["accuracy", "f1"],
) -> tuple[Float64[np.ndarray, "_"], Float64[np.ndarray, "_"]]:
    """Return every threshold that divides the scores differently, descending, and its metric.

    Args:
        scores: one a pair.
        targets: 1 where the two texts are the same.
        metric: accuracy or f1.
    """
    order = np.argsort(-scores, kind="stable")
    values = scores[order].astype(np.float64)
    ends = np.append(np.flatnonzero(np.diff(values) != 0), len(values) - 1)
    called = np.concatenate([[0], ends + 1])
    hits = np.concatenate([[0], np.cumsum(targets[order] == 1)[ends]])
    steps = values[ends]
    middles = (steps[:-1] + steps[1:]) / 2
    below = np.nextafter(steps[-1], -np.inf)
    cuts = np.concatenate([[np.nextafter(steps[0], np.inf)], middles, [below]])
    positives = int((targets == 1).sum())
    if metric == "accuracy":
        return cuts, (hits + len(targets) - positives - (called - hits)) / len(targets)
    return cuts, 2 * hits / np.maximum(called + positives, 1)


def retrieval_metrics(
    ranked_QK: Integer[np.ndarray, "Q K"],
    relevant: Sequence[Sequence[int]],
    at: Sequence[int] = RECALL_AT,
) -> dict[str, float]:
    """Return mrr, and recall@k for each k that the ranking is deep enough for.

    mrr is the mean over queries of 1 / rank of the first that is right, 0 where none is found in
    the whole ranking; recall@k the mean share of the right ones that stand among the first k.

    Args:
        ranked_QK: for each query places of texts, best first, none twice; -1 where there are fewer.
        relevant: for each query the places that are right, at least one.
        at: the depths k.

    Raises:
        DataError: there are no queries, or one has nothing that is right.
        ShapeError: there are not as many lists as queries.
        ConfigError: no depth is at most K.
    """
    if len(relevant) != len(ranked_QK):
        raise ShapeError(f"{len(ranked_QK)} rankings, but {len(relevant)} lists of what is right.")
    if len(ranked_QK) == 0:
        raise DataError("there are no queries to evaluate. Give at least one.")
    lists = [sorted(set(one)) for one in relevant]
    counts_Q = np.array([len(one) for one in lists])
    if not counts_Q.all():
        without = np.flatnonzero(counts_Q == 0)
        raise DataError(
            f"{len(without)} of {len(lists)} queries have nothing that is right, the first is "
            f"number {without[0]}. Leave them out."
        )
    depth = ranked_QK.shape[1]
    depths = [k for k in at if k <= depth]
    if not depths:
        raise ConfigError(f"rankings of {depth} give no recall at {', '.join(map(str, at))}.")
    flat_T = np.concatenate([np.array(one, np.int64) for one in lists])
    width = int(max(flat_T.max(), ranked_QK.max(initial=0))) + 1
    right_T = np.repeat(np.arange(len(lists)), counts_Q) * width + flat_T
    keys_QK = np.arange(len(lists))[:, None] * width + ranked_QK
    is_right_QK = np.isin(keys_QK, right_T) & (ranked_QK >= 0)
    first_Q = is_right_QK.argmax(axis=1)
    found_Q = is_right_QK.any(axis=1)
    figures = {"mrr": float(np.mean(np.where(found_Q, 1 / (first_Q + 1), 0)))}
    for k in depths:
        figures[f"recall@{k}"] = float(np.mean(is_right_QK[:, :k].sum(axis=1) / counts_Q))
    return figures


def retrieval_task(
    examples: PairExamples, least: float | int | str | None = None
) -> tuple[list[str], list[str], list[list[int]]]:
    """Make a search of pairs: each first text is to find its second ones among all second texts.

    Args:
        examples: of any kind; those that do not belong together give candidates only.
        least: as in PairExamples.positives.

    Returns:
        Different first texts, different second texts, and for each first the places of its second
        texts.

    Raises:
        DataError: no pair belongs together.
    """
    positives = examples.positives(least)
    if len(positives) == 0:
        raise DataError(f"{examples.source}: no pair belongs together, so none can be searched.")
    candidates = {text: place for place, text in enumerate(dict.fromkeys(examples.seconds))}
    relevant: dict[str, list[int]] = {}
    for first, second in zip(positives.firsts, positives.seconds, strict=True):
        relevant.setdefault(first, []).append(candidates[second])
    return list(relevant), list(candidates), [sorted(set(one)) for one in relevant.values()]


def _check(scores: np.ndarray, targets: np.ndarray, kind: PairKind) -> None:
    if kind not in METRICS_OF or kind == "none":
        raise ConfigError(
            "pairs without labels have no figures of their scores; retrieval_metrics says how well "
            "they are found."
        )
    wanted = 2 if kind == "class" else 1
    if scores.ndim != wanted or len(scores) != len(targets) or targets.ndim != 1:
        raise ShapeError(
            f"scores have shape {scores.shape} and targets {targets.shape}. Give "
            f"{'one score a pair and class' if wanted == 2 else 'one score a pair'}."
        )
    if len(targets) == 0:
        raise DataError("there are no pairs to evaluate. Give at least one.")
    wrong = np.flatnonzero(~np.isfinite(scores.reshape(len(scores), -1)).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(scores)} scores are NaN or infinite, the first in place "
            f"{wrong[0]}: the model diverged. Train again with a lower learning rate."
        )


def _correlation(correlate: Callable[..., Any], x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(correlate(x.astype(np.float64), y.astype(np.float64)).statistic)
