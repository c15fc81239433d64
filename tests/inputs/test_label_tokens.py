"""Labels as words behind pairs of texts."""

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError, DataError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.label_tokens import (
    UNKNOWN_LABEL,
    LabelledTextData,
    add_label_tokens,
    label_ids,
    with_last_token,
)
from idbert.inputs.masked_texts import MaskedTextData
from idbert.inputs.text import TextSettings, encode_texts
from idbert.inputs.tokenizers import open_tokenizer
from idbert.inputs.word_masking import WordMaskingSettings, maskable_tokens
from idbert.inputs.word_vocabulary import train_word_tokenizer

PAIRS = 400


def labelled_tokenizer():
    tokenizer = train_word_tokenizer(["1 2 3 4 5 6 7 8 9"])
    add_label_tokens(tokenizer, ["0", "1"])
    return tokenizer


def encoded_pairs(tokenizer, count: int = PAIRS):
    draw = np.random.default_rng(0)
    texts = [
        " ".join(map(str, draw.integers(1, 10, draw.integers(1, 6)))) for _ in range(2 * count)
    ]
    return encode_texts(texts[:count], tokenizer, TextSettings(15), texts[count:], mark_words=True)


def labelled_data(tokenizer, **changes):
    ids = [*label_ids(tokenizer).values(), tokenizer.convert_tokens_to_ids(UNKNOWN_LABEL)]
    labels_N = np.array(ids)[np.arange(PAIRS) % 3]
    settings = {"label_probability": 0.5, "seed": 0} | changes
    masking = settings.pop("masking", WordMaskingSettings())
    return LabelledTextData(encoded_pairs(tokenizer), tokenizer, masking, labels_N, **settings)


def whole_batch(data, epoch: int = 0):
    return data.__getitems__(PlannedBatch(epoch, np.arange(len(data))))


def last(tensor_BL, batch):
    return tensor_BL[torch.arange(len(tensor_BL)), batch["attention_mask"].sum(1) - 1]


def test_a_sequence_with_a_last_token_is_the_sequence_and_that_token():
    tokenizer = labelled_tokenizer()
    encoded = encoded_pairs(tokenizer)
    more = with_last_token(encoded, np.arange(PAIRS) + 1000)
    for place in (0, 7, PAIRS - 1):
        old = slice(*encoded.offsets[place : place + 2])
        new = slice(*more.offsets[place : place + 2])
        assert more.ids[new].tolist() == [*encoded.ids[old].tolist(), 1000 + place]
        assert more.type_ids[new].tolist() == [*encoded.type_ids[old].tolist(), 1]
        assert more.starts_word[new].tolist() == [*encoded.starts_word[old].tolist(), True]


def test_label_tokens_are_special_saved_with_the_tokenizer_and_added_once(tmp_path):
    tokenizer = labelled_tokenizer()
    size = len(tokenizer)
    add_label_tokens(tokenizer, ["1", "2"])
    assert len(tokenizer) == size + 1 and list(label_ids(tokenizer)) == ["0", "1", "2"]
    tokenizer.save_pretrained(tmp_path)
    opened = open_tokenizer(tmp_path)
    assert label_ids(opened) == label_ids(tokenizer) and len(opened) == len(tokenizer)
    ids = [*label_ids(opened).values(), opened.convert_tokens_to_ids(UNKNOWN_LABEL)]
    assert not maskable_tokens(opened)[ids].any()
    assert label_ids(train_word_tokenizer(["1 2"])) == {}


def test_a_hidden_label_is_asked_for_and_a_label_that_is_seen_is_not():
    tokenizer = labelled_tokenizer()
    data = labelled_data(tokenizer)
    batch = whole_batch(data)
    shown_B, asked_B = last(batch["input_ids"], batch), last(batch["labels"], batch)
    truth_B = torch.from_numpy(data.labels_N)
    hidden_B = shown_B == tokenizer.mask_token_id
    assert torch.equal(asked_B, torch.where(hidden_B, truth_B, -100))
    assert torch.equal(shown_B[~hidden_B], truth_B[~hidden_B])
    assert 0.4 < hidden_B[torch.from_numpy(data.known_N)].float().mean() < 0.6


def test_a_label_that_nobody_knows_is_seen_as_such_and_never_asked_for():
    tokenizer = labelled_tokenizer()
    data = labelled_data(tokenizer, label_probability=1)
    batch = whole_batch(data)
    unknown_B = torch.from_numpy(~data.known_N)
    unknown = tokenizer.convert_tokens_to_ids(UNKNOWN_LABEL)
    assert unknown_B.sum() == PAIRS // 3
    assert (last(batch["input_ids"], batch)[unknown_B] == unknown).all()
    assert (last(batch["labels"], batch)[unknown_B] == -100).all()
    assert (last(batch["labels"], batch)[~unknown_B] != -100).all()


def test_words_are_masked_as_they_are_without_labels_and_never_replaced_by_one():
    tokenizer = labelled_tokenizer()
    masking = WordMaskingSettings(mask_share=0, random_share=1)
    data = labelled_data(tokenizer, masking=masking)
    plain = MaskedTextData(encoded_pairs(tokenizer), tokenizer, masking, seed=0)
    with_labels, without = whole_batch(data), whole_batch(plain)
    for name in ("input_ids", "labels"):
        cut = with_labels[name].clone()
        rows = torch.arange(PAIRS)
        ends = with_labels["attention_mask"].sum(1) - 1
        cut[rows, ends] = -100 if name == "labels" else tokenizer.pad_token_id
        assert torch.equal(cut[:, :-1], without[name])


def test_hidden_labels_depend_on_seed_and_epoch_alone():
    tokenizer = labelled_tokenizer()

    def hidden(seed, epoch):
        batch = whole_batch(labelled_data(tokenizer, seed=seed), epoch)
        return last(batch["labels"], batch)

    assert torch.equal(hidden(0, 0), hidden(0, 0))
    assert not torch.equal(hidden(0, 0), hidden(0, 1))
    assert not torch.equal(hidden(0, 0), hidden(1, 0))
    data = labelled_data(tokenizer)
    some = data.__getitems__(PlannedBatch(0, np.array([9, 4])))
    assert torch.equal(last(some["labels"], some), hidden(0, 0)[[9, 4]])


def test_labels_that_cannot_be_are_refused():
    tokenizer = labelled_tokenizer()
    with pytest.raises(ConfigError, match="label_probability is 0; it must be above 0"):
        labelled_data(tokenizer, label_probability=0)
    with pytest.raises(DataError, match=f"{PAIRS} texts have 3 labels"):
        LabelledTextData(
            encoded_pairs(tokenizer), tokenizer, WordMaskingSettings(), np.arange(3),
            label_probability=1, seed=0,
        )  # fmt: skip
    with pytest.raises(DataError, match="a label is called '\\?', which stands for texts without"):
        add_label_tokens(tokenizer, ["?"])
