"""The report of a run: one HTML file that holds everything it shows and opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from idbert.evaluation.charts import curve_chart, interval_chart
from idbert.evaluation.evaluate import HEADLINE, Evaluation, comparison_table, label
from idbert.evaluation.page import PageContent, render_page

TEMPLATE = "idbert/evaluation/report.html"
WATCHED = "ndcg@10"
"""The metric of the training curve."""
Estimate = tuple[float, float, float]
"""A value and the low and high end of its interval."""


@dataclass(frozen=True)
class UserExample:
    """One user's history and what is recommended to them, in words.

    Attributes:
        user: the user's id.
        history: titles, or ids where there are none, oldest first.
        recommendations: title and score, best first.
        target: title of the held-out item, marked where it is recommended; None if unknown.
    """

    user: str
    history: Sequence[str]
    recommendations: Sequence[tuple[str, float]]
    target: str | None = None


@dataclass(frozen=True)
class ReportContent(PageContent):
    """What a report shows beside the content of every page.

    Attributes:
        evaluations: by name, the model first, then what it is compared with.
        examples: some users' histories and recommendations.
    """

    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    examples: Sequence[UserExample] = ()


def report_html(content: ReportContent) -> str:
    """Return the report as one HTML page: styles and charts inside, nothing loaded, no script.

    Whatever comes from the data (titles, ids, settings) is escaped.

    Raises:
        DataError: the evaluations were not made by the same protocol.
    """
    evaluations = content.evaluations
    return render_page(
        TEMPLATE,
        content,
        label=label,
        headline=HEADLINE,
        main=next(iter(evaluations.values()), None),
        metric_rows=_metric_rows(evaluations),
        comparison=_comparison(evaluations),
        curve_svg=curve_chart(content.curve, WATCHED, f"Validation {label(WATCHED)}"),
        curve_metric=label(WATCHED),
        interval_svg=interval_chart(evaluations) if evaluations else "",
    )


def _comparison(
    evaluations: Mapping[str, Evaluation],
) -> list[tuple[str, list[Estimate], list[Estimate]]]:
    """Return each model's name, its headline metrics, and their differences to the first model."""
    if not evaluations:
        return []
    rows = comparison_table(evaluations).to_dict("index")
    return [
        (
            str(name),
            [(row[m, "value"], row[m, "low"], row[m, "high"]) for m in HEADLINE],
            [
                (row[m, "difference"], row[m, "difference low"], row[m, "difference high"])
                for m in HEADLINE
            ],
        )
        for name, row in rows.items()
    ]


def _metric_rows(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, list[float]]]:
    """Return every metric's name and its value for each model."""
    first = next(iter(evaluations.values()), None)
    names = first.metrics if first else ()
    return [(label(name), [e.metrics[name] for e in evaluations.values()]) for name in names]
