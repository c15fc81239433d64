"""What the reports of all tasks share: figures of the parts of the data, and errors in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from idbert.evaluation.bootstrap import Interval
from idbert.evaluation.page import PageContent, render_page
from nlp_tasks.charts import curve_chart, metric_name

WORST = 10
"""Errors shown in words."""
MOST_CHARACTERS = 600
"""Shown of a text."""


@dataclass(frozen=True)
class PartFigures:
    """The figures of one part of the data.

    Attributes:
        name: of the part, such as "validation".
        size: rows, pairs or questions in it.
        figures: by the names of their metrics.
        intervals: of those figures that have one.
    """

    name: str
    size: int
    figures: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)


def render_report(
    template: str,
    content: PageContent,
    parts: Sequence[PartFigures],
    *,
    unit: str,
    metrics: Sequence[str],
    headline: Sequence[str],
    metric: str,
    shows_parts: bool | None = None,
    **values: Any,
) -> str:
    """Return a task's report as one page; whatever comes from the data is escaped.

    Args:
        template: it extends "nlp_tasks/report.html".
        content: what is shown of the run.
        parts: the figures; the first part's stand at the top.
        unit: of their sizes: "rows", "pairs" or "questions".
        metrics: columns of the table of the parts.
        headline: those shown at the top.
        metric: of the training curve.
        shows_parts: whether there is a table of the parts. Default: if there are several.
        values: what else the template reads.
    """
    return render_page(
        template,
        content,
        parts=parts,
        unit=unit,
        metrics=metrics,
        headline=headline,
        shows_parts=len(parts) > 1 if shows_parts is None else shows_parts,
        metric_name=metric_name,
        curve_svg=curve_chart(content.curve, metric),
        curve_metric=metric_name(metric),
        cut=_cut,
        **values,
    )


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
