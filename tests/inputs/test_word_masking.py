from dataclasses import replace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from idbert.errors import CheckpointError, ConfigError
from idbert.inputs.masking import IGNORED, MaskingSettings, mask_items
from idbert.inputs.word_masking import (
    WordMasker,
    WordMaskingSettings,
    _starts_of_ngrams,
    maskable_tokens,
)
from idbert.rows import FIRST_ITEM, MASK
from tests.inputs.tiny_tokenizers import VOCABULARY, bert, xlm_roberta

CLS, SEP, PAD, UNK, MASK_ID = (
    bert().convert_tokens_to_ids(f"[{name}]") for name in ("CLS", "SEP", "PAD", "UNK", "MASK")
)
FIRST_TOKEN = VOCABULARY.index("a")
USUAL = WordMaskingSettings()


def rows(num_rows=500, max_length=40, seed=0):
    """[CLS] tokens [SEP] in rows, and words of one to three tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, max_length + 1, num_rows)
    ids = rng.integers(FIRST_TOKEN, len(VOCABULARY), (num_rows, max_length))
    starts = rng.random((num_rows, max_length)) < 0.6
    ids[:, 0], starts[:, :2] = CLS, True
    ids[np.arange(num_rows), lengths - 1] = SEP
    starts[np.arange(num_rows), lengths - 1] = True
    ids = np.where(np.arange(max_length) < lengths[:, None], ids, PAD)
    return ids, lengths, starts


def masked(settings=USUAL, epoch=0, seed=7, given=None, numbers=None):
    ids, lengths, starts = given or rows()
    numbers = np.arange(len(ids)) if numbers is None else numbers
    masker = WordMasker(bert(), settings, seed=seed)
    return masker.mask(ids, lengths, numbers, starts, epoch=epoch)


UNITS = pytest.mark.parametrize("unit", ["token", "word", "ngram"])


def test_tokens_are_masked_exactly_as_items_are():
    """One code: the same positions, and the same replacements but for the numbers of the rows."""
    ids, lengths, _ = rows()
    words, labels = masked()
    settings = MaskingSettings(USUAL.probability, USUAL.mask_share, USUAL.random_share)
    items = np.where(ids >= FIRST_TOKEN, ids - FIRST_TOKEN + FIRST_ITEM, 0)
    shown, item_labels = mask_items(
        items,
        lengths,
        np.arange(len(ids)),
        settings=settings,
        vocab_size=len(VOCABULARY) - FIRST_TOKEN + FIRST_ITEM,
        seed=7,
        epoch=0,
    )
    target = labels != IGNORED
    assert np.array_equal(target, item_labels != IGNORED)
    as_words = np.where(shown == MASK, MASK_ID, shown - FIRST_ITEM + FIRST_TOKEN)
    assert np.array_equal(words[target], as_words[target])


@UNITS
def test_every_text_has_a_target_and_special_tokens_never_are_one(unit):
    ids, lengths, _ = rows()
    ids[:, 2] = UNK
    for probability in (0.0, 0.15, 1.0):
        settings = WordMaskingSettings(probability, unit=unit)
        shown, labels = masked(settings, given=(ids, lengths, rows()[2]))
        target = labels != IGNORED
        assert target.any(axis=1).all() and not target[ids < FIRST_TOKEN].any()
        assert np.array_equal(shown[~target], ids[~target])
        assert np.array_equal(labels[target], ids[target])


@UNITS
def test_random_tokens_are_tokens_of_the_language(unit):
    """Never [unused1], [PAD] or another special token; all others, evenly."""
    settings = WordMaskingSettings(1.0, 0.0, 1.0, unit=unit)
    shown, labels = masked(settings, given=rows(3000))
    drawn = shown[labels != IGNORED]
    assert drawn.min() == FIRST_TOKEN and drawn.max() == len(VOCABULARY) - 1
    counts = np.bincount(drawn)[FIRST_TOKEN:]
    assert abs(counts - counts.mean()).max() < 6 * np.sqrt(counts.mean())


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_words_are_targets_as_a_whole(unit):
    ids, lengths, starts = rows()
    _, labels = masked(WordMaskingSettings(0.3, unit=unit))
    target = labels != IGNORED
    real = (ids >= FIRST_TOKEN) & (np.arange(ids.shape[1]) < lengths[:, None])
    inside = real[:, 1:] & real[:, :-1] & ~starts[:, 1:]
    assert inside.sum() > 1000
    assert (target[:, 1:] == target[:, :-1])[inside].all()


def test_tokens_of_a_word_are_drawn_apart_if_so_asked():
    ids, _, starts = rows()
    _, labels = masked(WordMaskingSettings(0.3, unit="token"))
    target = labels != IGNORED
    assert (target[:, 1:] != target[:, :-1])[~starts[:, 1:]].mean() > 0.2


@UNITS
def test_the_shares_are_those_of_the_settings(unit):
    given = rows(4000)
    settings = WordMaskingSettings(0.25, 0.6, 0.3, unit=unit)
    shown, labels = masked(settings, given=given)
    target, maskable = labels != IGNORED, given[0] >= FIRST_TOKEN
    long = given[1] >= 25  # where the rule of at least one target does not count
    assert target[long].sum() / maskable[long].sum() == pytest.approx(0.25, abs=0.01)
    assert (shown[target] == MASK_ID).mean() == pytest.approx(0.6, abs=0.01)
    assert (shown[target] == labels[target]).mean() == pytest.approx(0.1, abs=0.01)


def test_a_word_that_is_the_only_target_is_one_as_a_whole():
    """Even where nothing is drawn, not only a piece of a word is hidden."""
    ids = np.array([[CLS, FIRST_TOKEN, FIRST_TOKEN + 30, FIRST_TOKEN + 31, SEP]])
    starts = np.array([[True, True, False, False, True]])
    settings = WordMaskingSettings(0.0, unit="word")
    _, labels = masked(settings, given=(ids, np.array([5]), starts))
    assert (labels != IGNORED).tolist() == [[False, True, True, True, False]]


@UNITS
def test_masks_change_from_epoch_to_epoch_and_are_the_same_in_every_batch(unit):
    settings = WordMaskingSettings(0.3, unit=unit)
    ids, lengths, starts = rows()
    shown, labels = masked(settings)
    assert not np.array_equal(masked(settings, epoch=1)[1], labels)
    assert not np.array_equal(masked(settings, seed=8)[1], labels)
    some = np.array([17, 3, 250])
    width = lengths[some].max()
    alone = masked(
        settings,
        given=(ids[some, :width], lengths[some], starts[some, :width]),
        numbers=some,
    )
    assert np.array_equal(alone[0], shown[some, :width])
    assert np.array_equal(alone[1], labels[some, :width])


def test_ngrams_do_not_reach_across_special_tokens():
    ids = np.full((3000, 9), FIRST_TOKEN)
    ids[:, 0], ids[:, 4], ids[:, 8] = CLS, SEP, SEP
    starts = np.ones(ids.shape, bool)
    settings = WordMaskingSettings(0.5, unit="ngram", ngram_max=8)
    _, labels = masked(settings, given=(ids, np.full(3000, 9), starts))
    target = labels != IGNORED
    assert np.corrcoef(target[:, 2], target[:, 3])[0, 1] > 0.3
    assert np.corrcoef(target[:, 3], target[:, 5])[0, 1] < 0


@pytest.mark.parametrize("ngram_max", [1, 3, 4])
def test_ngrams_of_n_words_are_one_nth_as_frequent(ngram_max):
    starts = np.ones((50, 400), bool)
    keys = np.arange(50, dtype=np.uint64) * 7919
    begins = _starts_of_ngrams(starts, keys, ngram_max)
    sizes = np.concatenate([np.diff(np.flatnonzero(row)) for row in begins])
    counts = np.bincount(sizes, minlength=ngram_max + 1)[1:]
    expected = (1 / np.arange(1, ngram_max + 1)) / (1 / np.arange(1, ngram_max + 1)).sum()
    assert counts / counts.sum() == pytest.approx(expected, abs=0.02)
    assert begins[:, 0].all()


def test_ngrams_are_cut_between_words_and_alike_in_every_batch():
    rng = np.random.default_rng(0)
    starts = rng.random((30, 50)) < 0.5
    starts[:, 0] = True
    keys = rng.integers(0, 2**60, 30).astype(np.uint64)
    begins = _starts_of_ngrams(starts, keys, 3)
    alone = [_starts_of_ngrams(starts[[row]], keys[[row]], 3)[0] for row in range(30)]
    assert np.array_equal(begins, np.stack(alone))
    assert (begins <= starts).all()
    words = [np.flatnonzero(begin[start]) for begin, start in zip(begins, starts, strict=True)]
    assert max(np.diff(places).max() for places in words) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"probability": 0.4},
        {"mask_share": 0.5},
        {"random_share": 0.2},
        {"unit": "word"},
        {"unit": "ngram"},
    ],
)
def test_every_setting_acts(change):
    usual, other = masked(), masked(replace(USUAL, **change))
    assert not all(np.array_equal(one, two) for one, two in zip(usual, other, strict=True))


def test_the_longest_ngram_acts():
    short, usual, long = (
        masked(WordMaskingSettings(0.3, unit="ngram", ngram_max=most))[1] for most in (1, None, 6)
    )
    assert not np.array_equal(short, usual) and not np.array_equal(usual, long)
    assert np.array_equal(usual, masked(WordMaskingSettings(0.3, unit="ngram", ngram_max=3))[1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"probability": 1.5}, "probability is 1.5; it must be from 0 to 1"),
        ({"random_share": 0.3}, "mask_share 0.8 and random_share 0.3 .* not exceed 1"),
        ({"ngram_max": 2}, "ngram_max only acts with unit 'ngram', not with 'token'"),
        ({"unit": "ngram", "ngram_max": 0}, "ngram_max is 0; it must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        WordMaskingSettings(**settings)


@pytest.mark.parametrize("tokenizer", [bert, xlm_roberta])
def test_tokens_of_the_language_are_neither_special_nor_unused(tokenizer):
    maskable = maskable_tokens(tokenizer())
    names = np.array(tokenizer().convert_ids_to_tokens(list(range(len(maskable)))))
    refused = {"[unused1]", "[unused2]", *tokenizer().all_special_tokens}
    assert set(names[~maskable]) == refused & set(names)
    assert len(maskable) == len(tokenizer())


def test_a_tokenizer_without_a_mask_is_refused():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=xlm_roberta().backend_tokenizer, pad_token="<pad>"
    )
    with pytest.raises(CheckpointError, match="has no mask token, which masked language"):
        WordMasker(tokenizer, USUAL, seed=0)
