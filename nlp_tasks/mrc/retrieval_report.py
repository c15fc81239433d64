"""What became of each question of a collection, in figures and in words, and the page of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Int64
from markupsafe import Markup
from matplotlib.figure import Figure

from idbert.evaluation.bootstrap import Interval, intervals
from idbert.evaluation.charts import ACCENT, QUIET, STYLE, WIDTH_IN, svg
from idbert.evaluation.page import PageContent, render_page
from idbert.inputs.words import is_chinese
from nlp_tasks.mrc.answering import FoundAnswer
from nlp_tasks.mrc.formats import Question
from nlp_tasks.mrc.metrics import EXACT_MATCH, F1, Language, score_answers
from nlp_tasks.mrc.paragraphs import Collection
from nlp_tasks.mrc.recall import DEPTHS, answering, first_ranks, recall_figures

TEMPLATE = "nlp_tasks/mrc/retrieval_report.html"
RIGHT = "right"
NOT_RECALLED = "not recalled"
NO_ANSWER = "no answer given"
WRONG_PARAGRAPH = "wrong paragraph"
WRONG_SPAN = "wrong span"
IN_VAIN = "answered in vain"
KINDS = {
    RIGHT: "The answer is one of the true ones; or rightly none was given.",
    NOT_RECALLED: "The paragraph with the answer was not among those read.",
    NO_ANSWER: "It was read, and no span was found in any paragraph.",
    WRONG_PARAGRAPH: "It was read, and a span of another paragraph scored higher.",
    WRONG_SPAN: "The answer was taken from the right paragraph, but from the wrong place in it.",
    IN_VAIN: "The question has no answer, and one was given.",
}
SHOWN_ERRORS = 10
"""Errors of a kind that are shown in words."""
MOST_CHARACTERS = 600


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with known answers, and what was answered.

    Attributes:
        question: with its answers; none: nothing in the collection answers it.
        found: the best answer; None: none was given.
        kind: one of KINDS.
        exact: 1 where the answer is a true one but for capitals, articles and marks.
        f1: of the words, or the Chinese characters, of the answer and the nearest true one.
        rank: of the first paragraph that answers it, from 1; 0: it was not found.
        right_row: of that paragraph, or of the known one that was not found; None: unknown.
    """

    question: Question
    found: FoundAnswer | None
    kind: str
    exact: float
    f1: float
    rank: int
    right_row: int | None


def judge(
    questions: Sequence[Question],
    answers: Sequence[Sequence[FoundAnswer]],
    collection: Collection,
    rows_QK: Int64[np.ndarray, "Q K"],
    k_paragraphs: int,
) -> list[AnsweredQuestion]:
    """Compare the best answers with the true ones.

    Args:
        questions: with their true answers.
        answers: of each question, best first.
        collection: that was searched.
        rows_QK: the paragraphs found, best first; more of them than were read, for the figures.
        k_paragraphs: how many were read.
    """
    answers_QK = answering(questions, collection, rows_QK)
    ranks_Q = first_ranks(answers_QK)
    given = [best[0].text if best else "" for best in answers]
    scores = score_answers(given, questions, _language_of(questions))
    judged = []
    for place, (question, best) in enumerate(zip(questions, answers, strict=True)):
        found = best[0] if best else None
        exact = float(scores.exact_match_Q[place])
        rank = int(ranks_Q[place])
        known = collection.rows_of(question)
        judged.append(
            AnsweredQuestion(
                question,
                found,
                _kind(question, found, exact, answers_QK[place, :k_paragraphs]),
                exact,
                float(scores.f1_Q[place]),
                rank,
                int(rows_QK[place, rank - 1]) if rank else next(iter(known or ()), None),
            )
        )
    return judged


def _language_of(questions: Sequence[Question]) -> Language:
    """Tell the language by the questions, since they may have no contexts."""
    num_chinese = sum(is_chinese(question.text) for question in questions)
    return "chinese" if num_chinese > len(questions) / 2 else "english"


def _kind(
    question: Question,
    found: FoundAnswer | None,
    exact: float,
    answers_K: Bool[np.ndarray, "K"],
) -> str:
    if not question.has_answer:
        return RIGHT if found is None else IN_VAIN
    if exact:
        return RIGHT
    if not answers_K.any():
        return NOT_RECALLED
    if found is None:
        return NO_ANSWER
    return WRONG_SPAN if answers_K[found.rank - 1] else WRONG_PARAGRAPH


