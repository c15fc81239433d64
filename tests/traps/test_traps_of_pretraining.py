"""Traps of BERT fine-tuning code, each of which has been met in the wild: training an encoder on.

Every check is a law that sound code obeys; beside it stands faulty code that breaks it, so that the
check itself is known to bite.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from idbert.inputs.batch_plan import BatchPlan, BatchSettings, PlannedBatch
from idbert.inputs.masking import IGNORED
from idbert.inputs.word_masking import WordMaskingSettings
from idbert.nn.encoder import Encoder
from idbert.nn.word_heads import read_word_heads
from idbert.nn.word_models import MaskedWordModel
from nlp_tasks.cls.model import TextClassifier
from nlp_tasks.pretrain.masked_data import masked_data
from tests.inputs.tiny_tokenizers import SPECIALS, VOCABULARY, bert
from tests.nlp_tasks.text_world import bert_folder

TEXTS = ["hello world", "play long text 2021", "我们喜欢电影", "world text hello long play"]
NEZHA = Path(__file__).parent.parent / "goldens" / "nezha_k8_h48"


# 13. Continued pretraining that starts from nothing, stops early, and masks what it should not


Build = Callable[[Path], torch.nn.Module]


def check_starts_from_the_checkpoint(build: Build, folder: Path) -> None:
    theirs = BertModel.from_pretrained(folder).state_dict()
    ours = {name.split("encoder.", 1)[-1]: t for name, t in build(folder).state_dict().items()}
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"):
        torch.testing.assert_close(ours[name], theirs[name])


def thrown_away(folder: Path) -> BertModel:
    model = BertModel(BertConfig.from_pretrained(folder))
    model.from_pretrained(folder)  # a class method: what it returns is the pretrained model
    return model


def test_pretrained_weights_arrive_in_the_model_that_is_trained(tmp_path):
    folder = bert_folder(tmp_path / "bert")
    builds: list[Build] = [
        lambda folder: (
            MaskedWordModel.continue_from(
                Encoder.from_pretrained(folder), read_word_heads(folder)
            ).backbone
        ),
        lambda folder: TextClassifier.build(folder, kind="single", num_outputs=2).backbone,
    ]
    for build in builds:
        check_starts_from_the_checkpoint(build, folder)
    with pytest.raises(AssertionError):
        check_starts_from_the_checkpoint(thrown_away, folder)


def check_embeddings_are_trained(model: torch.nn.Module) -> None:
    assert model.get_input_embeddings().weight.requires_grad


def test_embeddings_are_trained_unless_they_are_frozen_on_purpose(tmp_path):
    folder = bert_folder(tmp_path / "bert")
    encoder = Encoder.from_pretrained(folder)
    words = MaskedWordModel.continue_from(encoder, read_word_heads(folder))
    classifier = TextClassifier.build(encoder, kind="single", num_outputs=2)
    for model in (words, classifier):
        check_embeddings_are_trained(model)
    words.get_input_embeddings().requires_grad_(False)
    with pytest.raises(AssertionError):
        check_embeddings_are_trained(words)


def test_a_nezha_is_trained_on_as_a_nezha():
    encoder = Encoder.from_pretrained(NEZHA)
    model = MaskedWordModel.continue_from(encoder, read_word_heads(NEZHA))
    assert model.backbone.encoder.relative_positions is not None
    assert "embeddings.position_embeddings.weight" not in model.backbone.encoder.state_dict()
    ids = torch.arange(5, 15)[None]
    torch.testing.assert_close(
        model.eval().backbone.forward_with_last(ids)[1], encoder(ids).last_hidden_state
    )


Sequences = Callable[[int], set[int]]


def check_all_rows_are_read_in_every_epoch(rows_of_epoch: Sequences, num_rows: int) -> None:
    for epoch in (0, 1):
        assert rows_of_epoch(epoch) == set(range(num_rows))


def test_no_row_of_a_large_corpus_is_left_out():
    plan = BatchPlan(np.full(6000, 5), BatchSettings(token_budget=1000), seed=0)

    def rows_of_epoch(epoch: int) -> set[int]:
        plan.set_epoch(epoch)
        return {int(row) for batch in plan for row in batch.sequences}

    check_all_rows_are_read_in_every_epoch(rows_of_epoch, 6000)
    with pytest.raises(AssertionError):  # reading ends at a line number that was once a test
        check_all_rows_are_read_in_every_epoch(lambda epoch: set(range(5001)), 6000)


def masked_texts(epochs: int, **shares: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model sees of the texts in each epoch, and what it must restore."""
    settings = WordMaskingSettings(probability=0.4, **shares)
    data = masked_data(TEXTS, bert(), settings, max_length=16, next_sentence=False, seed=0)
    places = np.arange(len(data))
    batches = [data.__getitems__(PlannedBatch(epoch, places)) for epoch in range(epochs)]
    shown, labels = (torch.stack([b[name] for b in batches]) for name in ("input_ids", "labels"))
    return shown.numpy(), labels.numpy()


def check_every_epoch_has_its_masks(labels: np.ndarray) -> None:
    first, *others = labels != IGNORED
    assert not any(np.array_equal(first, other) for other in others)


def test_masks_are_drawn_anew_in_every_epoch():
    _, labels = masked_texts(4)
    check_every_epoch_has_its_masks(labels)
    with pytest.raises(AssertionError):  # a mask that is written into the file of texts
        check_every_epoch_has_its_masks(np.stack([labels[0]] * 4))


def check_no_special_token_is_among(ids: np.ndarray) -> None:
    special = np.arange(len(SPECIALS))  # [PAD], [unused1], [unused2], [UNK], [CLS], [SEP], [MASK]
    assert not np.isin(ids, special).any()


def test_neither_targets_nor_random_replacements_are_special_or_unused_tokens():
    shown, labels = masked_texts(200, mask_share=0.0, random_share=1.0)
    targets, replacements = labels[labels != IGNORED], shown[labels != IGNORED]
    check_no_special_token_is_among(targets)
    check_no_special_token_is_among(replacements)
    anything = np.random.default_rng(0).integers(0, len(VOCABULARY), len(replacements))
    with pytest.raises(AssertionError):
        check_no_special_token_is_among(anything)
