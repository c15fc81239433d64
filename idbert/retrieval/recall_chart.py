"""A plot of how much approximate indexes find, over how long they take."""

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from idbert.evaluation.charts import ACCENT, INK, QUIET, STYLE, svg
from idbert.retrieval.index_recall import RecallCurve, RecallPoint

_WIDTH_IN, _HEIGHT_IN = 6.4, 3.6


def recall_chart(curve: RecallCurve) -> str:
    """Draw recall against milliseconds a query, one line an index; return the SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
        axes = figure.subplots()
        chosen = None if curve.chosen is None else curve.points[curve.chosen]
        for factory in dict.fromkeys(point.factory for point in curve.points):
            points = [point for point in curve.points if point.factory == factory]
            points.sort(key=lambda point: point.recall)
            is_chosen = chosen is not None and factory == chosen.factory
            color = ACCENT if is_chosen else QUIET
            axes.plot(*_coordinates(points), "o-", color=color, markersize=3.5, label=factory)
        axes.plot([curve.exact_ms], [1.0], "s", color=INK, markersize=5, label="exact")
        if chosen is not None:
            axes.plot(chosen.ms, chosen.recall, "o", color=ACCENT, markersize=9)
        axes.axhline(curve.target, color=INK, linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.set_xlabel("milliseconds a query, many at once")
        axes.set_title(
            f"Recall@{curve.k} of {curve.queries} {curve.queries_are}; wanted {curve.target:g}"
        )
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="lower right")
        return svg(figure)


def _coordinates(points: Sequence[RecallPoint]) -> tuple[list[float], list[float]]:
    return [point.ms for point in points], [point.recall for point in points]
