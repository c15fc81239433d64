"""Charts of a classification report, in the look of the other reports' charts."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from idbert.evaluation.charts import ACCENT, GRID, QUIET, STYLE, WIDTH_IN, line_by_epoch, svg

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
SMALLER_IS_BETTER = ("mse", "mae", "loss")
MOST_POINTS = 2000
"""Dots of a scatter chart; of more rows an evenly spaced choice is drawn."""


def metric_name(metric: str) -> str:
    """Return a metric's name as people write it: "macro_f1" is "Macro F1"."""
    return METRIC_NAMES.get(metric, metric.replace("_", " ").capitalize())


def curve_chart(curve: Sequence[Mapping[str, float]], metric: str) -> str:
    """Draw the training loss, and beside it the validation metric, by epoch; return the SVG.

    Args:
        curve: points with "epoch" and "loss" or the metric; a point may hold both.
        metric: the validation metric, by its name in the points; "loss" is "validation_loss" there.
    """
    key = "validation_loss" if metric == "loss" else metric
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.7), layout="constrained")
        loss_axes, metric_axes = figure.subplots(1, 2)
        line_by_epoch(loss_axes, curve, "loss", "Training loss")
        title = f"{metric_name(metric)} of the validation part"
        epochs, values = line_by_epoch(metric_axes, curve, key, title, "o")
        if values:
            choose = min if metric in SMALLER_IS_BETTER else max
            best = choose(range(len(values)), key=values.__getitem__)
            metric_axes.plot(epochs[best], values[best], "o", color=ACCENT, markersize=8)
            title = f"{metric_name(metric)}, best {values[best]:.4f} at epoch {epochs[best]:g}"
            metric_axes.set_title(title)
        return svg(figure)


def scatter_chart(targets_N: Float[np.ndarray, "N"], predicted_N: Float[np.ndarray, "N"]) -> str:
    """Draw every row's number against the predicted one, and the line of equality."""
    step = -(-len(targets_N) // MOST_POINTS)
    x, y = targets_N[::step], predicted_N[::step]
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN / 2, WIDTH_IN / 2), layout="constrained")
        axes = figure.subplots()
        axes.plot(ends, ends, color=QUIET, linewidth=1)
        axes.plot(x, y, "o", color=ACCENT, markersize=4, alpha=0.45, markeredgewidth=0)
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        axes.set_facecolor("none")
        axes.tick_params(length=0, color=GRID)
        return svg(figure)
