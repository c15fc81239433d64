"""The report's charts, as SVG to stand inside an HTML page: no files, no links, no fonts."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from idbert.evaluation.evaluate import HEADLINE, Evaluation, label

ACCENT, QUIET, INK, GRID = "#1f5fbf", "#7a8594", "#27303b", "#e3e7ec"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.labelcolor": QUIET,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": GRID,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "idbert",  # the same figure gives the same bytes
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}
NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}
WIDTH_IN = 9.2


def curve_chart(
    curve: Sequence[Mapping[str, float]],
    metric: str,
    title: str,
    *,
    name: str | None = None,
    smaller_is_better: bool = False,
) -> Markup:
    """Draw the training loss, and beside it the validation metric, by epoch.

    Args:
        curve: points with "epoch" and "loss" or the metric; a point may hold both.
        metric: the validation metric, by its name in the points.
        title: of the metric, where it is not recorded.
        name: of the metric, to which the best value and its epoch are added; None: the title.
        smaller_is_better: whether the best value is the smallest.

    Returns:
        The chart; without points nothing.
    """
    if not curve:
        return Markup()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.7), layout="constrained")
        loss_axes, metric_axes = figure.subplots(1, 2)
        line_by_epoch(loss_axes, curve, "loss", "Training loss")
        epochs, values = line_by_epoch(metric_axes, curve, metric, title, "o")
        if values:
            choose = min if smaller_is_better else max
            best = choose(range(len(values)), key=values.__getitem__)
            metric_axes.plot(epochs[best], values[best], "o", color=ACCENT, markersize=8)
            at_best = f"best {values[best]:.4f} at epoch {epochs[best]:g}"
            metric_axes.set_title(f"{name or title}, {at_best}")
        return svg(figure)


def interval_chart(
    evaluations: Mapping[str, Evaluation], metrics: Sequence[str] = HEADLINE
) -> Markup:
    """Draw each model's metrics as dots with their 95% intervals, the first marked; return the SVG.

    Args:
        evaluations: by name, from top to bottom.
        metrics: names of metrics that are means over users, one panel each.
    """
    names = list(evaluations)
    with matplotlib.rc_context(STYLE):
        apart = ConstrainedLayoutEngine(wspace=0.06)
        figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.36 * len(names)), layout=apart)
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            for place, evaluation in enumerate(evaluations.values()):
                value, (low, high) = evaluation.metrics[metric], evaluation.intervals[metric]
                color = ACCENT if place == 0 else QUIET
                axes.plot([low, high], [place, place], color=color, linewidth=1.6)
                axes.plot(value, place, "o", color=color, markersize=6)
            axes.set_title(label(metric))
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_xlim(left=0)
            axes.locator_params(axis="x", nbins=5)
            axes.grid(visible=False, axis="y")
            axes.tick_params(length=0)
        panels[0].tick_params(axis="y", labelcolor=INK)
        return svg(figure)


def line_by_epoch(
    axes: Axes, curve: Sequence[Mapping[str, float]], key: str, title: str, marker: str = ""
) -> tuple[list[float], list[float]]:
    """Draw the points that hold `key` against their epoch, and return both."""
    points = [(point["epoch"], point[key]) for point in curve if key in point]
    epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
    axes.plot(epochs, values, color=ACCENT, marker=marker, markersize=3.5, linewidth=1.6)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.tick_params(length=0)
    if not values:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=QUIET)
    return epochs, values


def svg(figure: Figure) -> Markup:
    """Return the figure as an <svg> element, without the XML head that names an outside address."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
