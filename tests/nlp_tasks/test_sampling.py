"""Sampling of classes and held-out parts: what is kept, how often, and never a leak."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from idbert.errors import ConfigError, DataError
from nlp_tasks.cls.examples import Examples
from nlp_tasks.cls.labels import LabelMap
from nlp_tasks.cls.sampling import SamplingSettings, folds, hold_out, sample_rows

KINDS = ["single", "multi", "number"]


def classes_of(*counts: int) -> Examples:
    """Examples of the given number of each class, mixed."""
    targets = np.random.default_rng(9).permutation(np.repeat(np.arange(len(counts)), counts))
    return examples_of(targets, LabelMap("single", tuple(f"c{n}" for n in range(len(counts)))))


def examples_of(targets: np.ndarray, labels: LabelMap, texts: Any = None) -> Examples:
    texts = [f"text {row}" for row in range(len(targets))] if texts is None else texts
    return Examples(texts, None, targets, labels, np.arange(len(targets)))


def of_kind(kind: str, num_rows: int = 200) -> Examples:
    rng = np.random.default_rng(3)
    if kind == "single":
        return classes_of(num_rows * 7 // 10, num_rows * 2 // 10, num_rows // 10)
    if kind == "multi":
        targets = (rng.random((num_rows, 4)) < [0.6, 0.3, 0.1, 0.05]).astype(np.float32)
        return examples_of(targets, LabelMap("multi", ("a", "b", "c", "d")))
    return examples_of(rng.normal(size=num_rows).astype(np.float32), LabelMap("number"))


def counts_after(examples: Examples, seed: int = 0, **settings: Any) -> list[int]:
    chosen = sample_rows(examples, SamplingSettings(**settings), seed=seed)
    return np.bincount(examples.targets[chosen], minlength=examples.labels.num_outputs).tolist()


# sampling -------------------------------------------------------------------------------------


def test_without_a_method_every_example_stays_once():
    assert sample_rows(classes_of(5, 2), SamplingSettings()).tolist() == list(range(7))


@pytest.mark.parametrize(
    ("counts", "settings", "after"),
    [
        ((100, 20, 10), {"method": "down"}, [10, 10, 10]),
        ((100, 20, 10), {"method": "down", "ratio": 3}, [30, 20, 10]),
        ((100, 20, 10), {"method": "down", "ratio": 50}, [100, 20, 10]),
        ((100, 20, 10), {"method": "over"}, [100, 100, 100]),
        ((100, 20, 10), {"method": "over", "ratio": 2.5}, [100, 40, 40]),
        ((100, 20, 10), {"method": "over", "ratio": 6}, [100, 20, 17]),
        ((1, 1000), {"method": "over"}, [1000, 1000]),
        ((1, 1000), {"method": "down"}, [1, 1]),
        ((3, 0, 6), {"method": "down"}, [3, 0, 3]),
        ((3, 0, 6), {"method": "over"}, [6, 0, 6]),
    ],
)
def test_classes_come_within_the_ratio(counts: Any, settings: Any, after: list[int]):
    assert counts_after(classes_of(*counts), **settings) == after


def test_down_sampling_repeats_nothing_and_over_sampling_loses_nothing():
    examples = classes_of(50, 7, 3)
    down = sample_rows(examples, SamplingSettings("down", 2))
    assert len(np.unique(down)) == len(down)
    times = np.bincount(sample_rows(examples, SamplingSettings("over")), minlength=60)
    for label in range(3):
        of_class = times[examples.targets == label]
        assert of_class.min() >= 1 and of_class.max() - of_class.min() <= 1


def test_the_seed_decides_which_examples_and_nothing_else():
    examples = classes_of(50, 10)
    settings = SamplingSettings("down")
    first, again = (sample_rows(examples, settings, seed=1) for _ in range(2))
    other = sample_rows(examples, settings, seed=2)
    assert first.tolist() == again.tolist() != other.tolist()
    assert (np.diff(first) > 0).all() and first.dtype == np.int64


@pytest.mark.parametrize("kind", ["multi", "number"])
def test_sampling_of_what_are_no_classes_is_refused(kind: str):
    with pytest.raises(ConfigError, match=f"method is over, .* the labels are of kind {kind}"):
        sample_rows(of_kind(kind), SamplingSettings("over"))
    assert len(sample_rows(of_kind(kind), SamplingSettings())) == 200


def test_ratios_that_cannot_be_or_act_are_refused():
    for ratio in (0.5, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=f"ratio is {ratio}; give 1"):
            SamplingSettings("down", ratio)
    with pytest.raises(ConfigError, match="ratio acts only where method is down or over"):
        SamplingSettings(ratio=2)


def test_a_method_that_is_misspelt_is_refused():
    with pytest.raises(ConfigError, match="no sampling method 'under'. Choose from: none, down"):
        SamplingSettings("under")


def test_every_sampling_setting_acts():
    changes = {"method": ("over", 1), "ratio": ("down", 2)}
    assert set(changes) == {field.name for field in dataclasses.fields(SamplingSettings)}
    examples = classes_of(40, 10)
    before = sample_rows(examples, SamplingSettings("down")).tolist()
    for change in changes.values():
        assert sample_rows(examples, SamplingSettings(*change)).tolist() != before


# held-out parts -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_train_plus_held_out_is_the_input(kind: str):
    train, held_out = hold_out(of_kind(kind), 0.2)
    assert sorted([*train, *held_out]) == list(range(200))
    assert len(held_out) == pytest.approx(40, abs=1)
    assert (np.diff(train) > 0).all() and (np.diff(held_out) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_each_example_is_held_out_in_exactly_one_fold(kind: str):
    parts = folds(of_kind(kind), 7)
    assert len(parts) == 7
    assert sorted(np.concatenate([held_out for _, held_out in parts])) == list(range(200))
    assert {len(held_out) for _, held_out in parts} == {28, 29}
    assert all(sorted([*train, *held_out]) == list(range(200)) for train, held_out in parts)


def test_every_class_has_its_share_in_every_part():
    examples = classes_of(140, 40, 20)
    _, held_out = hold_out(examples, 0.1)
    assert np.bincount(examples.targets[held_out]).tolist() == [14, 4, 2]
    for _, held_out in folds(examples, 5):
        assert np.bincount(examples.targets[held_out]).tolist() == [28, 8, 4]


def test_rows_sorted_by_label_are_not_split_by_their_order():
    examples = examples_of(np.repeat([0, 1], 100), LabelMap("single", ("a", "b")))
    for train, held_out in [hold_out(examples, 0.3), *folds(examples, 2)]:
        assert np.ptp(np.bincount(examples.targets[held_out])) <= 1
        assert set(examples.targets[train]) == {0, 1}
        assert (np.diff(held_out) != 1).any() and (np.diff(held_out) != 2).any()


def test_the_rarest_of_several_labels_has_its_share_too():
    examples = of_kind("multi", 2000)
    _, held_out = hold_out(examples, 0.2)
    shares = examples.targets[held_out].sum(axis=0) / examples.targets.sum(axis=0)
    np.testing.assert_allclose(shares, 0.2, atol=0.05)
    assert shares[3] == pytest.approx(0.2, abs=0.02)


def test_numbers_of_every_size_are_held_out():
    examples = of_kind("number")
    _, held_out = hold_out(examples, 0.2)
    ranks = np.argsort(np.argsort(examples.targets))
    assert np.bincount(ranks[held_out] // 20, minlength=10).tolist() == [4] * 10


def test_equal_texts_never_stand_on_both_sides():
    targets = np.random.default_rng(0).integers(2, size=300)
    texts = [f"text {row % 100}" for row in range(300)]
    examples = examples_of(targets, LabelMap("single", ("a", "b")), texts)
    for train, held_out in [hold_out(examples, 0.3), *folds(examples, 4)]:
        assert not {texts[row] for row in train} & {texts[row] for row in held_out}
        assert len(train) and len(held_out)


def test_a_pair_and_its_mirror_are_on_one_side():
    texts = [f"a{n}" for n in range(30)] + [f"b{n}" for n in range(30)]
    pairs = [*texts[30:], *texts[:30]]
    targets = np.arange(60) % 30 % 2
    examples = Examples(texts, pairs, targets, LabelMap("single", ("a", "b")), np.arange(60))
    for kept, out in folds(examples, 5):
        sides = [{frozenset((texts[n], pairs[n])) for n in side} for side in (kept, out)]
        assert not sides[0] & sides[1]


def test_pairs_are_equal_only_if_both_texts_are():
    texts = ["same"] * 20
    pairs = [str(row) for row in range(20)]
    targets = np.arange(20) % 2
    examples = Examples(texts, pairs, targets, LabelMap("single", ("a", "b")), np.arange(20))
    assert len(hold_out(examples, 0.5)[1]) == 10
    with pytest.raises(DataError, match="holds out none that can be spared"):
        hold_out(Examples(texts, None, targets, examples.labels, np.arange(20)), 0.5)


def test_a_class_of_one_text_is_trained_on():
    examples = classes_of(30, 1, 1, 2)
    for seed in range(10):
        train, held_out = hold_out(examples, 0.5, seed=seed)
        assert set(examples.targets[train]) == {0, 1, 2, 3}
        assert len(held_out) >= 14
    assert len(folds(examples, 5)) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_parts_and_another_seed_others(kind: str):
    examples = of_kind(kind)
    for cut in (
        lambda seed: hold_out(examples, 0.2, seed=seed),
        lambda s: folds(examples, 3, seed=s)[0],
    ):
        first, again, other = cut(5), cut(5), cut(6)
        assert first[1].tolist() == again[1].tolist() != other[1].tolist()


def test_parts_that_cannot_be_are_refused():
    examples = classes_of(3, 3)
    for share in (0, 1, -0.1, 1.5):
        with pytest.raises(ConfigError, match="give one between 0 and 1"):
            hold_out(examples, share)
    with pytest.raises(ConfigError, match="folds is 1; give 2 or more"):
        folds(examples, 1)
    with pytest.raises(DataError, match="6 different texts cannot be split into 7 folds"):
        folds(examples, 7)
    with pytest.raises(DataError, match="0.01 of 6 different texts holds out none"):
        hold_out(examples, 0.01)
    with pytest.raises(DataError, match="without targets cannot be split"):
        folds(Examples(["a", "b"], None, None, None, np.arange(2)), 2)
