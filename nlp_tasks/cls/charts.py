"""The chart of a report of predicted numbers, in the look of the other reports' charts."""

import matplotlib
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.figure import Figure

from idbert.evaluation.charts import ACCENT, GRID, QUIET, STYLE, WIDTH_IN, svg

MOST_POINTS = 2000
"""Dots of a scatter chart; of more rows an evenly spaced choice is drawn."""


def scatter_chart(targets_N: Float[np.ndarray, "N"], predicted_N: Float[np.ndarray, "N"]) -> Markup:
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