def answer_metrics(judged: Sequence[AnsweredQuestion]) -> dict[str, float]:
    """Return exact match and F1 of all questions; recall@k and MRR of those with an answer."""
    ranks_Q = np.array([one.rank for one in judged if one.question.has_answer], np.int64)
    return {
        EXACT_MATCH: float(np.mean([one.exact for one in judged])),
        F1: float(np.mean([one.f1 for one in judged])),
    } | recall_figures(ranks_Q)


def answer_intervals(judged: Sequence[AnsweredQuestion]) -> dict[str, Interval]:
    """Return the bootstrap interval of each metric but MRR, over the questions."""
    whole = intervals(
        {
            EXACT_MATCH: np.array([one.exact for one in judged], np.float64),
            F1: np.array([one.f1 for one in judged], np.float64),
        }
    )
    ranks_Q = np.array([one.rank for one in judged if one.question.has_answer], np.int64)
    if not len(ranks_Q):
        return whole
    return whole | intervals(
        {f"recall@{k}": ((ranks_Q > 0) & (ranks_Q <= k)).astype(np.float64) for k in DEPTHS}
    )


@dataclass(frozen=True)
class AnswerReport(PageContent):
    """What the page shows beside the content of every page.

    Attributes:
        judged: from `judge`; at least one.
        collection: that was searched.
        depth: paragraphs that were found for each question.
    """

    judged: Sequence[AnsweredQuestion]
    collection: Collection
    depth: int


def answer_report_html(content: AnswerReport) -> str:
    """Return the page: figures, recall by depth, and the errors in words by their kind."""
    judged = content.judged
    counts = Counter(one.kind for one in judged)
    errors = {
        kind: [_words(one, content.collection) for one in judged if one.kind == kind][:SHOWN_ERRORS]
        for kind in KINDS
        if kind != RIGHT and counts[kind]
    }
    ranks_Q = np.array([one.rank for one in judged if one.question.has_answer], np.int64)
    return render_page(
        TEMPLATE,
        content,
        metrics=answer_metrics(judged),
        intervals=answer_intervals(judged),
        names=_NAMES,
        kinds={kind: (counts[kind], text) for kind, text in KINDS.items() if counts[kind]},
        num_questions=len(judged),
        curve_svg="",
        recall_svg=_recall_chart(ranks_Q, content.depth) if len(ranks_Q) else "",
        errors=errors,
    )


_NAMES = {
    EXACT_MATCH: "Exact match",
    F1: "F1",
    **{f"recall@{k}": f"Recall at {k}" for k in DEPTHS},
    "mrr": "Mean reciprocal rank",
}


def _words(one: AnsweredQuestion, collection: Collection) -> dict[str, Any]:
    """Return an error as the page shows it."""
    found = one.found
    right = None if one.right_row is None else collection.paragraphs[one.right_row]
    taken = None
    if found is not None:
        paragraph = collection.paragraphs[found.row]
        taken = (paragraph.id, _cut(paragraph.text, [found.text]))
    return {
        "question": one.question.text,
        "id": one.question.id,
        "true": list(dict.fromkeys(one.question.answers)),
        "given": "" if found is None else found.text,
        "probability": None if found is None else found.probability,
        "rank": one.rank,
        "right": None if right is None else (right.id, _cut(right.text, one.question.answers)),
        "taken": taken,
        "is_same": right is not None and taken is not None and right.id == taken[0],
    }


def _cut(text: str, wanted: Sequence[str]) -> str:
    """Return the part of a long text around the first of some words that stands in it."""
    if len(text) <= MOST_CHARACTERS:
        return text
    place = next((text.find(words) for words in wanted if words in text), 0)
    start = max(0, min(place - MOST_CHARACTERS // 2, len(text) - MOST_CHARACTERS))
    end = start + MOST_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _recall_chart(ranks_Q: Int64[np.ndarray, "Q"], depth: int) -> Markup:
    """Draw the share of questions whose paragraph is among the first k, by k; return the SVG."""
    depths = np.arange(1, depth + 1)
    shares = [float(((ranks_Q > 0) & (ranks_Q <= k)).mean()) for k in depths]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(depths, shares, color=ACCENT, linewidth=1.6)
        for k in DEPTHS:
            if k <= depth:
                axes.plot(k, shares[k - 1], "o", color=ACCENT, markersize=5)
                axes.annotate(
                    f"{shares[k - 1]:.3f}",
                    (k, shares[k - 1]),
                    (4, -12),
                    textcoords="offset points",
                    color=QUIET,
                )
        axes.set_title("Questions whose paragraph is among the first k found")
        axes.set_xlabel("k")
        axes.tick_params(length=0)
        return svg(figure)
