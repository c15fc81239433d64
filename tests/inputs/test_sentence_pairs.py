import numpy as np
import pytest
import torch

from idbert.errors import ConfigError, DataError
from idbert.inputs.batch_plan import BatchPlan, BatchSettings, PlannedBatch
from idbert.inputs.masking import IGNORED
from idbert.inputs.planned_loader import train_loader
from idbert.inputs.sentence_pairs import Segments, SentencePairData
from idbert.inputs.word_masking import WordMaskingSettings
from tests.inputs.tiny_tokenizers import bert, xlm_roberta

RNG = np.random.default_rng(0)
NOTHING_HIDDEN = WordMaskingSettings(0.0, mask_share=0.0, random_share=0.0)


def document(number: int, num_sentences: int) -> str:
    """Sentences that begin with the letters of their document and their place in it."""
    name = f"{chr(97 + number // 20)} {chr(97 + number % 20)}"
    sentences = [
        f"{name} {chr(97 + place)} {' '.join(RNG.choice(list('uvwxyz'), RNG.integers(1, 6)))}."
        for place in range(num_sentences)
    ]
    return " ".join(sentences)


DOCUMENTS = [document(number, int(RNG.integers(2, 12))) for number in range(60)]


def pair_data(documents=DOCUMENTS, max_length=32, masking=NOTHING_HIDDEN, seed=0, **more):
    segments = Segments.of(documents, bert(), max_length=max_length, mark_words=True)
    return SentencePairData(segments, bert(), masking, seed=seed, **more)


def pairs_of(data, epoch=0) -> list[tuple[list[str], list[str], int]]:
    """Both segments of every pair as tokens, and whether the second is a drawn one."""
    batch = data.__getitems__(PlannedBatch(epoch, np.arange(len(data))))
    found = []
    for ids, label in zip(batch["input_ids"], batch["next_sentence_labels"], strict=True):
        tokens = bert().convert_ids_to_tokens(ids.tolist())
        tokens = tokens[: len(tokens) - tokens[::-1].index("[SEP]")]
        middle = tokens.index("[SEP]")
        assert tokens[0] == "[CLS]" and tokens.count("[SEP]") == 2
        found.append((tokens[1:middle], tokens[middle + 1 : -1], int(label)))
    return found


def test_segments_are_whole_sentences_of_one_document():
    segments = Segments.of(DOCUMENTS, bert(), max_length=32)
    whole = [bert().tokenize(text) for text in DOCUMENTS]
    for start, length, owner in zip(
        segments.starts_U, segments.lengths_U, segments.documents_U, strict=True
    ):
        tokens = bert().convert_ids_to_tokens(segments.tokens.ids[start : start + length].tolist())
        assert length <= 14 and tokens[-1] == "." and tokens[:2] == whole[owner][:2]
    assert segments.lengths_U.sum() == sum(map(len, whole))  # all of every document


def test_a_short_document_is_cut_near_its_middle():
    segments = Segments.of(["a b. c d.", "e f. g h."], bert(), max_length=512)
    assert segments.lengths_U.tolist() == [3, 3, 3, 3]


def test_a_sentence_longer_than_half_a_sequence_is_cut():
    long = "a " * 50
    segments = Segments.of([f"{long}. b.", "c. d."], bert(), max_length=13)
    assert segments.lengths_U.tolist() == [5, 2, 2, 2]


def test_every_segment_is_in_a_pair():
    data = pair_data()
    firsts = data._firsts_N
    assert set(firsts) | set(firsts + 1) == set(range(len(data.segments.lengths_U)))
    owners = data.segments.documents_U
    assert (owners[firsts] == owners[firsts + 1]).all()


def test_the_label_tells_whether_the_second_follows_the_first():
    for first, second, label in pairs_of(pair_data()):
        same_document = first[:2] == second[:2]
        assert same_document == (label == 0)
        if same_document:
            assert ord(second[2]) > ord(first[2])


def test_about_half_of_the_seconds_are_drawn_anew_each_epoch():
    data = pair_data()
    epochs = [pairs_of(data, epoch) for epoch in range(30)]
    labels = np.array([[label for *_, label in pairs] for pairs in epochs])
    assert labels.mean() == pytest.approx(0.5, abs=0.03)
    assert labels.mean(axis=0).min() > 0.1 and labels.mean(axis=0).max() < 0.9
    assert epochs[0] == pairs_of(data, 0) != epochs[1]
    assert pairs_of(pair_data(seed=1)) != epochs[0]


