"""Negatives do not answer their question, come in the wanted ratio, and never fail for few."""

import numpy as np
import pytest

from idbert.errors import ConfigError
from idbert.retrieval.bm25 import BM25Settings
from nlp_tasks.mrc.formats import Question, Questions
from nlp_tasks.mrc.negatives import (
    NegativeSettings,
    distinct_rows,
    draw_negatives,
    with_negatives,
)
from nlp_tasks.mrc.paragraphs import Collection
from nlp_tasks.mrc.recall import RecallSettings


def world(count: int = 40) -> Questions:
    """Ten topics; a question shares its topic's word with every tenth context."""
    rows = []
    for number in range(count):
        context = f"the topic{number % 10} has the answer{number} in filler{number}"
        answer = f"answer{number}"
        rows.append(
            Question(
                f"q{number}",
                f"which of topic{number % 10} ?",
                context,
                (answer,),
                (context.index(answer),),
            )
        )
    return Questions(rows, "world")


def test_negatives_follow_their_question_and_have_no_answer() -> None:
    questions = world()
    made = with_negatives(questions, None, NegativeSettings(per_question=4), seed=0)
    assert len(made) == 5 * len(questions)
    for place, question in enumerate(questions):
        block = made.rows[5 * place : 5 * place + 5]
        assert block[0] == question
        contexts = {one.context for one in block}
        assert len(contexts) == 5
        for number, negative in enumerate(block[1:], start=1):
            assert negative.id == f"{question.id}~{number}"
            assert negative.text == question.text and not negative.has_answer
            assert question.answers[0] not in negative.context.split()


def topics(questions: Questions, share: float, seed: int = 0) -> np.ndarray:
    """For each question, how many of its negatives are of its own topic."""
    settings = NegativeSettings(per_question=2, local_share=share)
    rows = draw_negatives(questions.rows, Collection.of_contexts(questions), settings, seed)
    return np.array([[row % 10 == n % 10 for row in rows[n]] for n in range(len(rows))]).sum(axis=1)


def test_local_ones_are_among_the_recalled_and_the_rest_is_drawn_from_all() -> None:
    questions = world()
    assert (topics(questions, 1.0) == 2).all()
    assert (topics(questions, 0.5) >= 1).all()
    assert topics(questions, 0.0).mean() < 0.7  # by chance 2 * 3 / 39


def test_the_seed_decides() -> None:
    settings = NegativeSettings(per_question=3)
    first, again, other = (
        with_negatives(world(), None, settings, seed=seed).contexts for seed in (0, 0, 1)
    )
    assert first == again and first != other


def test_where_few_are_left_a_question_gets_fewer() -> None:
    questions = Questions(
        [
            Question("1", "bamboo", "pandas eat bamboo", ("bamboo",), (12,)),
            Question("2", "bamboo", "bamboo is a grass", ("grass",), (12,)),
            Question("3", "bamboo", "there is bamboo", (), ()),
        ],
        "file",
    )
    settings = NegativeSettings(per_question=20, local_share=0.5)
    made = with_negatives(questions, None, settings, seed=0)
    assert [question.id for question in made] == ["1", "2", "2~1", "2~2", "3"]
    alone = Questions([Question("1", "a", "a b", ("b",), (2,))], "file")
    assert with_negatives(alone, None, settings, seed=0).rows == alone.rows


def test_where_nothing_is_recalled_all_are_drawn_from_the_collection() -> None:
    rows = [Question("1", "？！", "one", ("one",), (0,)), Question("2", "?", "two", ("two",), (0,))]
    settings = NegativeSettings(per_question=1, local_share=1.0)
    made = with_negatives(Questions(rows, "file"), None, settings, seed=0)
    assert [question.context for question in made] == ["one", "two", "two", "one"]


def test_without_negatives_the_questions_stay_as_they_are() -> None:
    questions = world(3)
    assert with_negatives(questions, None, NegativeSettings(), seed=0) is questions


def test_every_setting_acts() -> None:
    def drawn(settings: NegativeSettings) -> list[str]:
        return with_negatives(world(), None, settings, seed=0).contexts

    plain = drawn(NegativeSettings(per_question=2))
    by_length = RecallSettings(bm25=BM25Settings(engine="bm25s", b=1.0, k1=0.0))
    assert plain != drawn(NegativeSettings(per_question=3))
    assert plain != drawn(NegativeSettings(per_question=2, local_share=1.0))
    assert plain != drawn(NegativeSettings(per_question=2, depth=2))
    assert plain != drawn(NegativeSettings(per_question=2, depth=3, recall=by_length))


@pytest.mark.parametrize("num_rows", [1, 2, 3, 10, 97, 1000])
def test_drawn_rows_differ_and_cover_all(num_rows: int) -> None:
    draw = np.random.default_rng(0)
    rows_QK = distinct_rows(200, num_rows, min(num_rows, 8), draw)
    for rows in rows_QK:
        real = rows[rows >= 0]
        assert len(set(real.tolist())) == len(real) >= min(num_rows, 8)
    assert set(np.unique(rows_QK[rows_QK >= 0])) <= set(range(num_rows))
    whole = distinct_rows(3, num_rows, num_rows, draw)
    assert all(sorted(rows[rows >= 0]) == list(range(num_rows)) for rows in whole)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"per_question": -1}, "per_question is -1; it must be at least 0"),
        ({"per_question": 1, "depth": 0}, "depth is 0; it must be at least 1"),
        ({"per_question": 1, "local_share": 2}, "local_share is 2; it must be from 0 to 1"),
        ({"local_share": 0.1}, "local_share does not act while per_question is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NegativeSettings(**settings)  # type: ignore[arg-type]
