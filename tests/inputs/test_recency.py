"""Recency-sampled targets: what is masked, and what a next-item model has a loss at."""

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import BatchSettings, PlannedBatch
from idbert.inputs.item_batches import NextItemData
from idbert.inputs.masking import IGNORED, MaskingSettings, mask_items, next_targets
from idbert.inputs.recency import TargetSettings, chosen_at_least_once, log_importance
from idbert.inputs.sequences import Sequences
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.rows import FIRST_ITEM, PAD, UNK
from idbert.training.trainer import training_data

VOCAB_SIZE = 104
BOTH = pytest.mark.parametrize("objective", ["masked", "next"])


def targets(
    objective, lengths, probability=0.2, recency=0.8, numbers=None, rows=None, seed=7, epoch=3
):
    """Which positions are targets, for either objective."""
    lengths = np.asarray(lengths)
    numbers = np.arange(len(lengths)) if numbers is None else numbers
    if rows is None:
        rows = np.full((len(lengths), lengths.max()), FIRST_ITEM)
        rows = np.where(np.arange(rows.shape[1]) < lengths[:, None], rows, PAD)
    drawn = {"seed": seed, "epoch": epoch}
    if objective == "masked":
        settings = MaskingSettings(probability, recency=recency)
        _, labels = mask_items(
            rows, lengths, numbers, settings=settings, vocab_size=VOCAB_SIZE, **drawn
        )
        return labels != IGNORED
    settings = TargetSettings(probability, recency)
    return next_targets(rows >= FIRST_ITEM, lengths, numbers, settings=settings, **drawn)


@BOTH
def test_positions_are_targets_as_often_as_draws_with_replacement_meet_them(objective):
    # 20 events and a probability of 0.2 are 4 draws of the paper.
    found = targets(objective, np.full(20_000, 20)).mean(axis=0)
    rng = np.random.default_rng(0)
    share = 0.8 ** np.arange(19, -1, -1)
    drawn = rng.choice(20, (20_000, 4), p=share / share.sum())
    expected = np.array([(drawn == place).any(axis=1).mean() for place in range(20)])
    assert found == pytest.approx(expected, abs=0.02)


@BOTH
def test_the_nearer_to_one_the_more_alike_are_all_events(objective):
    lengths = np.full(5000, 20)
    steep, flat = (targets(objective, lengths, recency=recency) for recency in (0.5, 0.999999))
    assert steep[:, -1].mean() > 0.9 and steep[:, :10].mean() < 0.01
    shares = flat.mean(axis=0)
    assert shares == pytest.approx(np.full(20, shares.mean()), abs=0.025)
    assert shares.mean() == pytest.approx(1 - (1 - 1 / 20) ** 4, abs=0.01)


@BOTH
def test_one_target_is_drawn_by_importance_where_no_more_are_wanted(objective):
    found = targets(objective, np.full(20_000, 6), probability=0.0, recency=0.5)
    assert (found.sum(axis=1) == 1).all()
    share = 0.5 ** np.arange(5, -1, -1)
    assert found.mean(axis=0) == pytest.approx(share / share.sum(), abs=0.02)


@BOTH
@pytest.mark.parametrize("recency", [None, 1e-6, 0.8])
def test_every_sequence_has_a_target_and_padding_and_unknown_items_are_none(objective, recency):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 301, 300)
    rows = np.where(np.arange(300) < lengths[:, None], FIRST_ITEM, PAD)
    rows[::3, 100:] = np.where(rows[::3, 100:] == PAD, PAD, UNK)  # the newest are unknown
    found = targets(objective, lengths, recency=recency, rows=rows)
    assert found.any(axis=1).all()
    assert (rows[found] >= FIRST_ITEM).all()


@BOTH
def test_targets_depend_on_seed_epoch_and_sequence_alone(objective):
    lengths = np.random.default_rng(0).integers(20, 60, 200)
    found = targets(objective, lengths)
    assert np.array_equal(found, targets(objective, lengths))
    some = np.array([17, 3, 150])
    width = lengths[some].max()
    assert np.array_equal(targets(objective, lengths[some], numbers=some), found[some, :width])
    for other in ({"seed": 8}, {"epoch": 4}, {"numbers": np.arange(200) + 1}):
        assert not np.array_equal(targets(objective, lengths, **other), found)


def test_a_single_event_is_chosen_for_certain_if_it_is_drawn_at_all():
    scores = log_importance(np.array([1, 0]), 2, 0.5)
    candidates = np.array([[True, False], [False, False]])
    assert chosen_at_least_once(scores, candidates, 0.5).tolist() == [[1, 0], [0, 0]]
    assert chosen_at_least_once(scores, candidates, 0.0).tolist() == [[0, 0], [0, 0]]


def test_a_next_item_batch_loses_labels_and_nothing_else():
    sequences = Sequences.from_histories([list(range(10, 40)), [50, 51], [60]])
    planned = PlannedBatch(0, np.array([0, 1]))
    whole = NextItemData(sequences).__getitems__(planned)
    assert torch.equal(
        NextItemData(sequences, TargetSettings(), seed=5).__getitems__(planned)["labels"],
        whole["labels"],
    )
    data = NextItemData(sequences, TargetSettings(0.2, 0.8), seed=5)
    found = data.__getitems__(planned)
    labels = found.pop("labels")
    kept = labels != IGNORED
    assert torch.equal(labels[kept], whole["labels"][kept])
    assert kept[1].tolist() == [True] + [False] * 28 and 1 <= kept[0].sum() < 15
    assert all(torch.equal(found[name], whole[name]) for name in found)
    other = data.__getitems__(PlannedBatch(1, np.array([0, 1])))["labels"]
    assert not torch.equal(other, labels)  # another epoch


@pytest.mark.parametrize(
    "settings", [TargetSettings(0.5), TargetSettings(recency=0.9), TargetSettings(0.5, 0.9)]
)
def test_every_setting_of_the_targets_acts(settings):
    lengths = np.full(50, 20)
    candidates = np.ones((50, 20), bool)
    drawn = next_targets(candidates, lengths, np.arange(50), settings=settings, seed=0, epoch=0)
    assert not settings.are_all and 0.05 < drawn.mean() < 0.9


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, float("nan")])
@pytest.mark.parametrize("settings", [MaskingSettings, TargetSettings])
def test_a_recency_that_is_no_importance_is_refused(settings, value):
    with pytest.raises(ConfigError, match=f"recency is {value}; it must be above 0 and below 1"):
        settings(recency=value)


def test_a_probability_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="probability is 1.5; it must be from 0 to 1"):
        TargetSettings(1.5)


def test_targets_are_for_next_item_models():
    settings = EncoderSettings(hidden_size=8, num_layers=1, max_length=6)
    sequences = Sequences.from_histories([[5, 6, 7]])
    usual = (sequences, MaskingSettings(), BatchSettings(), 0)
    with pytest.raises(ConfigError, match="targets cannot act on a masked-item model"):
        training_data(MaskedItemModel.build(settings, vocab_size=9), *usual, TargetSettings(0.5))
    model = NextItemModel.build(settings, vocab_size=9)
    data = training_data(model, sequences, None, BatchSettings(), 0, TargetSettings(0.0))
    labels = data.__getitems__(PlannedBatch(0, np.array([0])))["labels"]
    assert (labels != IGNORED).sum() == 1
