"""Exact match and F1 as the official programs compute them; the best threshold found."""

import numpy as np
import pytest

from idbert.errors import DataError
from nlp_tasks.mrc.formats import Question
from nlp_tasks.mrc.metrics import (
    ReadingScores,
    best_threshold,
    exact_match,
    f1,
    language_of,
    score_answers,
    with_threshold,
)


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "overlap"),
    [
        ("The Eiffel-Tower!", "eiffeltower", 1.0, 1.0),
        ("a cat", "the  cat", 1.0, 1.0),
        ("in 1998", "1998", 0.0, 2 / 3),
        ("cat cat dog", "cat dog dog", 0.0, 2 / 3),
        ("dog", "cat", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("the", "", 1.0, 1.0),
        ("", "cat", 0.0, 0.0),
    ],
)
def test_english_answers_are_compared_by_words(prediction, answer, exact, overlap):
    assert exact_match(prediction, answer, "english") == exact
    assert f1(prediction, answer, "english") == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "overlap"),
    [
        ("《光荣》和ω-Force。", "光荣和ωforce", 1.0, 1.0),
        ("在美国", "美国", 0.0, 2 * 2 / 5),
        ("一二三x三四五六", "三四五六", 0.0, 2 * 4 / 12),  # the longest run, not the sum
        ("1,000米", "1,000米", 1.0, 1.0),
        ("1998年", "1998", 0.0, 2 / 3),  # a number is one word
        ("北京", "上海", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("", "北", 0.0, 0.0),
        ("他说……", "他说", 0.0, 0.8),  # nor the ellipsis, which is one part
        ("北京.", "北京", 0.0, 0.8),  # the English stop is not removed there
    ],
)
def test_chinese_answers_are_compared_by_their_longest_common_run(
    prediction, answer, exact, overlap
):
    assert exact_match(prediction, answer, "chinese") == exact
    assert f1(prediction, answer, "chinese") == pytest.approx(overlap)


def test_the_best_of_several_accepted_answers_counts():
    question = Question("a", "?", "in 1998 or so", ("1998", "in 1998"), (3, 0))
    scores = score_answers(["in 1998", "1998 or"], [question, question], "english")
    assert scores.exact_match_Q.tolist() == [1.0, 0.0]
    assert scores.f1_Q.tolist() == [1.0, pytest.approx(2 / 3)]
    assert scores.means() == {"exact_match": 0.5, "f1": pytest.approx(5 / 6)}


def test_figures_are_split_where_some_questions_have_no_answer():
    asked = [
        Question("a", "?", "x y", ("x",), (0,)),
        Question("b", "?", "x"),
        Question("c", "?", "x"),
    ]
    figures = score_answers(["x", "", "x"], asked, "english").means()
    assert figures["answerable_f1"] == 1.0 and figures["unanswerable_exact_match"] == 0.5
    assert figures["f1"] == pytest.approx(2 / 3)


def test_the_best_threshold_is_that_of_trying_all():
    draw = np.random.default_rng(0)
    for _ in range(50):
        count = int(draw.integers(1, 12))
        has_answer = draw.random(count) < 0.6
        overlap = np.where(has_answer, draw.random(count).round(1), 0.0)
        answered = ReadingScores(np.floor(overlap), overlap, has_answer)
        margins = draw.integers(-3, 4, count).astype(np.float64)
        threshold, scores = best_threshold(margins, answered)
        tried = [
            with_threshold(answered, margins, bound).f1_Q.mean() for bound in np.arange(-4, 5, 0.5)
        ]
        assert scores.f1_Q.mean() == pytest.approx(max(tried))
        again = with_threshold(answered, margins, threshold)
        assert np.array_equal(again.f1_Q, scores.f1_Q) and np.isfinite(threshold)


def test_a_margin_of_minus_infinity_leaves_the_threshold_a_number():
    answered = ReadingScores(np.zeros(2), np.array([1.0, 0.0]), np.array([True, False]))
    threshold, scores = best_threshold(np.array([2.0, -np.inf]), answered)
    assert np.isfinite(threshold) and scores.f1_Q.tolist() == [1.0, 1.0]


def test_without_a_threshold_all_are_answered():
    answered = ReadingScores(np.ones(1), np.ones(1), np.array([True]))
    assert with_threshold(answered, np.array([-9.0]), None) is answered


def test_the_language_is_that_of_most_contexts():
    chinese, english = Question("a", "?", "这里"), Question("b", "?", "here")
    assert language_of([chinese, chinese, english]) == "english"  # one context each
    assert language_of([chinese, Question("c", "?", "那里"), english]) == "chinese"


def test_answers_and_questions_must_be_as_many():
    with pytest.raises(DataError, match="1 questions have 2 answers"):
        score_answers(["a", "b"], [Question("a", "?", "x")], "english")
