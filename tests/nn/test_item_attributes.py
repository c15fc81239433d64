"""Attributes of items: sums of vectors in the input, the scores and the index alike."""

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.bert_export import export_bert
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel, load_item_model
from idbert.nn.losses.catalogue import LossSettings
from idbert.training.arguments import TrainingSettings
from idbert.training.row_adamw import wants_sparse_rows

ROWS = np.zeros((12, 2), np.int64)
ROWS[4:] = [[1, 2], [1, 0], [3, 0], [2, 3], [0, 0], [1, 0], [2, 0], [3, 1]]
IDS = torch.tensor([[4, 5, 6, 7], [8, 9, 0, 0]])
MASK = (IDS != 0).long()
LABELS = torch.tensor([[5, 6, 7, 10], [9, 11, -100, -100]])
LOSSES = ["full", "chunked", "sampled", "gbce", "bce"]


def build(model_class=NextItemModel, attributes=ROWS, loss="full", **settings):
    torch.manual_seed(0)
    settings = EncoderSettings(hidden_size=8, initializer_range=0.5, **settings)
    return model_class.build(
        settings, vocab_size=12, attributes=attributes, loss=LossSettings(loss)
    ).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS, attention_mask=MASK).logits


@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
def test_a_model_with_attributes_is_one_whose_ids_have_the_sums(model_class):
    model, plain = build(model_class), build(model_class, attributes=None)
    attributes = model._attributes
    vectors = attributes.embeddings.weight.detach()
    expected = model.get_input_embeddings().weight.detach() + torch.stack(
        [vectors[row[row > 0]].sum(0) for row in torch.from_numpy(ROWS)]
    )
    torch.testing.assert_close(model.item_vectors()[:, :-1], expected)
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.get_input_embeddings().weight.data.copy_(expected)
    torch.testing.assert_close(logits(model), logits(plain))


def test_items_of_one_attribute_share_what_is_learned_of_it():
    model = build()
    before = model.item_vectors()
    with torch.no_grad():
        model._attributes.embeddings.weight[3] += 1.0
    changed = (model.item_vectors() - before).abs().sum(1) > 0.5
    assert changed.nonzero().flatten().tolist() == [6, 7, 11]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_the_attributes(loss):
    model = build(loss=loss).train()
    model(IDS, attention_mask=MASK, labels=LABELS).loss.backward()
    gradient = model._attributes.embeddings.weight.grad
    assert (gradient[1:].abs().sum(1) > 0).all() and not gradient[0].any()


def test_attributes_are_saved_with_the_model(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert opened._attributes.rows_VG.tolist() == ROWS.tolist()
    assert torch.equal(logits(opened), logits(model))


def test_a_table_that_grows_has_items_without_attributes():
    model = build()
    model.resize_token_embeddings(15)
    assert model._attributes.rows_VG[12:].tolist() == [[0, 0]] * 3
    assert model.item_vectors().shape == (15, 9)


def test_fine_tuning_needs_the_attributes_of_pretraining():
    pretrained = build(MaskedItemModel)
    build(NextItemModel).start_from(pretrained)
    other = ROWS.copy()
    other[4] = [2, 1]
    with pytest.raises(ConfigError, match="The pretrained items have other attributes"):
        build(attributes=other).start_from(pretrained)
    with pytest.raises(ConfigError, match="tensors differ"):
        build(attributes=None).start_from(pretrained)


def test_sparse_rows_and_bert_are_refused_in_words(tmp_path):
    model = build(loss="sampled")
    with pytest.raises(ConfigError, match="attributes make their gradient dense"):
        wants_sparse_rows(model, TrainingSettings(sparse_rows=True))
    assert not wants_sparse_rows(model, TrainingSettings())
    with pytest.raises(ConfigError, match="attributes.*sparse_rows cannot act"):
        model.read_sparsely()
    masked = build(MaskedItemModel, position_origin="oldest")
    with pytest.raises(ConfigError, match="BERT cannot express this model: attributes of items"):
        export_bert(masked, tmp_path / "bert")
