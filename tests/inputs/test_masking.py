import hashlib
from dataclasses import replace

import numpy as np
import pytest

from idbert.errors import ConfigError
from idbert.inputs.masking import IGNORED, MaskingSettings, _hash, mask_items
from idbert.rows import FIRST_ITEM, MASK, PAD, UNK

VOCAB_SIZE = 1004
USUAL = MaskingSettings()


def padded(num_sequences: int = 400, max_length: int = 60, seed: int = 0):
    """Random sequences of length 1 to max_length, padded on the right."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, max_length + 1, num_sequences)
    input_ids = rng.integers(FIRST_ITEM, VOCAB_SIZE, (num_sequences, max_length))
    return np.where(np.arange(max_length) < lengths[:, None], input_ids, PAD), lengths


def masked(input_ids, lengths, numbers=None, settings=USUAL, seed=7, epoch=3):
    numbers = np.arange(len(lengths)) if numbers is None else numbers
    return mask_items(
        input_ids,
        lengths,
        numbers,
        settings=settings,
        vocab_size=VOCAB_SIZE,
        seed=seed,
        epoch=epoch,
    )


def test_the_hash_is_splitmix64():
    # The first outputs of Vigna's splitmix64.c for the states 0 and 1234567.
    states = np.array([0, 1234567], np.uint64)
    assert _hash(states).tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]


def test_the_draws_never_change():
    """Runs that were interrupted go on with the masks that they began with."""
    items = np.arange(4, 204).reshape(10, 20)
    settings = MaskingSettings(last_probability=0.5)
    shown, labels = masked(items, np.full(10, 20), settings=settings)
    digest = hashlib.sha256(shown.tobytes() + labels.tobytes()).hexdigest()
    assert digest == "fdf2184f6574c887a3c57e20d6e4e90ea796645e04a7a136ee5fa7b8e72e0f15"


def test_labels_are_the_true_items_and_all_else_stays_visible():
    input_ids, lengths = padded()
    shown, labels = masked(input_ids, lengths)
    target = labels != IGNORED
    assert np.array_equal(labels[target], input_ids[target])
    assert np.array_equal(shown[~target], input_ids[~target])


def test_the_input_is_left_as_it_was():
    input_ids, lengths = padded()
    before = input_ids.copy()
    masked(input_ids, lengths)
    assert np.array_equal(input_ids, before)


@pytest.mark.parametrize("probability", [0.0, 0.02, 0.2, 1.0])
def test_every_sequence_has_a_target_and_padding_never_is_one(probability: float):
    input_ids, lengths = padded()
    _, labels = masked(input_ids, lengths, settings=MaskingSettings(probability))
    assert (labels != IGNORED).any(axis=1).all()
    assert (labels[np.arange(60) >= lengths[:, None]] == IGNORED).all()


def test_special_rows_are_never_targets_nor_replaced():
    input_ids, lengths = padded()
    special = np.arange(60) % 3 == 1
    input_ids[:, special] = UNK
    shown, labels = masked(input_ids, lengths, settings=MaskingSettings(probability=1.0))
    assert (labels[:, special] == IGNORED).all() and (shown[:, special] == UNK).all()


def test_a_sequence_of_nothing_but_unknown_items_has_no_target():
    _, labels = masked(np.full((2, 3), UNK), np.array([3, 2]))
    assert (labels == IGNORED).all()


def test_the_shares_are_those_of_the_settings():
    input_ids, lengths = padded(2000)
    settings = MaskingSettings(probability=0.3, mask_share=0.6, random_share=0.3)
    shown, labels = masked(input_ids, lengths, settings=settings)
    target = labels != IGNORED
    long_enough = lengths >= 20  # where the rule of at least one target does not count
    real = np.arange(60) < lengths[long_enough, None]
    assert target[long_enough][real].mean() == pytest.approx(0.3, abs=0.01)
    assert (shown[target] == MASK).mean() == pytest.approx(0.6, abs=0.015)
    assert (shown[target] == labels[target]).mean() == pytest.approx(0.1, abs=0.01)


def test_random_items_are_drawn_evenly_from_the_items():
    input_ids, lengths = padded(4000)
    settings = MaskingSettings(probability=1.0, mask_share=0.0, random_share=1.0)
    shown, labels = masked(input_ids, lengths, settings=settings)
    drawn = shown[labels != IGNORED]
    assert drawn.min() == FIRST_ITEM and drawn.max() == VOCAB_SIZE - 1
    counts = np.bincount(drawn, minlength=VOCAB_SIZE)[FIRST_ITEM:]
    assert abs(counts - counts.mean()).max() < 6 * np.sqrt(counts.mean())


def test_every_position_is_masked_equally_often():
    input_ids = np.full((20_000, 10), FIRST_ITEM)
    lengths = np.full(20_000, 10)
    for settings in (MaskingSettings(probability=0.2), MaskingSettings(probability=0.0)):
        _, labels = masked(input_ids, lengths, settings=settings)
        shares = (labels != IGNORED).mean(axis=0)
        assert shares == pytest.approx(np.full(10, shares.mean()), abs=0.015)


def test_the_draws_of_neighbouring_positions_and_epochs_are_unrelated():
    input_ids = np.full((20_000, 8), FIRST_ITEM)
    lengths = np.full(20_000, 8)
    half = MaskingSettings(probability=0.5)
    draws = [masked(input_ids, lengths, settings=half, epoch=e)[1] != IGNORED for e in (0, 1)]
    columns = np.concatenate(draws, axis=1).astype(float)
    correlation = np.corrcoef(columns.T) - np.eye(16)
    assert abs(correlation).max() < 0.035  # 5 standard deviations


def test_a_sequence_is_masked_alike_in_every_batch():
    input_ids, lengths = padded()
    shown, labels = masked(input_ids, lengths)
    some = np.array([17, 3, 250])
    width = lengths[some].max()
    alone_shown, alone_labels = masked(input_ids[some, :width], lengths[some], some)
    assert np.array_equal(alone_shown, shown[some, :width])
    assert np.array_equal(alone_labels, labels[some, :width])


def test_masks_depend_on_seed_epoch_and_sequence_alone():
    input_ids, lengths = padded()
    _, labels = masked(input_ids, lengths)
    assert np.array_equal(masked(input_ids, lengths)[1], labels)
    others = [
        masked(input_ids, lengths, seed=8)[1],
        masked(input_ids, lengths, epoch=4)[1],
        masked(input_ids, lengths, np.arange(len(lengths)) + 1)[1],
    ]
    for other in others:
        assert ((other != IGNORED) != (labels != IGNORED)).mean() > 0.05


def test_the_newest_item_is_a_target_in_the_share_of_sequences_asked_for():
    input_ids, lengths = padded(4000)
    newest = np.arange(4000), lengths - 1
    settings = MaskingSettings(probability=0.1, last_probability=0.5)
    _, labels = masked(input_ids, lengths, settings=settings)
    long_enough = lengths >= 30
    share = (labels[newest] != IGNORED)[long_enough].mean()
    assert share == pytest.approx(1 - 0.9 * 0.5, abs=0.04)


def test_the_drawn_targets_stay_when_the_newest_item_is_added():
    input_ids, lengths = padded()
    plain = masked(input_ids, lengths)[1]
    added = masked(input_ids, lengths, settings=MaskingSettings(last_probability=1.0))[1]
    long_enough = lengths >= 40
    assert ((added != IGNORED) >= (plain != IGNORED))[long_enough].all()


def test_nothing_but_the_newest_item_is_a_target_when_so_asked():
    input_ids, lengths = padded()
    settings = MaskingSettings(probability=0.0, last_probability=1.0)
    _, labels = masked(input_ids, lengths, settings=settings)
    assert np.array_equal(np.argwhere(labels != IGNORED)[:, 1], lengths - 1)


@pytest.mark.parametrize("name", ["probability", "mask_share", "random_share", "last_probability"])
def test_every_setting_acts(name: str):
    input_ids, lengths = padded()
    changed = replace(USUAL, **{name: getattr(USUAL, name) + 0.1})
    usual, other = masked(input_ids, lengths), masked(input_ids, lengths, settings=changed)
    assert not all(np.array_equal(one, two) for one, two in zip(usual, other, strict=True))


@pytest.mark.parametrize("name", ["probability", "mask_share", "random_share", "last_probability"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_out_of_range_are_refused(name: str, value: float):
    with pytest.raises(ConfigError, match=f"{name} is {value}; it must be from 0 to 1"):
        MaskingSettings(**{name: value})


def test_shares_above_the_whole_are_refused():
    with pytest.raises(ConfigError, match="mask_share 0.8 and random_share 0.3 .* not exceed 1"):
        MaskingSettings(random_share=0.3)
