"""Pairs made of labelled texts: the same class is a positive, another class a negative."""

import numpy as np
import pytest

from idbert.errors import ConfigError, DataError
from nlp_tasks.match.from_classes import pairs_of_classes

TEXTS = [f"text {number}" for number in range(60)]
LABELS = ["abc"[min(number % 7, 2)] for number in range(60)]
CLASS = dict(zip(TEXTS, LABELS, strict=True))


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (3, 0), (0, 4), (5, 2)])
def test_positives_are_of_one_class_and_negatives_of_two(positives: int, negatives: int):
    pairs = pairs_of_classes(
        TEXTS, LABELS, positives_per_text=positives, negatives_per_text=negatives
    )
    assert pairs.kind == "binary"
    for first, second, target in zip(pairs.firsts, pairs.seconds, pairs.targets, strict=True):
        assert (CLASS[first] == CLASS[second]) == bool(target) and first != second
    unordered = {frozenset(pair) for pair in zip(pairs.firsts, pairs.seconds, strict=True)}
    assert len(unordered) == len(pairs)
    assert [TEXTS[row] for row in pairs.rows] == pairs.firsts


def test_every_text_stands_in_as_many_positives_as_any_other():
    pairs = pairs_of_classes(TEXTS, LABELS, positives_per_text=2, negatives_per_text=0)
    counts = dict.fromkeys(TEXTS, 0)
    for text in pairs.firsts + pairs.seconds:
        counts[text] += 1
    assert set(counts.values()) == {4} and len(pairs) == 120


def test_every_text_gets_its_negatives_from_all_over():
    pairs = pairs_of_classes(TEXTS, LABELS, positives_per_text=0, negatives_per_text=3)
    assert 120 < len(pairs) <= 180  # less those drawn from both ends
    assert set(pairs.firsts) == set(TEXTS)
    partners = {CLASS[second] for second in pairs.seconds}
    assert partners == {"a", "b", "c"}


def test_more_than_there_are_gives_all_there_are():
    pairs = pairs_of_classes(
        ["a", "b", "c", "d"], [0, 0, 0, 1], positives_per_text=9, negatives_per_text=9
    )
    assert np.bincount(pairs.targets).tolist() == [3, 3]


@pytest.mark.parametrize("seed", range(5))
def test_a_text_with_few_others_is_paired_with_all_of_them(seed: int):
    pairs = pairs_of_classes(
        list("abcdefgh"), list("xxxxxxyy"), positives_per_text=0, negatives_per_text=3, seed=seed
    )
    assert len(pairs) == 12  # each x with both y


def test_the_same_seed_makes_the_same_pairs():
    first, again, other = (pairs_of_classes(TEXTS, LABELS, seed=seed) for seed in (1, 1, 2))
    assert (first.firsts, first.seconds) == (again.firsts, again.seconds)
    assert first.seconds != other.seconds


def test_repeated_texts_count_once_and_unclear_ones_not_at_all(caplog: pytest.LogCaptureFixture):
    texts = ["a", "a", "b", "c", "c", "d", "e"]
    labels = ["x", "x", "x", "x", "y", "y", "z"]
    pairs = pairs_of_classes(texts, labels, positives_per_text=9, negatives_per_text=9)
    assert "the texts of 2 rows have several labels (rows 4, 5), and are left out" in caplog.text
    assert "2 classes have only one text, which gets no positive" in caplog.text
    told = {
        (frozenset((first, second)), int(target))
        for first, second, target in zip(pairs.firsts, pairs.seconds, pairs.targets, strict=True)
    }
    assert told == {
        (frozenset("ab"), 1),
        *((frozenset(pair), 0) for pair in ("ad", "ae", "bd", "be", "de")),
    }


@pytest.mark.parametrize(
    ("texts", "labels", "counts", "error", "words"),
    [
        ("ab", "xx", (0, 0), ConfigError, "positives_per_text is 0 and negatives_per_text 0"),
        ("ab", "xx", (-1, 2), ConfigError, "give numbers from 0"),
        ("ab", "xy", (1, 0), DataError, "no class has two different texts"),
        ("aa", "xx", (1, 0), DataError, "no class has two different texts"),
        ("ab", "xx", (0, 1), DataError, "negatives need two classes, and there is 1"),
        ("abc", "xx", (1, 1), DataError, "3 texts and 2 labels"),
    ],
)
def test_what_gives_no_pairs_is_refused(
    texts: str, labels: str, counts: tuple[int, int], error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        pairs_of_classes(
            list(texts), list(labels), positives_per_text=counts[0], negatives_per_text=counts[1]
        )
