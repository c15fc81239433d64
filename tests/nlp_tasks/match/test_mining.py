"""Hard negatives: near, and never a text that is known to belong."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from idbert.errors import ConfigError, DataError
from nlp_tasks.match.mining import (
    BM25Candidates,
    MiningSettings,
    VectorCandidates,
    candidate_search,
    labelled_negatives,
    mine_hard_negatives,
    negatives_as_rows,
)
from nlp_tasks.match.pairs import NO_ROW, PairExamples

PLACES = {"a": 0.0, "A": 0.1, "b": 0.2, "B": 0.35, "c": 0.5, "C": 0.7, "d": 1.0, "D": 1.5}
"""Texts on an arc: the nearer two of them, the larger the cosine of their vectors."""


def encode(texts: list[str]) -> np.ndarray:
    angles = np.array([PLACES[text] for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def pairs_of(*rows: str, kind: Any = "none", **more: Any) -> PairExamples:
    targets = None if kind == "none" else np.array([int("=" in row) for row in rows])
    return PairExamples(
        firsts=[row[0] for row in rows],
        seconds=[row[-1] for row in rows],
        targets=targets,
        kind=kind,
        rows=np.arange(len(rows)),
        **more,
    )


PAIRS = pairs_of("a=A", "b=B", "c=C", "d=D")


def mined(examples: PairExamples = PAIRS, seed: int = 0, **settings: Any) -> list[list[str]]:
    chosen = MiningSettings(**{"method": "vectors", **settings})
    search = candidate_search(examples, chosen, encode)
    negatives = mine_hard_negatives(examples, search, chosen, seed=seed).negatives
    assert negatives is not None
    return negatives


def test_the_nearest_text_that_does_not_belong_is_the_negative():
    assert mined() == [["B"], ["A"], ["B"], ["C"]]
    assert mined(per_text=2) == [["B", "C"], ["A", "C"], ["B", "A"], ["C", "B"]]


def test_the_best_are_passed_over_if_that_is_wished():
    assert mined(skip_top=1) == [["C"], ["C"], ["A"], ["B"]]


def test_with_a_margin_a_negative_scores_below_the_positive():
    # B is nearer to c than its own C is.
    assert mined(margin=0) == [["B"], ["C"], ["A"], ["B"]]
    # cos 0.1 = 0.995 is what a has with A; that with B is 0.056 below, with C 0.23.
    assert mined(margin=0.1)[0] == ["C"]


def test_a_pair_whose_positive_is_not_in_the_pool_gets_none_with_a_margin():
    examples = pairs_of("a=A", "b=D", "c=C")
    assert mined(examples, pool=2, margin=0)[1] == []
    assert mined(examples, pool=2)[1] == ["A"]


def test_a_known_positive_is_never_taken_also_by_what_pairs_imply():
    examples = pairs_of("a=A", "b=A", "b=B", "c=C", kind="binary")
    assert mined(examples, per_text=3) == [["C"], ["C"], ["C"], ["B", "A"]]
    # Without b = A the two groups are strangers.
    examples = pairs_of("a=A", "b!A", "b=B", "c=C", kind="binary")
    assert mined(examples, per_text=3) == [["B", "C"], [], ["A", "C"], ["B", "A"]]


@pytest.mark.parametrize("seed", range(3))
def test_in_a_random_world_no_negative_belongs_to_its_text(seed: int):
    rng = np.random.default_rng(seed)
    classes = rng.integers(6, size=60)
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    ends = [(a, b) for a, b in rng.integers(60, size=(90, 2)) if classes[a] == classes[b]]
    examples = PairExamples(
        firsts=[str(a) for a, _ in ends],
        seconds=[str(b) for _, b in ends],
        targets=None,
        kind="none",
        rows=np.arange(len(ends)),
    )
    search = VectorCandidates(
        [str(number) for number in range(60)],
        lambda texts: vectors[[int(text) for text in texts]],
    )
    settings = MiningSettings(method="vectors", per_text=5, pool=60)
    negatives = mine_hard_negatives(examples, search, settings).negatives
    groups = {text: {text} for text in examples.firsts + examples.seconds}
    for first, second in zip(examples.firsts, examples.seconds, strict=True):
        union = groups[first] | groups[second]
        for text in union:
            groups[text] = union
    for first, found in zip(examples.firsts, negatives, strict=True):
        assert len(set(found)) == 5 and not groups[first] & set(found)
        scores = vectors @ vectors[int(first)]
        free = [row for row in np.argsort(-scores) if str(row) not in groups[first]]
        assert found == [str(row) for row in free[:5]]


def test_any_of_the_pool_may_be_taken():
    one, again, other = (mined(choose="random", seed=seed) for seed in (0, 0, 5))
    assert one == again != other
    assert all(text not in "aA" for text in one[0])


def test_words_in_common_find_negatives_too():
    texts = ["opening hours on sunday", "opening hours on monday", "price of a parcel", "parcel"]
    examples = PairExamples(
        firsts=["opening hours", "what is the price of sending a parcel"],
        seconds=[texts[0], texts[2]],
        targets=None,
        kind="none",
        rows=np.arange(2),
    )
    found = mine_hard_negatives(examples, BM25Candidates(texts), MiningSettings(method="bm25"))
    assert found.negatives == [["opening hours on monday"], ["parcel"]]
    settings = MiningSettings(method="bm25")
    assert isinstance(candidate_search(examples, settings), BM25Candidates)


def test_two_towers_search_with_vectors_of_their_own():
    settings = MiningSettings(method="vectors")
    search = candidate_search(PAIRS, settings, encode, encode_queries=lambda texts: -encode(texts))
    assert mine_hard_negatives(PAIRS, search, settings).negatives[0] == ["D"]


def test_negatives_that_were_there_come_first():
    examples = dataclasses.replace(PAIRS, negatives=[["D"], ["A"], [], []])
    assert mined(examples) == [["D", "B"], ["A"], ["B"], ["C"]]


def test_a_negative_can_be_a_row_of_its_own():
    examples = pairs_of("a=A", "b!B", kind="binary", negatives=[["C", "D"], []])
    rows = negatives_as_rows(examples)
    assert (rows.firsts, rows.seconds) == (["a", "b", "a", "a"], ["A", "B", "C", "D"])
    assert (rows.targets.tolist(), rows.rows.tolist()) == ([1, 0, 0, 0], [0, 1, NO_ROW, NO_ROW])
    assert rows.negatives is None and negatives_as_rows(PAIRS).targets.tolist() == [1] * 4


def test_labels_say_which_texts_do_not_belong():
    examples = pairs_of("a=A", "a!B", "a!C", "b=D", kind="binary")
    assert labelled_negatives(examples) == [["B", "C"], ["B", "C"], ["B", "C"], []]
    classes = dataclasses.replace(examples, kind="class", names=("against", "for"))
    assert labelled_negatives(classes, "against")[0] == ["B", "C"]
    with pytest.raises(
        ConfigError, match="no label 'against' of pairs of kind binary .* are: None"
    ):
        labelled_negatives(examples, "against")
    with pytest.raises(ConfigError, match="there are: against, for"):
        labelled_negatives(classes)


def test_what_belongs_by_other_pairs_is_no_labelled_negative():
    examples = pairs_of("a=A", "a!A", "a=B", "b=B", "b!A", "a!C", kind="binary")
    assert labelled_negatives(examples) == [["C"], ["C"], ["C"], [], [], ["C"]]
    classes = dataclasses.replace(examples, kind="class", names=("against", "for"))
    # Of classes nothing follows, but a pair with two of them says neither.
    assert labelled_negatives(classes, "against") == [["C"], ["C"], ["C"], ["A"], ["A"], ["C"]]


def test_every_setting_acts():
    changes = {
        "method": "bm25",
        "per_text": 2,
        "pool": 1,
        "skip_top": 1,
        "margin": 0.2,
        "choose": "random",
    }
    assert set(changes) == {field.name for field in dataclasses.fields(MiningSettings)}
    search = candidate_search(PAIRS, MiningSettings(method="bm25"), encode)
    assert isinstance(search, BM25Candidates)
    for name in ("per_text", "pool", "skip_top", "margin", "choose"):
        assert mined(**{name: changes[name]}, seed=3) != mined(seed=3), name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"per_text": 0, "method": "bm25"}, "per_text is 0; give 1 or more"),
        ({"skip_top": -1, "method": "bm25"}, "skip_top is -1; give 0 or more"),
        ({"pool": 2, "skip_top": 2, "method": "bm25"}, "pool is 2, too few to pass over 2"),
        ({"margin": -0.1, "method": "bm25"}, "margin is -0.1; give 0 or more"),
        ({"per_text": 3}, "per_text acts only where method is vectors or bm25"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        MiningSettings(**settings)


def test_what_cannot_be_mined_is_refused():
    with pytest.raises(DataError, match="no hard negative was found for any of 1 pairs"):
        mined(pairs_of("a=A"))
    with pytest.raises(DataError, match="no pair belongs together"):
        mined(pairs_of("a!A", kind="binary"))
    with pytest.raises(ConfigError, match="nothing can be mined by method none"):
        candidate_search(PAIRS, MiningSettings())
    scores = dataclasses.replace(PAIRS, kind="score", targets=np.float32([1, 2, 3, 4]))
    with pytest.raises(ConfigError, match="pairs of kind score"):
        mined(scores)
