"""Charts of a matching report, in the look of the other reports' charts."""

from typing import Literal

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from idbert.evaluation.charts import ACCENT, GRID, INK, STYLE, WIDTH_IN, svg
from nlp_tasks.charts import metric_name
from nlp_tasks.match.metrics import threshold_curve
from nlp_tasks.match.resampling import ScoredPairs

OTHER = "#c4580a"
BINS = 30
CELLS = 10
"""Groups of pairs of about equal number whose share of label 1 is shown."""
MOST_POINTS = 2000
"""Dots of a scatter chart; of more pairs an evenly spaced choice is drawn."""


def score_chart(pairs: ScoredPairs) -> Markup:
    """Draw the scores of pairs by their label; return the SVG.

    binary: a histogram for each of the two labels, and the threshold of the accuracy.
    score: every pair's score against the true one.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.tick_params(length=0, color=GRID)
        if pairs.kind == "score":
            step = -(-len(pairs) // MOST_POINTS)
            x, y = pairs.targets[::step], pairs.scores[::step]
            axes.plot(x, y, "o", color=ACCENT, markersize=4, alpha=0.35, markeredgewidth=0)
            axes.set_xlabel("true score")
            axes.set_ylabel("score of the model")
            return svg(figure)
        edges = np.histogram_bin_edges(pairs.scores.astype(np.float64), BINS)
        for label, color in ((0, OTHER), (1, ACCENT)):
            of_label = pairs.scores[pairs.targets == label]
            counts, _ = np.histogram(of_label, edges)
            shares = counts / max(len(of_label), 1)
            axes.stairs(shares, edges, color=color, fill=True, alpha=0.25)
            axes.stairs(shares, edges, color=color, label=f"label {label}: {len(of_label):,} pairs")
        axes.axvline(pairs.thresholds["accuracy"], color=INK, linewidth=1, linestyle="--")
        axes.set_xlabel("score of the model")
        axes.set_ylabel("share of the label's pairs")
        axes.legend(frameon=False)
        return svg(figure)


def threshold_chart(pairs: ScoredPairs) -> Markup:
    """Draw what a threshold is worth: accuracy and F1 of every threshold; return the SVG.

    Beside it the share of label 1 among pairs of about equal scores, with the interval that chance
    alone explains: a threshold can be trusted where the share rises steeply.

    Args:
        pairs: of kind "binary".
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
        curves, cells = figure.subplots(1, 2)
        metrics: tuple[tuple[Literal["accuracy", "f1"], str], ...]
        metrics = (("accuracy", ACCENT), ("f1", OTHER))
        for metric, color in metrics:
            cuts, values = threshold_curve(pairs.scores, pairs.targets, metric)
            step = -(-len(cuts) // MOST_POINTS)
            label = metric_name(metric)
            curves.plot(cuts[::step], values[::step], color=color, linewidth=1.6, label=label)
            at = pairs.thresholds[metric]
            curves.axvline(at, color=color, linewidth=1, linestyle="--")
        curves.set_title("Accuracy and F1 by threshold; dashed: those in use")
        curves.set_xlabel("threshold")
        curves.legend(frameon=False)
        scores, shares, errors = _cells(pairs)
        cells.errorbar(
            scores, shares, errors, color=ACCENT, marker="o", markersize=4, linewidth=1.6
        )
        cells.axvline(pairs.thresholds["accuracy"], color=INK, linewidth=1, linestyle="--")
        cells.set_title("Share of label 1 by score")
        cells.set_xlabel("score of the model")
        cells.set_ylim(-0.03, 1.03)
        for axes in (curves, cells):
            axes.tick_params(length=0, color=GRID)
        return svg(figure)


def _cells(pairs: ScoredPairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean score, share of label 1 and its 95% half-width, of pairs of about equal score."""
    order = np.argsort(pairs.scores, kind="stable")
    parts = np.array_split(order, min(CELLS, len(order)))
    counts = np.array([len(part) for part in parts])
    scores = np.array([pairs.scores[part].mean(dtype=np.float64) for part in parts])
    shares = np.array([(pairs.targets[part] == 1).mean() for part in parts])
    return scores, shares, 1.96 * np.sqrt(shares * (1 - shares) / counts)
