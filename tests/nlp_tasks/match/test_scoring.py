"""What towers say of pairs, as a library and while they are trained."""

from pathlib import Path

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError, DataError
from nlp_tasks.match import scoring
from nlp_tasks.match.matcher import Matcher, MatchFacts
from nlp_tasks.match.pair_classifier import PairClassifier
from nlp_tasks.match.scoring import Question, answer, encode, ranking, validation_of
from nlp_tasks.match.settings import TowerSettings
from tests.nlp_tasks.match.match_world import pairs, tiny_towers


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory):
    return tiny_towers(tmp_path_factory.mktemp("bert"))


def test_texts_come_back_in_their_order_however_often_they_occur(towers):
    texts = ["good w1", "bad w2 w3", "good w1"]
    vectors = encode(towers, texts)
    np.testing.assert_allclose(vectors.numpy(), towers.encode(texts), atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 20, 2**24])
def test_a_ranking_is_that_of_all_cosines_without_what_is_left_out(monkeypatch, at_once: int):
    monkeypatch.setattr(scoring, "SCORES_AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(0)
    queries = torch.randn(7, 4, generator=draw)
    candidates = torch.randn(9, 4, generator=draw)
    left_out = np.array([-1, 3, -1, 0, -1, -1, 8])
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], candidates[None], dim=2)
    ranked = ranking(queries, candidates, left_out)
    for query, own in enumerate(left_out):
        expected = [n for n in cosines[query].argsort(descending=True).tolist() if n != own]
        assert ranked[query].tolist() == [*expected, *([-1] if own >= 0 else [])]


def test_a_perfect_search_finds_every_second_text_first(towers):
    examples = pairs(12, "none")
    same = examples.take(np.arange(12))
    object.__setattr__(same, "seconds", [f"{text} " for text in same.firsts])
    question = Question.about(same, has_classifier=False)
    assert question == Question(labelled=False, searched=True)
    assert question.metrics(same) == ("mrr", "recall@1", "recall@10")
    assert answer(towers, None, same, question).figures()["mrr"] == 1.0


@pytest.mark.parametrize("kind", ["binary", "score", "class"])
def test_a_classifier_answers_where_there_is_one(towers, kind: str):
    examples = pairs(12, kind)
    linear = torch.nn.Linear(32, 2 if kind == "class" else 1)
    classifier = PairClassifier(linear, "uv", ("no", "yes"))
    with_one = answer(towers, classifier, examples, Question.about(examples, has_classifier=True))
    vectors = [encode(towers, texts) for texts in (examples.firsts, examples.seconds)]
    probabilities = classifier.probabilities(*vectors).numpy()
    expected = np.log(probabilities) if kind == "class" else probabilities[:, 1]
    np.testing.assert_allclose(with_one.scored.scores, expected, atol=1e-6)
    if kind != "class":
        question = Question.about(examples, has_classifier=False)
        without = answer(towers, None, examples, question)
        np.testing.assert_array_equal(without.scored.scores, without.cosines_N)


def test_where_labels_decide_a_validation_searches_nothing(towers, monkeypatch):
    examples = pairs(12, "binary")
    question = Question.about(examples, has_classifier=False)
    expected = answer(towers, None, examples, question).figures()
    monkeypatch.setattr(scoring, "ranking", None)
    assert validation_of(towers, None, examples, question)() == expected


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ConfigError, match="its pairs have classes, and no classifier is trained"):
        Question.about(pairs(8, "class"), has_classifier=False)
    alone = pairs(8, "none")
    object.__setattr__(alone, "seconds", alone.firsts)
    with pytest.raises(ConfigError, match="each of its texts is only paired with itself"):
        Question.about(alone, has_classifier=False)
    searched = Question.about(pairs(8, "class"), has_classifier=False, positive="same")
    assert searched.searched and not searched.labelled


def test_a_matcher_compares_texts(towers):
    matcher = Matcher(towers, MatchFacts("binary", "cosent", thresholds={"accuracy": 0.5}))
    firsts, seconds = ["good w1", "bad w3"], ["good w1", "odd w7 w8"]
    similarity = matcher.similarity(firsts, seconds)
    assert similarity[0] == pytest.approx(1.0, abs=1e-5)
    assert matcher.similarity([], []).shape == (0,)
    assert matcher.is_same(firsts, seconds).tolist() == (similarity >= 0.5).tolist()
    with pytest.raises(ConfigError, match="'cosent', which has no classifier"):
        matcher.probabilities(firsts, seconds)
    with pytest.raises(DataError, match="as many first texts as second ones"):
        matcher.similarity(firsts, ["one"])
    with pytest.raises(DataError, match="1 of 1 texts are empty"):
        matcher.similarity(["a"], [" "])
    with pytest.raises(ConfigError, match="has no threshold"):
        Matcher(towers, MatchFacts("score", "cosent")).is_same(firsts, seconds)


def test_two_towers_read_first_and_second_texts(tmp_path: Path):
    towers = tiny_towers(tmp_path, TowerSettings(two_towers=True))
    with torch.no_grad():
        next(towers[0].sub_modules["query"].parameters()).mul_(3.0)
    examples = pairs(6)
    question = Question.about(examples, has_classifier=False)
    cosines = answer(towers, None, examples, question).cosines_N
    u, v = towers.encode_query(examples.firsts), towers.encode_document(examples.seconds)
    expected = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
