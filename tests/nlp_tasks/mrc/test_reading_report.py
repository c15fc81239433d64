"""The report of a reader: complete, escaped, alone in one file, errors in words."""

import re

import numpy as np

from nlp_tasks.mrc.answers import Answer
from nlp_tasks.mrc.formats import Question, Questions
from nlp_tasks.mrc.metrics import score_answers
from nlp_tasks.mrc.report import (
    ReportContent,
    WrongAnswer,
    by_answer_length,
    marked_context,
    reading_report_html,
    worst_errors,
)
from nlp_tasks.mrc.validation import Evaluated
from tests.pages import check_page

HOSTILE = "<script>alert('x')</script>"
CONTEXT = f"Ada met Bo & {HOSTILE} in 1843."


def question(number: int, answer: str | None, context: str = CONTEXT) -> Question:
    if answer is None:
        return Question(f"q{number}", f"why {number}?", context)
    return Question(f"q{number}", f"who {number}?", context, (answer,), (context.index(answer),))


def answered(text: str, probability: float, context: str = CONTEXT) -> Answer:
    start = context.index(text) if text else 0
    return Answer(text, start, start + len(text), 1.0, probability, 0.5)


def evaluated() -> Evaluated:
    rows = [question(0, "Ada"), question(1, "Bo"), question(2, None), question(3, HOSTILE)]
    answers = [answered("Ada", 0.9), answered("1843", 0.6), answered("Ada", 0.8), answered("", 0.7)]
    asked = Questions(rows, "test")
    scores = score_answers([answer.text for answer in answers], rows, "english")
    return Evaluated(asked, answers, np.zeros(4), scores)


def test_errors_are_named_the_surest_first():
    errors = worst_errors(evaluated())
    assert [error.question.id for error in errors] == ["q2", "q3", "q1"]
    kinds = ["there is no answer", "no answer given", "wrong place"]
    assert [error.kind for error in errors] == kinds
    bounds = WrongAnswer(question(4, "Ada met"), answered("Ada", 0.1), 0.6)
    assert bounds.kind == "wrong bounds" and len(worst_errors(evaluated(), 1)) == 1


def test_both_answers_are_marked_in_the_context():
    html = marked_context(WrongAnswer(question(0, "met Bo"), answered("Bo & <script", 0.5), 0.3))
    assert '<mark class="right">met </mark>' in html
    assert '<mark class="right given">Bo</mark>' in html
    assert '<mark class="given"> &amp; &lt;script</mark>' in html
    assert re.sub("<.*?>", "", html).startswith("Ada met Bo")


def test_of_a_long_context_the_answers_are_shown():
    long = "first answer " + "x " * 2000 + "second answer"
    error = WrongAnswer(question(0, "first", long), answered("second", 0.5, long), 0.0)
    html = marked_context(error)
    assert (
        '<mark class="right">first</mark>' in html and '<mark class="given">second</mark>' in html
    )
    assert len(html) < 900 and " … " in html
    far = WrongAnswer(question(0, None, long), answered("", 0.5, long), 0.0)
    assert marked_context(far).startswith("first answer") and marked_context(far).endswith(" …")


def test_figures_are_told_by_the_length_of_the_answer():
    rows = by_answer_length(evaluated())
    assert [row[:3] for row in rows] == [("1 to 5", 2, 0.5), ("21 to 40", 1, 0.0)]


def test_the_page_holds_everything_and_nothing_hostile():
    page = reading_report_html(
        ReportContent(
            title=HOSTILE,
            language="english",
            evaluations={"validation": evaluated(), HOSTILE: evaluated()},
            threshold=0.125,
            curve=[{"epoch": 1.0, "loss": 2.0}, {"epoch": 1.0, "f1": 0.4}],
            settings={"data": {"train": HOSTILE}},
            facts={"Parameters": "12"},
            layer_weights={"layer 0": 0.5},
        )
    )
    check_page(page, charts=1)
    assert "&lt;script&gt;" in page
    for shown in (
        "0.125",
        "Exact match",
        "Unanswerable exact match",
        "who 1?",
        "wrong place",
        "svg",
    ):
        assert shown in page


def test_a_page_without_evaluations_shows_what_there_is():
    page = reading_report_html(ReportContent("title", "chinese", facts={"Parameters": "12"}))
    assert "Parameters" in page and "Worst errors" not in page