def test_the_length_does_not_tell_drawn_seconds_apart():
    true, drawn = [], []
    data = pair_data([document(number, 6) for number in range(300)], max_length=64)
    for epoch in range(5):
        for _, second, label in pairs_of(data, epoch):
            (drawn if label else true).append(len(second))
    assert np.mean(true) == pytest.approx(np.mean(drawn), rel=0.03)


def test_two_documents_are_enough():
    """However the draws fall, the search for another document ends."""
    data = pair_data(["a b. c d.", "e f. g h."])
    labels = [label for epoch in range(50) for *_, label in pairs_of(data, epoch)]
    assert 0.3 < np.mean(labels) < 0.6


def test_batches_fit_the_lengths_that_were_planned():
    data = pair_data()
    for epoch in range(5):
        batch = data.__getitems__(PlannedBatch(epoch, np.arange(len(data))))
        lengths = batch["attention_mask"].sum(dim=1).numpy()
        assert (lengths <= data.input_lengths).all() and (data.input_lengths <= 32).all()
        assert lengths.sum() > 0.9 * data.input_lengths.sum()


def test_types_tell_the_two_segments_apart():
    data = pair_data()
    batch = data.__getitems__(PlannedBatch(0, np.array([0, 5])))
    for ids, types, mask in zip(
        batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], strict=True
    ):
        first = (ids == bert().sep_token_id).nonzero()[0].item() + 1
        length = int(mask.sum())
        assert types[:length].tolist() == [0] * first + [1] * (length - first)
        assert not types[length:].any()
    few = pair_data(num_token_types=1).__getitems__(PlannedBatch(0, np.array([0, 5])))
    assert set(few) == set(batch) - {"token_type_ids"}


def test_tokens_of_both_segments_are_hidden():
    data = pair_data(masking=WordMaskingSettings(0.3, unit="word"))
    batch = data.__getitems__(PlannedBatch(0, np.arange(len(data))))
    plain = pair_data().__getitems__(PlannedBatch(0, np.arange(len(data))))
    restored = torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])
    assert torch.equal(restored, plain["input_ids"])
    hidden = batch["labels"] != IGNORED
    assert hidden[batch["token_type_ids"] == 1].any()
    assert not hidden[torch.isin(plain["input_ids"], torch.tensor(bert().all_special_ids))].any()


def test_an_epoch_holds_every_pair_once():
    data = pair_data()
    plan = BatchPlan(data.input_lengths, BatchSettings(token_budget=200), seed=0)
    batches = list(train_loader(data, plan))
    assert sum(len(batch["input_ids"]) for batch in batches) == len(data)
    assert all(batch["input_ids"].numel() <= 200 for batch in batches)


def test_the_template_is_that_of_the_tokenizer():
    segments = Segments.of(DOCUMENTS[:4], xlm_roberta(), max_length=64)
    data = SentencePairData(segments, xlm_roberta(), NOTHING_HIDDEN, seed=0)
    batch = data.__getitems__(PlannedBatch(0, np.array([0])))
    tokens = xlm_roberta().convert_ids_to_tokens(batch["input_ids"][0].tolist())
    assert tokens[0] == "<s>" and tokens.count("</s>") == 3 and "token_type_ids" not in batch


def test_documents_of_one_sentence_are_left_out(caplog):
    caplog.set_level("INFO")
    segments = Segments.of(["a b. c d.", "only one", "e f. g h."], bert(), max_length=32)
    assert segments.documents_U.tolist() == [0, 0, 2, 2]
    assert "left out: 1 documents of one sentence" in caplog.text


def test_too_few_documents_are_refused():
    with pytest.raises(DataError, match="1 of 2 documents have two sentences or more"):
        Segments.of(["a. b.", "c"], bert(), max_length=32)


def test_a_length_without_room_for_two_segments_is_refused():
    with pytest.raises(ConfigError, match="max_length 4 has no room for two segments"):
        Segments.of(["a. b.", "c. d."], bert(), max_length=4)


def test_whole_words_need_segments_that_tell_them():
    segments = Segments.of(DOCUMENTS, bert(), max_length=32)
    with pytest.raises(ConfigError, match="Make them with mark_words=True"):
        SentencePairData(segments, bert(), WordMaskingSettings(unit="word"), seed=0)
