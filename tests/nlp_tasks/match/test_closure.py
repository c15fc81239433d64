"""What pairs imply, what contradicts them, and a split that no implication crosses."""

import dataclasses
import itertools
import logging
from typing import Any

import networkx as nx
import numpy as np
import pytest

from idbert.errors import ConfigError, DataError
from nlp_tasks.match.closure import ClosureSettings, close_transitively, split_by_component
from nlp_tasks.match.pairs import NO_ROW, PairExamples

ALL = ClosureSettings(max_pairs=10_000)


def pairs_of(*rows: str, kind: Any = "binary", negatives: Any = None) -> PairExamples:
    """Make pairs of "a=b" and "a!b"."""
    firsts = [row[0] for row in rows]
    seconds = [row[-1] for row in rows]
    targets = None if kind == "none" else np.array([int("=" in row) for row in rows])
    return PairExamples(
        firsts=firsts,
        seconds=seconds,
        targets=targets,
        kind=kind,
        rows=np.arange(len(rows)) + 10,
        negatives=negatives,
    )


def told(examples: PairExamples, implied: bool | None = None) -> set[str]:
    targets = np.ones(len(examples)) if examples.targets is None else examples.targets
    rows = zip(examples.firsts, examples.seconds, targets, examples.rows, strict=True)
    return {
        ("=" if target else "!").join(sorted((first, second)))
        for first, second, target, row in rows
        if implied is None or (row == NO_ROW) == implied
    }


def random_pairs(seed: int, texts: int = 40, pairs: int = 45) -> PairExamples:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 8, size=texts)
    ends = rng.integers(texts, size=(pairs, 2))
    ends = ends[ends[:, 0] != ends[:, 1]]
    return PairExamples(
        firsts=[str(end) for end in ends[:, 0]],
        seconds=[str(end) for end in ends[:, 1]],
        targets=(kinds[ends[:, 0]] == kinds[ends[:, 1]]).astype(np.int64),
        kind="binary",
        rows=np.arange(len(ends)),
    )


def test_equal_to_equal_is_equal_and_equal_to_different_is_different():
    closed, closure = close_transitively(pairs_of("a=b", "b=c", "c!d", "d=e", "f=g"))
    assert told(closed, implied=False) == {"a=b", "b=c", "c!d", "d=e", "f=g"}
    assert told(closed, implied=True) == {"a=c", "a!d", "b!d", "a!e", "b!e", "c!e"}
    assert (closure.groups, closure.largest) == (3, 3)
    assert (closure.implied_positives, closure.implied_negatives) == (1, 5)
    assert closed.rows.tolist() == [10, 11, 12, 13, 14] + [NO_ROW] * 6
    assert closure.contradictions == () and closure.left_out == ()


def test_different_and_different_say_nothing():
    closed, closure = close_transitively(pairs_of("a!b", "b!c", "d=e"))
    assert len(closed) == 3 and closure.implied_negatives == closure.implied_positives == 0


@pytest.mark.parametrize("seed", range(8))
def test_the_closure_is_that_of_a_graph_searched_step_by_step(seed: int):
    examples = random_pairs(seed)
    closed, closure = close_transitively(examples, ALL)
    graph = nx.Graph()
    graph.add_nodes_from(examples.firsts + examples.seconds)
    rows = list(zip(examples.firsts, examples.seconds, examples.targets, strict=True))
    graph.add_edges_from((first, second) for first, second, target in rows if target)
    group = {
        text: number
        for number, texts in enumerate(nx.connected_components(graph))
        for text in texts
    }
    differ = {
        frozenset((group[first], group[second])) for first, second, target in rows if not target
    }
    expected = set()
    for first, second in itertools.combinations(sorted(group), 2):
        if group[first] == group[second]:
            expected.add(f"{first}={second}")
        elif frozenset((group[first], group[second])) in differ:
            expected.add(f"{first}!{second}")
    assert told(closed) == expected
    assert closure.limited == 0 and len(told(closed, implied=True)) == len(closed) - len(examples)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_closed_implies_nothing_more(seed: int):
    closed, _ = close_transitively(random_pairs(seed), ALL)
    again, closure = close_transitively(closed, ALL)
    assert len(again) == len(closed)
    assert closure.implied_positives == closure.implied_negatives == 0


def test_a_contradiction_is_named_with_the_rows_that_say_otherwise(
    caplog: pytest.LogCaptureFixture,
):
    examples = pairs_of("a=b", "b=c", "c=d", "a!d", "x=y", "y=z", "d!x")
    closed, closure = close_transitively(examples)
    (found,) = closure.contradictions
    assert (found.row, found.texts, found.rows) == (13, ("a", "b", "c", "d"), (10, 11, 12))
    assert str(found) == "row 14: 'a' is not 'd', but it is by rows 11, 12, 13"
    assert "pairs: 1 pairs contradict others" in caplog.text and str(found) in caplog.text
    assert closure.left_out == (13,)
    # The group of a to d implies nothing, also not that its texts are not y; that of x does.
    assert told(closed, implied=True) == {"x=z"}
    assert "a!d" not in told(closed) and "d!x" in told(closed)


def test_of_a_pair_that_is_labelled_both_ways_no_row_is_kept():
    closed, closure = close_transitively(pairs_of("a=b", "b!a", "a=b", "a=c"))
    assert told(closed) == {"a=c"} and closure.left_out == (10, 11, 12)
    assert str(closure.contradictions[0]) == "row 12: 'b' is not 'a', but it is by row 11"


