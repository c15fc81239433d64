"""Figures of classification: how often a run is right, over all rows and for each class."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Shaped
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from idbert.errors import ConfigError, DataError, ShapeError
from nlp_tasks.cls.labels import Kind, LabelMap

MOST_CONFUSED = 256
"""Classes of the largest confusion matrix that is written down: their square is its size."""

METRICS_OF: dict[Kind, tuple[str, ...]] = {
    "single": ("accuracy", "macro_f1", "micro_f1"),
    "multi": ("subset_accuracy", "micro_f1", "macro_f1", "map"),
    "number": ("pearson", "spearman", "mse", "mae"),
}
"""What `classification_metrics` reports for labels of each kind."""

DEFAULT_METRIC: dict[Kind, str] = {
    "single": "accuracy",
    "multi": "micro_f1",
    "number": "spearman",
}
"""The metric that decides which weights are best, unless another is named."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was predicted of labelled rows, beside what is true.

    Attributes:
        labels: what the numbers of the classes stand for.
        targets: Int64[N], Float32[N, C] of ones and zeros, or Float32[N].
        decisions: Int64[N], Bool[N, C] or Float[N].
        probabilities_NC: of every class; None for numbers.
    """

    labels: LabelMap
    targets: Shaped[np.ndarray, "N ..."]
    decisions: Shaped[np.ndarray, "N ..."]
    probabilities_NC: Float[np.ndarray, "N C"] | None = None

    def __post_init__(self) -> None:
        if self.targets.shape != self.decisions.shape:
            raise ShapeError(
                f"targets have shape {self.targets.shape} and decisions {self.decisions.shape}. "
                "Give one decision for every row."
            )
        if len(self.targets) == 0:
            raise DataError("there are no rows to evaluate. Give at least one labelled row.")
        expected = (len(self.targets), self.labels.num_outputs)
        if self.labels.kind == "number":
            if self.probabilities_NC is not None:
                raise ShapeError("numbers have no probabilities. Leave them out.")
        elif self.probabilities_NC is None or self.probabilities_NC.shape != expected:
            shape = getattr(self.probabilities_NC, "shape", None)
            raise ShapeError(
                f"probabilities have shape {shape}. Give {expected}: rows and classes."
            )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.targets)


def classification_metrics(predictions: Predictions) -> dict[str, float]:
    """Return the figures of METRICS_OF, all as shares of 1 but those of numbers.

    single: accuracy; macro_f1, the mean of the classes' F1; micro_f1, which counts over all classes
    and so is the accuracy again where every row has one label.
    multi: subset_accuracy, the share of rows whose labels are all right and none is missing;
    micro_f1 and macro_f1; map, the mean over labels of the average precision.
    number: Pearson's and Spearman's correlation, 0 where a side is constant; mean squared and mean
    absolute error.

    Means over classes leave out those that occur neither among the targets nor among the decisions
    (map: those that no row has), of which nothing is known.
    """
    targets, decisions = predictions.targets, predictions.decisions
    if predictions.labels.kind == "number":
        errors_N = decisions.astype(np.float64) - targets
        return {
            "pearson": _correlation(stats.pearsonr, targets, decisions),
            "spearman": _correlation(stats.spearmanr, targets, decisions),
            "mse": float(np.mean(errors_N**2)),
            "mae": float(np.mean(np.abs(errors_N))),
        }
    several = predictions.labels.kind == "multi"
    if several:
        targets = targets.astype(np.int64)
        decisions = decisions.astype(np.int64)
    classes = _sklearn_classes(predictions)
    figures = {
        "subset_accuracy" if several else "accuracy": accuracy_score(targets, decisions),
        "macro_f1": _f1(targets, decisions, classes, "macro"),
        "micro_f1": _f1(targets, decisions, classes, "micro"),
    }
    if several:
        figures["map"] = _mean_average_precision(targets, predictions.probabilities_NC)
    return {name: float(figures[name]) for name in METRICS_OF[predictions.labels.kind]}


def per_class(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Return precision, recall, f1, support and the number of decisions of every class, by name.

    Support is how many rows have the label, predicted to how many it was given. Where nothing was
    predicted the precision is 0, where nothing was to be found the recall is.

    Raises:
        ConfigError: numbers have no classes.
    """
    targets, decisions = class_arrays(predictions)
    num_classes = predictions.labels.num_outputs
    figures = precision_recall_fscore_support(
        targets, decisions, labels=_sklearn_classes(predictions), average=None, zero_division=0
    )
    predicted = decisions.sum(axis=0) if decisions.ndim == 2 else _counts(decisions, num_classes)
    names = ("precision", "recall", "f1")
    return {
        label: {name: float(column[number]) for name, column in zip(names, figures, strict=False)}
        | {"support": int(figures[3][number]), "predicted": int(predicted[number])}
        for number, label in enumerate(predictions.labels.names)
    }


def confusion(predictions: Predictions) -> Int64[np.ndarray, "C C"]:
    """Return how many rows of each class (down) were taken for each class (across).

    Raises:
        ConfigError: rows have several labels, or numbers.
    """
    if predictions.labels.kind != "single":
        raise ConfigError(
            f"a confusion matrix needs one label a row, and the labels are of kind "
            f"{predictions.labels.kind}."
        )
    classes = list(range(predictions.labels.num_outputs))
    counts: np.ndarray = confusion_matrix(
        predictions.targets, predictions.decisions, labels=classes
    )
    return counts.astype(np.int64)


def evaluation_of(predictions: Predictions) -> dict[str, Any]:
    """Return all figures as plain values, for metrics.json.

    "rows" and the figures of `classification_metrics`; "per_class" where there are classes; and
    "confusion" where every row has one, of `MOST_CONFUSED` classes at most.
    """
    kind = predictions.labels.kind
    value: dict[str, Any] = {"rows": len(predictions), **classification_metrics(predictions)}
    if kind != "number":
        value["per_class"] = per_class(predictions)
    if kind == "single" and predictions.labels.num_outputs <= MOST_CONFUSED:
        value["confusion"] = confusion(predictions).tolist()
    return value


def _sklearn_classes(predictions: Predictions) -> list[int]:
    """Return the classes by scikit-learn's numbers.

    These are ours, but a single column of ones and zeros is to it a column of classes 1 and 0.
    """
    num_classes = predictions.labels.num_outputs
    is_one_column = predictions.labels.kind == "multi" and num_classes == 1
    return [1] if is_one_column else list(range(num_classes))


def _f1(targets: np.ndarray, decisions: np.ndarray, classes: list[int], average: str) -> float:
    # NaN leaves a class that never occurs out of the mean; it is the result only if none occurs.
    value = f1_score(targets, decisions, labels=classes, average=average, zero_division=np.nan)
    return 0.0 if math.isnan(value) else float(value)


def _mean_average_precision(targets_NC: np.ndarray, scores_NC: Any) -> float:
    occurs_C = targets_NC.any(axis=0)
    if not occurs_C.any():
        return 0.0
    return float(average_precision_score(targets_NC[:, occurs_C], scores_NC[:, occurs_C]))


def _correlation(correlate: Callable[..., Any], x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(correlate(x.astype(np.float64), y.astype(np.float64)).statistic)


def class_arrays(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return targets and decisions as integers: [N] classes, or [N, C] of ones and zeros.

    Raises:
        ConfigError: numbers have no classes.
    """
    if predictions.labels.kind == "number":
        raise ConfigError("numbers have no classes; their figures are correlations and errors.")
    return predictions.targets.astype(np.int64), predictions.decisions.astype(np.int64)


def _counts(decisions: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(decisions, minlength=num_classes)
