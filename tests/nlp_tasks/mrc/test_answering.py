"""Answers come from the right paragraph, keep their place, and errors have names."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from idbert.errors import ConfigError
from idbert.retrieval.bm25 import BM25Index
from nlp_tasks.mrc.answering import (
    Answerer,
    AnswerScoreSettings,
    FoundAnswer,
    log_probabilities,
)
from nlp_tasks.mrc.answers import Answer
from nlp_tasks.mrc.documents import Document
from nlp_tasks.mrc.formats import Question
from nlp_tasks.mrc.paragraphs import Collection, ParagraphSettings
from nlp_tasks.mrc.recall import DEPTHS
from nlp_tasks.mrc.retrieval_report import (
    AnswerReport,
    answer_intervals,
    answer_metrics,
    answer_report_html,
    judge,
)
from tests.pages import check_page

DOCUMENTS = [
    Document("animals", "Pandas eat bamboo. Foxes eat mice. A fox sleeps by day."),
    Document("towns", "Paris lies on the Seine. Lyon lies on the Rhone."),
    Document("copy", "foxes eat MICE."),
    Document("empty", " "),
]


class Scripted:
    """Answers "what do X eat" by the word behind "eat", with the given scores and certainty."""

    def __init__(self, scores: dict[str, float] | None = None, has_answer: float = 0.9) -> None:
        self.scores = {} if scores is None else scores
        self.has_answer = has_answer
        self.asked: list[tuple[str, str]] = []

    def answer(
        self, questions: Sequence[str], contexts: Sequence[str], *, n_best: int = 1
    ) -> list[list[Answer]]:
        self.asked += zip(questions, contexts, strict=True)
        answers = []
        for context in contexts:
            words = context.rstrip(".").split()
            word = words[words.index("eat") + 1] if "eat" in words else words[-1]
            word = word.rstrip(".")
            start = context.index(word)
            score = self.scores.get(word, 1.0)
            span = Answer(word, start, start + len(word), score, 0.5, self.has_answer)
            null = Answer("", 0, 0, 0.0, 0.5, self.has_answer)
            answers.append([span] if self.has_answer > 0.5 else [null, span])
        return answers


def answerer(reader: Scripted, **scores: float | bool) -> Answerer:
    collection = Collection.of(DOCUMENTS, ParagraphSettings(max_length=7))
    settings = AnswerScoreSettings(**scores)  # type: ignore[arg-type]
    return Answerer(reader, collection, BM25Index.build(collection.texts), settings)


def test_an_answer_says_where_it_stands_in_its_document() -> None:
    found = answerer(Scripted()).answer(["what do foxes eat ?", "where is Lyon ?"])
    texts = {document.id: document.text for document in DOCUMENTS}
    assert [best[0].text for best in found] == ["mice", "Rhone"]
    for best in found:
        answer = best[0]
        assert texts[answer.document][answer.start : answer.end] == answer.text
    assert found[0][0].paragraph == "animals#2" and found[0][0].rank == 1
    assert 0 < found[0][0].probability <= 1


def test_only_the_best_paragraphs_are_read() -> None:
    reader = Scripted()
    answerer(reader).answer(["foxes eat"], k_paragraphs=2)
    assert reader.asked == [
        ("foxes eat", "Foxes eat mice."),
        ("foxes eat", "Pandas eat bamboo."),
    ]


def test_the_paragraph_and_the_span_both_count() -> None:
    reader = Scripted({"bamboo": 3.0})
    question = ["what do foxes eat"]
    by_paragraph = answerer(reader, span=0.0).answer(question)[0][0]
    by_span = answerer(reader, paragraph=0.0).answer(question)[0][0]
    assert (by_paragraph.text, by_span.text) == ("mice", "bamboo")
    both = answerer(reader, span=0.1).answer(question, n_best=5)[0]
    assert [answer.text for answer in both] == ["mice", "bamboo"]
    assert both[0].score > both[1].score
    assert sum(answer.probability for answer in both) == pytest.approx(1.0)


def test_the_score_is_the_weighted_sum_of_log_probabilities() -> None:
    found = answerer(Scripted({"bamboo": 3.0}), paragraph=0.5, span=2.0, has_answer=3.0).answer(
        ["foxes eat"], n_best=2, k_paragraphs=2
    )[0]
    scores = {answer.text: answer for answer in found}
    # Two scores over their deviation are 1 and -1; the two spans score 1 and 3.
    log_first = 1 - np.log(np.exp(1) + np.exp(-1))
    expected = 0.5 * log_first + 2.0 * (1 - np.log(np.exp(1) + np.exp(3))) + 3.0 * np.log(0.9)
    assert scores["mice"].score == pytest.approx(expected, abs=1e-5)


def test_how_sure_the_reader_is_counts_only_by_its_weight() -> None:
    sure, unsure = Scripted(has_answer=0.99), Scripted(has_answer=0.6)
    for weight, same in ((0.0, True), (1.0, False)):
        scores = [
            answerer(r, has_answer=weight).answer(["foxes eat"])[0][0].score for r in (sure, unsure)
        ]
        assert (scores[0] == scores[1]) is same


def test_a_question_without_a_common_word_gets_no_answer() -> None:
    reader = Scripted()
    assert answerer(reader).answer(["unheard", "foxes eat"])[0] == []
    assert all(question == "foxes eat" for question, _ in reader.asked)
    assert answerer(reader).answer([]) == []


def test_where_the_reader_finds_none_no_answer_is_given_unless_one_must_be() -> None:
    reader = Scripted(has_answer=0.2)
    assert answerer(reader).answer(["foxes eat"]) == [[]]
    assert answerer(reader, may_refuse=False).answer(["foxes eat"])[0][0].text == "mice"


def test_equal_answers_are_given_once() -> None:
    texts = ["Foxes eat mice.", "Cats eat Mice.", "Owls eat mice too."]
    collection = Collection.of([Document(str(n), text) for n, text in enumerate(texts)])
    made = Answerer(Scripted(), collection, BM25Index.build(collection.texts))
    found = made.answer(["what do foxes eat"], n_best=5)[0]
    assert [answer.text for answer in found] == ["mice"]
    assert found[0].paragraph == "0#1"


def test_probabilities_of_paragraphs_do_not_depend_on_the_size_of_the_scores() -> None:
    scores_QK = np.array([[9.0, 5.0, 1.0], [0.3, -np.inf, -np.inf]], np.float32)
    logs_QK = log_probabilities(scores_QK)
    np.testing.assert_allclose(logs_QK[:1], log_probabilities(scores_QK[:1] / 1000 + 3), rtol=1e-3)
    np.testing.assert_allclose(np.exp(logs_QK).sum(axis=1), 1, rtol=1e-6)
    assert np.isneginf(logs_QK[1, 1:]).all() and logs_QK[1, 0] == 0
    assert np.isneginf(log_probabilities(np.full((1, 2), -np.inf))).all()


def judged_world() -> tuple[list, Collection]:
    collection = Collection.of(DOCUMENTS, ParagraphSettings(max_length=7))
    animals, towns = DOCUMENTS[0].text, DOCUMENTS[1].text

    def asked(name: str, context: str, answer: str) -> Question:
        start = (context.index(answer),) if context else ()
        return Question(name, f"question {name}", context, (answer,), start)

    questions = [
        asked("right", animals, "mice"),
        asked("not recalled", towns, "Rhone"),
        asked("wrong paragraph", animals, "bamboo"),
        asked("wrong span", animals, "by day"),
        asked("no answer given", animals, "bamboo"),
        Question("answered in vain", "question", animals),
        Question("right", "question", animals),
    ]
    bamboo, mice, day, seine, rhone = range(5)
    assert [collection.texts[row].split()[-1] for row in (bamboo, rhone)] == ["bamboo.", "Rhone."]
    rows_QK = np.array(
        [
            [mice, bamboo, day],
            [mice, bamboo, rhone],
            [mice, bamboo, day],
            [mice, day, bamboo],
            [mice, bamboo, day],
            [mice, bamboo, day],
            [mice, bamboo, day],
        ]
    )

    def given(text: str, row: int, rank: int) -> list[FoundAnswer]:
        paragraph = collection.paragraphs[row]
        place = (paragraph.document, 0, 1, paragraph.id, row, rank)
        return [FoundAnswer(text, -1.0, 0.5, *place, 1.0, 0.9)]

    answers = [
        given("Mice", mice, 1),
        given("mice", mice, 1),
        given("mice", mice, 1),
        given("fox", day, 2),
        [],
        given("mice", mice, 1),
        [],
    ]
    return judge(questions, answers, collection, rows_QK, k_paragraphs=2), collection


def test_every_error_is_of_its_kind() -> None:
    judged, _ = judged_world()
    assert [one.kind for one in judged] == [one.question.id for one in judged]
    assert [one.rank for one in judged] == [1, 3, 2, 2, 2, 0, 0]
    metrics = answer_metrics(judged)
    assert metrics["exact_match"] == pytest.approx(2 / 7)
    assert metrics["recall@1"] == pytest.approx(1 / 5) and metrics["recall@10"] == 1.0
    assert set(metrics) == {"exact_match", "f1", "mrr", *(f"recall@{k}" for k in DEPTHS)}
    intervals = answer_intervals(judged)
    assert intervals["recall@1"].low <= 0.2 <= intervals["recall@1"].high


def test_the_report_shows_the_errors_in_words() -> None:
    judged, collection = judged_world()
    page = answer_report_html(
        AnswerReport(
            "A <title>", judged, collection, 3, settings={"k": 1}, facts={"Paragraphs": "5"}
        )
    )
    for kind in ("not recalled", "wrong paragraph", "wrong span", "answered in vain"):
        assert f"Errors in words: {kind}" in page
    assert "A &lt;title&gt;" in page and "<svg" in page
    assert "Foxes eat mice." in page and "animals#2" in page and "found at rank 3" in page
    check_page(page, charts=1)


def test_a_report_without_errors_or_answers_is_whole() -> None:
    judged, collection = judged_world()
    right = [replace(judged[0])]
    assert "Errors in words" not in answer_report_html(AnswerReport("t", right, collection, 3))
    unanswerable = [judged[-1]]
    page = answer_report_html(AnswerReport("t", unanswerable, collection, 3))
    assert "Recall of the answer" not in page


@pytest.mark.parametrize(
    "weights",
    [
        {"paragraph": -1},
        {"span": float("inf")},
        dict.fromkeys(("paragraph", "span", "has_answer"), 0),
    ],
)
def test_weights_that_make_no_score_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="none may be below 0, and one must be above"):
        AnswerScoreSettings(**weights)


def test_numbers_below_one_are_refused() -> None:
    made = answerer(Scripted())
    with pytest.raises(ConfigError, match="k_paragraphs is 0; it must be at least 1"):
        made.answer(["x"], k_paragraphs=0)
    with pytest.raises(ConfigError, match="n_best is 0; it must be at least 1"):
        made.answer(["x"], n_best=0)
