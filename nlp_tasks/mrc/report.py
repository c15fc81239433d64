"""The report of a reader: one HTML file that holds everything and opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape

from idbert.evaluation.bootstrap import Interval, intervals
from idbert.evaluation.page import PageContent
from nlp_tasks.mrc.answers import Answer
from nlp_tasks.mrc.formats import Question
from nlp_tasks.mrc.metrics import EXACT_MATCH, F1, Language
from nlp_tasks.mrc.validation import Evaluated
from nlp_tasks.reports import WORST, PartFigures, render_report

TEMPLATE = "nlp_tasks/mrc/report.html"
MOST_CHARACTERS = 500
"""Shown of a context, round the answers."""
LENGTHS = ((1, 5), (6, 10), (11, 20), (21, 40), (41, None))
"""Characters of an answer, in groups."""


@dataclass(frozen=True)
class WrongAnswer:
    """A question that was answered wrongly.

    Attributes:
        question: with its context and the accepted answers.
        answer: what was given.
        f1: the overlap of the two.
    """

    question: Question
    answer: Answer
    f1: float

    @property
    def kind(self) -> str:
        """What is wrong with the answer."""
        if not self.question.has_answer:
            return "there is no answer"
        if not self.answer.text:
            return "no answer given"
        return "wrong place" if self.f1 == 0 else "wrong bounds"


@dataclass(frozen=True)
class ReportContent(PageContent):
    """What a report shows beside the content of every page.

    Attributes:
        language: by which answers are compared.
        evaluations: by the name of their part ("validation", "test"); the first is shown in detail.
        threshold: at or below which there is no answer; None: all questions are answered.
        metric: of the training curve.
    """

    language: Language
    evaluations: Mapping[str, Evaluated] = field(default_factory=dict)
    threshold: float | int | None = None
    metric: str = F1


def worst_errors(evaluated: Evaluated, count: int = WORST) -> list[WrongAnswer]:
    """Return the questions with the least overlap, of equal ones where the reader was most sure.

    Args:
        evaluated: answers and scores.
        count: how many at most.
    """
    f1_Q = evaluated.scores.f1_Q
    sure_Q = np.array([answer.probability for answer in evaluated.answers])
    order = np.lexsort((-sure_Q, f1_Q))
    wrong = order[evaluated.scores.exact_match_Q[order] < 1][:count]
    return [
        WrongAnswer(evaluated.questions[place], evaluated.answers[place], float(f1_Q[place]))
        for place in wrong.tolist()
    ]


def reading_intervals(evaluated: Evaluated) -> dict[str, Interval]:
    """Return the bootstrap intervals of exact match and F1 over questions."""
    scores = evaluated.scores
    return intervals({EXACT_MATCH: scores.exact_match_Q, F1: scores.f1_Q})


def by_answer_length(evaluated: Evaluated) -> list[tuple[str, int, float, float]]:
    """Return characters of the answer, questions, exact match and F1 for groups of lengths."""
    sizes = np.array([len(q.answers[0]) if q.has_answer else 0 for q in evaluated.questions])
    rows = []
    for low, high in LENGTHS:
        places = np.flatnonzero((sizes >= low) & (sizes <= (high or sizes.max(initial=0))))
        if len(places):
            name = f"{low} to {high}" if high else f"{low} and more"
            scores = evaluated.scores
            rows.append(
                (
                    name,
                    len(places),
                    float(scores.exact_match_Q[places].mean()),
                    float(scores.f1_Q[places].mean()),
                )
            )
    return rows


def reading_report_html(content: ReportContent) -> str:
    """Return the report as one HTML page: styles and charts inside, nothing loaded, no script.

    Whatever comes from the data (questions, contexts, settings) is escaped.
    """
    main = next(iter(content.evaluations.values()), None)
    parts = [
        PartFigures(name, len(part.questions), part.scores.means(), reading_intervals(part))
        for name, part in content.evaluations.items()
    ]
    metrics = list(dict.fromkeys(name for part in parts for name in part.figures))
    return render_report(
        TEMPLATE,
        content,
        parts,
        unit="questions",
        metrics=metrics,
        headline=metrics,
        metric=content.metric,
        lengths=by_answer_length(main) if main else [],
        errors=worst_errors(main) if main else [],
        marked=marked_context,
    )


def marked_context(error: WrongAnswer) -> Markup:
    """Return the context round the answers, the right one and the given one marked."""
    question, answer = error.question, error.answer
    spans = []
    if question.has_answer:
        start = question.starts[0]
        spans.append(("right", start, start + len(question.answers[0])))
    if answer.text:
        spans.append(("given", answer.start, answer.end))
    pieces, shown_to = [], None
    for start, end in _shown(spans, len(question.context)):
        if shown_to != start and start:
            pieces.append(Markup(" … "))
        pieces.append(_marked(question.context, start, end, spans))
        shown_to = end
    if shown_to is not None and shown_to < len(question.context):
        pieces.append(Markup(" …"))
    return Markup("").join(pieces)


def _shown(spans: Sequence[tuple[str, int, int]], size: int) -> list[tuple[int, int]]:
    """Return which slices of a context are shown: round each span, joined where they touch."""
    margin = MOST_CHARACTERS // (2 * max(1, len(spans)))
    slices: list[tuple[int, int]] = []
    for _, start, end in sorted(spans, key=lambda span: span[1]) or [("", 0, 0)]:
        low, high = max(0, start - margin), min(size, end + margin)
        if slices and low <= slices[-1][1]:
            slices[-1] = (slices[-1][0], max(high, slices[-1][1]))
        else:
            slices.append((low, high))
    return slices


def _marked(context: str, start: int, end: int, spans: Sequence[tuple[str, int, int]]) -> Markup:
    """Return a slice of a context with marks round what the spans share with it."""
    inner = [bound for _, *bounds in spans for bound in bounds if start < bound < end]
    bounds = sorted({start, end, *inner})
    html = Markup("")
    for low, high in zip(bounds, bounds[1:], strict=False):
        kinds = [kind for kind, first, last in spans if first <= low and high <= last]
        text = escape(context[low:high])
        html += (
            Markup('<mark class="{}">{}</mark>').format(" ".join(kinds), text) if kinds else text
        )
    return html
