"""Negatives do not answer their question, come in the wanted ratio, and never fail for few."""

import json
from pathlib import Path

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
from nlp_tasks.mrc.paragraphs import Collection, ParagraphSettings
from nlp_tasks.mrc.parts import QuestionData, read_parts
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
                f"which{number} of topic{number % 10} ?",
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


def test_the_share_of_local_ones_is_that_which_was_asked_for_in_the_mean() -> None:
    settings = NegativeSettings(per_question=1, local_share=0.5)
    questions = world(400)
    rows = draw_negatives(questions.rows, Collection.of_contexts(questions), settings, 0)
    local = np.mean([chosen[0] % 10 == place % 10 for place, chosen in enumerate(rows)])
    assert 0.45 < local < 0.65  # half, and by chance a tenth of the rest


def test_what_answers_a_question_in_the_same_words_is_no_negative() -> None:
    rows = [
        Question(str(n), "Who  wrote it?" if n else "who wrote IT?", f"{name} wrote it", (name,))
        for n, name in enumerate(("Ada", "Bo"))
    ]
    rows = [Question(q.id, q.text, q.context, q.answers, (0,)) for q in rows]
    rows.append(Question("2", "what?", "it is a play", ("play",), (8,)))
    settings = NegativeSettings(per_question=2)
    made = with_negatives(Questions(rows, "file"), None, settings, seed=0)
    contexts = {name: [q.context for q in made if q.id.startswith(f"{name}~")] for name in "012"}
    assert contexts["0"] == contexts["1"] == ["it is a play"]
    assert sorted(contexts["2"]) == ["Ada wrote it", "Bo wrote it"]


@pytest.mark.parametrize("per_question", [0, 2])
def test_contexts_to_train_on_may_be_cut_and_no_part_with_an_answer_is_a_negative(
    tmp_path: Path, per_question: int
) -> None:
    context = "Ada wrote the play. The hall was full. It rained in June. Miss King came late."
    given = {"text": ["Ada", "Miss King"], "answer_start": [0, context.index("Miss")]}
    row = {"question": "who?", "context": context, "answers": given}
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    data = QuestionData(
        train=str(path),
        dev_share=0.0,
        paragraphs=ParagraphSettings(5),
        negatives=NegativeSettings(per_question=per_question),
    )
    train = read_parts(data).train
    assert train[0].context == "Ada wrote the play." and train[0].answers == ("Ada",)
    negatives = {question.context for question in train.rows[1:]}
    assert negatives == ({"The hall was full.", "It rained in June."} if per_question else set())
    whole = read_parts(QuestionData(train=str(path), dev_share=0.0)).train
    assert [question.context for question in whole] == [context]


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
            Question("2", "bamboo is", "bamboo is a grass", ("grass",), (12,)),
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
        ({"depth": 9}, "depth does not act while per_question is 0"),
        (
            {
                "per_question": 1,
                "local_share": 0,
                "recall": RecallSettings(bm25=BM25Settings(k1=1)),
            },
            "recall does not act while local_share is 0",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NegativeSettings(**settings)  # type: ignore[arg-type]
