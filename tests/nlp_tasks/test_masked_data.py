"""Masked texts as batches: windows, pairs, masks drawn anew, and steps that add up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from idbert.inputs.batch_plan import BatchSettings, PlannedBatch
from idbert.inputs.word_masking import WordMaskingSettings
from idbert.nn.word_config import WordEncoderSettings
from idbert.nn.word_models import MaskedWordModel
from idbert.training.arguments import TrainingSettings
from idbert.training.trainer import build_planned_trainer
from nlp_tasks.pretrain.corpus import CorpusSettings, read_corpus
from nlp_tasks.pretrain.masked_data import masked_data
from tests.nlp_tasks.text_world import WORDS
from tests.training.small import Gradients


def lines(path: Path, documents: list[str]) -> Path:
    path.write_text("\n".join(documents) + "\n", encoding="utf-8")
    return path


def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: row for row, word in enumerate([*WORDS, ".", "[unused1]"])})


def whole_batch(data, epoch: int = 0):
    return data.__getitems__(PlannedBatch(epoch, np.arange(len(data))))


def stories(count: int) -> list[str]:
    """Documents of four sentences, each of one word alone, which tells the document."""
    return [". ".join([f"w{number}"] * 4) + "." for number in range(count)]


def test_a_pair_is_labelled_0_exactly_where_the_second_text_follows_the_first():
    never = WordMaskingSettings(probability=0.0, mask_share=0.0, random_share=0.0)
    data = masked_data(
        stories(20), tokenizer(), never, max_length=16, next_sentence=True, seed=3
    )  # every token stays visible
    seen = set()
    for epoch in range(3):
        batch = whole_batch(data, epoch)
        words = batch["input_ids"]
        is_word = words >= WORDS.index("w0")
        is_word &= words < len(WORDS)
        second = batch["token_type_ids"] == 1
        first_of = [row[mask].unique() for row, mask in zip(words, is_word & ~second, strict=True)]
        second_of = [row[mask].unique() for row, mask in zip(words, is_word & second, strict=True)]
        follows = torch.tensor([bool(a == b) for a, b in zip(first_of, second_of, strict=True)])
        assert torch.equal(batch["next_sentence_labels"], (~follows).long())
        seen |= set(batch["next_sentence_labels"].tolist())
    assert seen == {0, 1}


@pytest.mark.parametrize("next_sentence", [False, True])
def test_accumulated_batches_equal_one_large_batch(next_sentence, tmp_path):
    recorded = []
    for name, budget, accumulation in (("one", 9999, 1), ("many", 55, 4)):
        torch.manual_seed(0)
        model = MaskedWordModel.build(
            WordEncoderSettings(hidden_size=16, hidden_dropout=0.0),
            vocab_size=len(tokenizer()),
            next_sentence=next_sentence,
        )
        data = masked_data(
            stories(20),
            tokenizer(),
            WordMaskingSettings(),
            max_length=16,
            next_sentence=next_sentence,
            seed=0,
        )
        gradients = Gradients()
        trainer = build_planned_trainer(
            model,
            data,
            BatchSettings(token_budget=budget, max_padding=0.9),
            TrainingSettings(
                epochs=1, warmup=0, clip_norm=None, log_every_steps=1, accumulation=accumulation
            ),
            output_dir=tmp_path / name,
            callbacks=[gradients],
        )
        assert len(trainer.get_train_dataloader()) == accumulation
        trainer.train_or_resume()
        recorded.append(gradients)
    assert recorded[1].losses == pytest.approx(recorded[0].losses, rel=1e-5)
    torch.testing.assert_close(recorded[1].of_steps, recorded[0].of_steps, rtol=1e-4, atol=1e-6)


def test_every_line_of_a_long_file_is_read(tmp_path):
    lines(tmp_path / "long.txt", [f"w{n % 20} good w{n % 7}" for n in range(6000)])
    corpus = read_corpus(CorpusSettings(train=str(tmp_path / "long.txt"), dev_share=0))
    data = masked_data(
        corpus.train, tokenizer(), WordMaskingSettings(), max_length=8, next_sentence=False, seed=0
    )
    assert len(data) == 6000


@pytest.mark.parametrize("next_sentence", [False, True])
def test_masks_are_drawn_anew_each_epoch_and_never_put_special_tokens_there(next_sentence):
    documents = [" . ".join([" ".join(WORDS[5 + n % 20 :])] * 2) for n in range(60)]
    replaced = WordMaskingSettings(probability=0.5, mask_share=0.0, random_share=1.0)
    data = masked_data(
        documents, tokenizer(), replaced, max_length=32, next_sentence=next_sentence, seed=0
    )
    first, again, second = (whole_batch(data, epoch) for epoch in (0, 0, 1))
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert first["labels"].shape != second["labels"].shape or not torch.equal(
        first["labels"], second["labels"]
    )
    shown = first["input_ids"][first["labels"] != -100]
    unused = tokenizer().convert_tokens_to_ids("[unused1]")
    assert len(shown) > 200 and shown.min() >= 5 and unused not in shown


def test_windows_of_a_long_text_hold_all_of_it():
    words = [WORDS[5 + n % 22] for n in range(1000)]
    data = masked_data(
        [" ".join(words), "good"], tokenizer(), WordMaskingSettings(), max_length=32,
        next_sentence=False, seed=0,
    )  # fmt: skip
    batch = whole_batch(data)
    true = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    assert len(data) == 1 + -(-1000 // 30)
    windows = [tokenizer().convert_ids_to_tokens(row[1:31]) for row in true[:-1].tolist()]
    assert [word for window in windows[:-1] for word in window] + windows[-1][-10:] == words
