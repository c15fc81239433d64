import numpy as np
import pytest
import torch

from idbert.errors import ConfigError, DataError
from idbert.inputs.batch_plan import BatchPlan, BatchSettings, PlannedBatch
from idbert.inputs.masked_texts import MaskedTextData
from idbert.inputs.masking import IGNORED
from idbert.inputs.planned_loader import train_loader
from idbert.inputs.text import TextSettings, encode_texts
from idbert.inputs.text_batches import TextData, text_batches
from idbert.inputs.word_masking import WordMaskingSettings
from tests.inputs.tiny_tokenizers import bert, xlm_roberta

RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(list("abcdefgh"), size)) for size in RNG.integers(1, 30, 90)]
CLASSES = np.arange(90)
PAD = 0


def encoded(tokenizer=bert, pairs=False, max_length=256, mark_words=False, **settings):
    return encode_texts(
        TEXTS,
        tokenizer(),
        TextSettings(max_length, **settings),
        TEXTS[::-1] if pairs else None,
        mark_words=mark_words,
    )


def batches_of(data, epoch=0, token_budget=300):
    settings = BatchSettings(token_budget=token_budget)
    loader = train_loader(data, BatchPlan(data.input_lengths, settings, seed=0))
    loader.set_epoch(epoch)
    return list(loader)


def reals(batch: dict) -> list[list[int]]:
    """The ids of each row without padding."""
    return [
        ids[mask == 1].tolist()
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


@pytest.mark.parametrize("tokenizer", [bert, xlm_roberta])
@pytest.mark.parametrize("pairs", [False, True])
def test_a_batch_is_what_the_tokenizer_pads(tokenizer, pairs):
    data = TextData(encoded(tokenizer, pairs), CLASSES, pad_id=tokenizer().pad_token_id)
    some = np.array([3, 1, 4])
    batch = data.__getitems__(PlannedBatch(0, some))
    texts = [TEXTS[row] for row in some]
    seconds = [TEXTS[::-1][row] for row in some] if pairs else None
    expected = tokenizer()(texts, seconds, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert ("token_type_ids" in batch) == (pairs and tokenizer is bert)
    if "token_type_ids" in batch:
        assert torch.equal(batch["token_type_ids"], expected["token_type_ids"])
    assert batch["labels"].tolist() == some.tolist()
    assert all(value.dtype == torch.int64 for key, value in batch.items()), {
        key: value.dtype for key, value in batch.items()
    }


def test_an_epoch_holds_every_text_once_with_its_label():
    texts = encoded()
    whole = np.split(texts.ids, texts.offsets[1:-1])
    seen = []
    for batch in batches_of(TextData(texts, CLASSES, pad_id=PAD)):
        for ids, label in zip(reals(batch), batch["labels"].tolist(), strict=True):
            assert ids == whole[label].tolist()
            seen.append(label)
    assert sorted(seen) == list(range(90))


def test_batches_are_as_wide_as_planned():
    data = TextData(encoded(), CLASSES, pad_id=PAD)
    batches = batches_of(data)
    widths = {batch["input_ids"].shape[1] for batch in batches}
    assert 3 < len(widths) <= len(set(data.input_lengths.tolist()))
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    slots = sum(batch["attention_mask"].numel() for batch in batches)
    assert 0 < 1 - real / slots < BatchSettings().max_padding


def test_several_labels_and_numbers_are_given_as_they_are():
    for labels in (
        RNG.integers(0, 2, (90, 4)).astype(np.float32),
        RNG.random(90).astype(np.float32),
    ):
        batch = TextData(encoded(), labels, pad_id=PAD).__getitems__(
            PlannedBatch(0, np.array([7, 2]))
        )
        assert batch["labels"].dtype == torch.float32
        assert np.array_equal(batch["labels"].numpy(), labels[[7, 2]])


def test_every_window_has_the_label_of_its_text():
    texts = encoded(max_length=10, truncation="windows")
    data = TextData(texts, CLASSES, pad_id=PAD)
    assert len(data) > 90
    batch = data.__getitems__(PlannedBatch(0, np.arange(len(data))))
    assert batch["labels"].tolist() == texts.rows_N.tolist()


def test_another_number_of_labels_is_refused():
    with pytest.raises(DataError, match="90 texts have 89 labels"):
        TextData(encoded(), CLASSES[:-1], pad_id=PAD)


@pytest.mark.parametrize("pairs", [False, True])
def test_for_prediction_every_sequence_comes_once_longest_first(pairs):
    texts = encoded(pairs=pairs)
    whole = np.split(texts.ids, texts.offsets[1:-1])
    places, lengths, positions, budget = [], [], 0, 200
    for places_B, batch in text_batches(texts, PAD, budget):
        assert reals(batch) == [whole[place].tolist() for place in places_B]
        assert batch["input_ids"].numel() <= budget
        assert "labels" not in batch and ("token_type_ids" in batch) == pairs
        places += places_B.tolist()
        lengths += texts.lengths[places_B].tolist()
        positions += batch["input_ids"].numel()
    assert sorted(places) == list(range(90))
    assert lengths == sorted(lengths, reverse=True)
    assert 1 - len(texts.ids) / positions < 0.1


def test_a_text_above_the_budget_comes_alone():
    shapes = [tuple(batch["input_ids"].shape) for _, batch in text_batches(encoded(), PAD, 1)]
    assert len(shapes) == 90 and all(shape[0] == 1 for shape in shapes)


def test_nothing_to_predict_makes_no_batch():
    assert list(text_batches(encode_texts([], bert()), PAD)) == []


def masked_data(unit="token", mark_words=False, pairs=False, **more):
    texts = encoded(pairs=pairs, mark_words=mark_words)
    settings = WordMaskingSettings(unit=unit, **more)
    return MaskedTextData(texts, bert(), settings, seed=0)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_masked_batch_holds_the_texts_with_some_tokens_hidden(pairs):
    data = masked_data(pairs=pairs)
    texts = data.encoded
    for batch in batches_of(data):
        restored = torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])
        assert ((batch["labels"] != IGNORED).sum(dim=1) > 0).all()
        assert ("token_type_ids" in batch) == pairs
        for row in reals(batch | {"input_ids": restored}):
            assert row in [ids.tolist() for ids in np.split(texts.ids, texts.offsets[1:-1])]


def test_masks_of_texts_change_from_epoch_to_epoch():
    """And not only from copy to copy of a text."""
    data = masked_data()
    one, two, again = (
        data.__getitems__(PlannedBatch(epoch, np.arange(90)))["labels"] for epoch in (0, 1, 0)
    )
    assert not torch.equal(one, two) and torch.equal(one, again)


def test_whole_words_are_hidden_in_batches():
    texts = encode_texts(["我们 played hello playing 清华大学"] * 50, bert(), mark_words=True)
    data = MaskedTextData(texts, bert(), WordMaskingSettings(0.4, unit="word"), seed=0)
    labels = data.__getitems__(PlannedBatch(0, np.arange(50)))["labels"].numpy()
    target = labels != IGNORED
    starts = texts.starts_word.reshape(50, -1)
    assert (target[:, 1:] == target[:, :-1])[~starts[:, 1:]].all() and not starts.all()


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_whole_words_need_texts_that_tell_them(unit):
    with pytest.raises(ConfigError, match=f"mask by the {unit}, .* with mark_words=True"):
        masked_data(unit)
