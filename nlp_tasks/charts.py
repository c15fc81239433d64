"""Names of metrics, and the training curve, in the reports of all tasks."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from idbert.evaluation import charts
from idbert.training.metric import is_smaller_better

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "subset_accuracy": "Subset accuracy",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "map": "Mean average precision",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mse": "Mean squared error",
    "mae": "Mean absolute error",
    "auc": "AUC",
    "mrr": "MRR",
}


def metric_name(metric: str) -> str:
    """Return a metric's name as people write it: "macro_f1" is "Macro F1"."""
    return METRIC_NAMES.get(metric, metric.replace("_", " ").capitalize())


def curve_chart(curve: Sequence[Mapping[str, float]], metric: str) -> Markup:
    """Draw the training loss, and beside it the validation metric, by epoch.

    Args:
        curve: points with "epoch" and "loss" or the metric; a point may hold both.
        metric: the validation metric, by its name in the points; "loss" is "validation_loss" there.

    Returns:
        The chart; without points nothing.
    """
    return charts.curve_chart(
        curve,
        "validation_loss" if metric == "loss" else metric,
        f"{metric_name(metric)} of the validation part",
        name=metric_name(metric),
        smaller_is_better=is_smaller_better(metric),
    )
