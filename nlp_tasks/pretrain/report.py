"""The report of a pretraining: one HTML file that holds everything and opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from idbert.evaluation.charts import ACCENT, QUIET, STYLE, WIDTH_IN, svg
from idbert.evaluation.page import PageContent, render_page
from nlp_tasks.pretrain.validation import Piece

TEMPLATE = "nlp_tasks/pretrain/report.html"
METRIC_NAMES = {
    "accuracy": "Hidden words restored",
    "label_accuracy": "Hidden labels restored",
    "label_auc": "AUC of the labels",
    "perplexity": "Perplexity",
    "loss": "Validation loss",
    "next_sentence_accuracy": "Pairs told apart",
    "next_sentence_loss": "Loss of the pairs",
}
"""In the order of the report."""
SHARES = ("accuracy", "label_accuracy", "next_sentence_accuracy")
"""Shown in percent."""


@dataclass(frozen=True)
class PretrainContent(PageContent):
    """What a report shows beside the content of every page.

    Attributes:
        metrics: of the held-out texts, by name.
        examples: held-out sequences with their hidden words, from `restored_examples`.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    examples: Sequence[Sequence[Piece]] = ()


def pretrain_report_html(content: PretrainContent) -> str:
    """Return the report as one HTML page: styles and charts inside, nothing loaded, no script.

    Whatever comes from the texts or the settings is escaped.
    """
    return render_page(
        TEMPLATE,
        content,
        metrics=[
            (METRIC_NAMES[name], _shown(name, content.metrics[name]))
            for name in METRIC_NAMES
            if name in content.metrics
        ],
        curve_svg=curve_chart(content.curve) if content.curve else "",
    )


def curve_chart(curve: Sequence[Mapping[str, float]]) -> Markup:
    """Draw both losses, and beside them the share of hidden words restored; return the SVG.

    Args:
        curve: points with "epoch" and any of "loss", "validation_loss", "accuracy" and
            "next_sentence_accuracy".
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.7), layout="constrained")
        losses, shares = figure.subplots(1, 2)
        _lines(losses, curve, {"validation_loss": "held-out texts", "loss": "training"}, "Loss")
        has_labels = any("label_accuracy" in point for point in curve)
        second = "label_accuracy" if has_labels else "next_sentence_accuracy"
        of_shares = {"accuracy": "hidden words", second: "labels" if has_labels else "pairs"}
        _lines(shares, curve, of_shares, "Right on held-out texts")
        return svg(figure)


def _lines(
    axes: Axes, curve: Sequence[Mapping[str, float]], labels: Mapping[str, str], title: str
) -> None:
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.tick_params(length=0)
    drawn = 0
    for key, color in zip(labels, (ACCENT, QUIET), strict=True):
        points = [(point["epoch"], point[key]) for point in curve if key in point]
        if points:
            drawn += 1
            axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3.5,
                      linewidth=1.6, label=labels[key])  # fmt: skip
    if drawn > 1:
        axes.legend(frameon=False)
    elif not drawn:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=QUIET)


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if name in SHARES else f"{value:.4g}"