def test_a_text_that_is_said_to_differ_from_itself_is_a_contradiction():
    closed, closure = close_transitively(pairs_of("a!a", "a=b", "b=c"))
    assert str(closure.contradictions[0]) == "row 11: 'a' is not 'a', which is the same text"
    assert told(closed) == {"a=b", "b=c", "a=c"}


def test_contradictions_are_refused_if_that_is_wished():
    settings = ClosureSettings(contradictions="refuse")
    rows = ["a=b", *["a!b"] * 7]
    with pytest.raises(DataError) as caught:
        close_transitively(pairs_of(*rows), settings)
    assert "7 pairs contradict others, the first 5:" in str(caught.value)
    assert str(caught.value).count("but it is by row 11") == 5
    assert "Mend the labels, or set contradictions to leave_out" in str(caught.value)
    assert len(close_transitively(pairs_of("a=b", "a!c"), settings)[0]) == 3


def test_a_large_group_gives_no_more_pairs_than_it_may():
    chain = [f"{chr(97 + number)}={chr(98 + number)}" for number in range(20)]
    differs = ["a!A", "A=B", "B=C"]
    examples = pairs_of(*chain, *differs)
    closed, closure = close_transitively(examples, ClosureSettings(max_pairs=7))
    # Of the 21 texts 190 pairs are implied, of A to C one, across the two 62.
    assert (closure.implied_positives, closure.implied_negatives) == (8, 7)
    assert closure.limited == 2 and len(told(closed, implied=True)) == 15
    whole = told(close_transitively(examples, ALL)[0])
    assert told(closed) <= whole and len(whole) == 21 * 20 // 2 + 3 + 63
    again = close_transitively(examples, ClosureSettings(max_pairs=7))[0]
    other = close_transitively(examples, ClosureSettings(max_pairs=7), seed=1)[0]
    assert told(again) == told(closed) != told(other)


def test_pairs_without_labels_imply_positives():
    closed, _ = close_transitively(pairs_of("a=b", "b=c", kind="none"))
    assert told(closed) == {"a=b", "b=c", "a=c"} and closed.targets is None


def test_every_setting_acts():
    changes = {"implied": "positive", "max_pairs": 1, "contradictions": "refuse"}
    assert set(changes) == {field.name for field in dataclasses.fields(ClosureSettings)}
    examples = pairs_of("a=b", "b=c", "c=d", "d!e", "e=f")

    def result(**settings: Any) -> set[str]:
        return told(close_transitively(examples, ClosureSettings(**settings))[0])

    assert result(implied="positive") == {"a=b", "a=c", "a=d", "b=c", "b=d", "c=d", "d!e", "e=f"}
    assert {pair for pair in result(implied="negative") if "=" in pair} == {
        "a=b",
        "b=c",
        "c=d",
        "e=f",
    }
    assert len(result(max_pairs=1)) == 7 < len(result())


def test_what_cannot_be_closed_is_refused():
    scores = dataclasses.replace(pairs_of("a=b"), kind="score", targets=np.float32([1]))
    with pytest.raises(ConfigError, match="pairs of kind score, and only those of kind binary"):
        close_transitively(scores)
    with pytest.raises(ConfigError, match="before they get hard negatives"):
        close_transitively(pairs_of("a=b", negatives=[["c"]]))
    with pytest.raises(ConfigError, match="imply no negatives"):
        close_transitively(pairs_of("a=b", kind="none"), ClosureSettings(implied="negative"))
    with pytest.raises(ConfigError, match="max_pairs is 0"):
        ClosureSettings(max_pairs=0)


# the split ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_no_text_and_no_implied_pair_stands_on_both_sides(seed: int):
    examples = random_pairs(seed, texts=150, pairs=80)
    train, held = split_by_component(examples, 0.2, seed)
    assert sorted([*train.rows, *held.rows]) == examples.rows.tolist()
    assert 0.1 * len(examples) <= len(held) <= 0.2 * len(examples)
    texts = [set(part.firsts + part.seconds) for part in (train, held)]
    assert not texts[0] & texts[1]
    whole = told(close_transitively(examples, ALL)[0])
    parts = [told(close_transitively(part, ALL)[0]) for part in (train, held)]
    assert parts[0] | parts[1] == whole and not parts[0] & parts[1]


def test_hard_negatives_hold_pairs_together_too():
    examples = pairs_of("a=b", "c=d", "e=f", negatives=[["c"], [], []])
    train, held = split_by_component(examples, 0.4)
    assert held.firsts == ["e"] and train.negatives == [["c"], []]


def test_the_same_seed_splits_alike_and_another_differently(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    examples = random_pairs(0, texts=150, pairs=80)
    held = [split_by_component(examples, 0.3, seed)[1].rows.tolist() for seed in (1, 1, 2)]
    assert held[0] == held[1] != held[2]
    assert "pairs held out, without a text in common with the rest" in caplog.text


def test_pairs_that_all_hang_together_cannot_be_split():
    with pytest.raises(DataError, match="3 pairs cannot be split with 0.5 .* the largest of 3"):
        split_by_component(pairs_of("a=b", "b!c", "c=d"), 0.5)
    with pytest.raises(ConfigError, match="share is 1; give a number between 0 and 1"):
        split_by_component(pairs_of("a=b"), 1)
