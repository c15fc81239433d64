"""Charts of a study, in the look of the reports' charts."""

from collections.abc import Mapping, Sequence

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from idbert.evaluation.charts import ACCENT, INK, QUIET, STYLE, WIDTH_IN, svg
from pipelines.ablation_plan import BASE, WINNERS

COLORS = (ACCENT, "#c2542d", "#2f8757", "#8559a8", "#a87b12", "#2b8ba3")
PANELS_A_ROW = 2


def curve_panels(curves: pd.DataFrame, panels: Mapping[str, Sequence[str]], metric: str) -> Markup:
    """Draw the metric by epoch, mean and range over the seeds, the base in every panel.

    Args:
        curves: variant, seed, epoch, value.
        panels: by title, the variants that it shows beside the base.
        metric: what the values are.
    """
    shown = panels or {BASE: []}
    rows = -(-len(shown) // PANELS_A_ROW)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.9 * rows), layout="constrained")
        grid = figure.subplots(rows, PANELS_A_ROW, sharey=True, squeeze=False).ravel()
        for axes, (title, names) in zip(grid, shown.items(), strict=False):
            for place, name in enumerate((BASE, *names)):
                color = QUIET if name == BASE else COLORS[(place - 1) % len(COLORS)]
                dashes = "--" if name == BASE else "-" if place <= len(COLORS) else ":"
                ours = curves[curves["variant"] == name].groupby("epoch")["value"]
                mean = ours.mean()
                label = name.removeprefix(f"{title}=")
                axes.plot(
                    mean.index,
                    mean,
                    dashes,
                    color=color,
                    label=label,
                    linewidth=1.6,
                    marker="o",
                    markersize=3.5,
                )
                axes.fill_between(
                    mean.index, ours.min(), ours.max(), color=color, alpha=0.12, linewidth=0
                )
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            axes.tick_params(length=0)
            axes.legend(frameon=False, labelcolor=INK, fontsize=8.5)
        for axes in grid[::PANELS_A_ROW]:
            axes.set_ylabel(metric)
        for axes in grid[len(shown) :]:
            axes.set_visible(False)
        return svg(figure)


def difference_chart(table: pd.DataFrame, metric: str) -> Markup:
    """Draw each variant's difference to the base with its interval.

    Args:
        table: variant, difference, low, high.
        metric: what is different.
    """
    others = table[table["variant"] != BASE]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.3 * len(others)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=QUIET, linewidth=1, linestyle="--")
        for place, row in enumerate(others.itertuples()):
            color = INK if row.variant == WINNERS else ACCENT
            axes.plot([row.low, row.high], [place, place], color=color, linewidth=1.6)
            axes.plot(row.difference, place, "o", color=color, markersize=6)
        axes.set_title(f"{metric}, difference to the base")
        axes.set_yticks(range(len(others)), others["variant"])
        axes.set_ylim(len(others) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0)
        axes.tick_params(axis="y", labelcolor=INK)
        return svg(figure)
