"""Training and scoring on a device that is not the CPU: the same numbers, with few waits."""

import dataclasses

import numpy as np
import pytest
import torch

from idbert.evaluation.ranks import target_ranks
from idbert.inputs.item_batches import history_batches
from idbert.inputs.sequences import Sequences
from idbert.nn.blocks import BLOCKS, BlockSettings
from idbert.nn.config import EncoderSettings
from idbert.nn.fusion import FUSIONS, FusionSettings
from idbert.nn.item_models import MaskedItemModel, MixedItemModel, NextItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.nn.time_bias import TimeBiasSettings
from tests.nlp_tasks.classifier_world import KINDS
from tests.nlp_tasks.classifier_world import batch as texts
from tests.nlp_tasks.classifier_world import build as build_classifier
from tests.nlp_tasks.text_world import bert_folder
from tests.nn.label_world import every_loss, fitted, world
from tests.nn.test_item_models import FIRST_ITEM, VOCAB_SIZE, batch
from tests.other_device import OtherDevice, There, move, there

TWO_LAYERS = EncoderSettings(hidden_size=16, hidden_dropout=0.0)
LIGR = {"feed_forward": "gated", "layer_residual": "gated", "norm": "pre", "activation": "silu"}
TIMES = {"timestamps": torch.arange(10).view(2, 5) * 100_000}
SETTINGS = {
    "bert": {},
    "oldest": {"position_origin": "oldest"},
    "nezha": {"kind": "nezha", "max_relative_position": 2},
    "eager": {"attention": "eager"},
    "realformer": {"residual_scores": "gated"},
    "ligr": LIGR,
    "cosine": {"similarity": "cosine", "learned_temperature": True},
    "times": {"time_bias": TimeBiasSettings("log")},
    **{
        name: {"fusion": FusionSettings(name, layers=(-2,) if name == "layer" else None)}
        for name in FUSIONS
    },
}
LOSSES = {
    "full": {},
    "chunked": {"label_smoothing": 0.1},
    "sampled": {"distribution": "mixed", "negatives": 4},
    "gbce": {"negatives": 4},
    "bce": {},
}


def build(model_class, settings=TWO_LAYERS, loss="chunked", **options):
    torch.manual_seed(0)
    if model_class is MixedItemModel:
        options["is_causal"] = False
    return model_class.build(
        settings,
        vocab_size=VOCAB_SIZE,
        loss=LossSettings(loss, LOSSES[loss]),
        item_counts=np.arange(VOCAB_SIZE),
        **options,
    )


def loss_and_gradients(model, inputs):
    model.zero_grad()
    torch.manual_seed(1)
    loss = model(**inputs).loss
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss, gradients


def assert_the_same_there(model, inputs):
    expected, gradients = loss_and_gradients(model, inputs)
    gradients = {name: gradient.clone() for name, gradient in gradients.items()}
    with OtherDevice() as device:
        move(model)
        found, found_gradients = loss_and_gradients(model, there(inputs))
    torch.testing.assert_close(found.held, expected)
    assert found_gradients.keys() == gradients.keys()
    for name, gradient in found_gradients.items():
        torch.testing.assert_close(gradient.held, gradients[name])
    return device.answers


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
def test_losses_and_gradients_are_those_of_the_cpu(model_class, name):
    model = build(model_class, dataclasses.replace(TWO_LAYERS, **SETTINGS[name]))
    answers = assert_the_same_there(model, batch() | (TIMES if name == "times" else {}))
    # How many targets there are, the most of a row, and whether all padding stands at the end.
    assert len(answers) <= 3, answers


@pytest.mark.parametrize("name", sorted(set(BLOCKS) - {"gru", "bigru"}))
def test_blocks_stay_on_the_device(name):
    """Those of GRUs turn tensors in place, which the device of these tests cannot follow."""
    settings = dataclasses.replace(TWO_LAYERS, block=BlockSettings(name))
    assert_the_same_there(build(MaskedItemModel, settings), batch())


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_over_the_catalogue_draw_and_score_on_the_device(loss):
    answers = assert_the_same_there(build(NextItemModel, loss=loss), batch())
    assert len(answers) <= 3, answers


def test_attributes_and_mixed_batches_stay_on_the_device():
    rows = np.random.default_rng(0).integers(0, 4, (VOCAB_SIZE, 2))
    assert_the_same_there(build(MaskedItemModel, attributes=rows), batch())
    assert_the_same_there(build(MixedItemModel), batch() | {"is_causal": torch.tensor(True)})


def test_users_are_encoded_and_targets_ranked_on_the_device():
    histories = Sequences.from_histories([[4, 5, 6], [7, 8], [9, 4, 4, 5]])

    def ranks(model):
        batches = history_batches(histories, objective="masked", max_length=8, token_budget=12)
        users_UD, items_VD = model.encode_users(batches, 3), model.item_vectors()
        return target_ranks(
            lambda rows: users_UD[torch.from_numpy(rows)] @ items_VD.T,
            np.array([10, 4, 6]),
            histories.items,
            histories.offsets,
            vocab_size=VOCAB_SIZE,
            first_item=FIRST_ITEM,
        )

    expected = ranks(build(MaskedItemModel))
    with OtherDevice():
        model = build(MaskedItemModel)
        move(model)
        found = ranks(model)
    np.testing.assert_array_equal(found.ranks_U, expected.ranks_U)
    np.testing.assert_array_equal(found.top_UK, expected.top_UK)


@pytest.mark.parametrize("kind", KINDS)
def test_classifiers_stay_on_the_device(kind, tmp_path):
    model = build_classifier(bert_folder(tmp_path / "bert"), kind).eval()
    assert_the_same_there(model, texts(kind))


@every_loss
def test_losses_over_labels_stay_on_the_device(name, options):
    loss = fitted(name, options)
    logits, targets = world(loss)
    expected = loss(logits, targets)
    with OtherDevice():
        move(loss)
        found = loss(There(logits), There(targets))
    torch.testing.assert_close(found.held, expected)


def test_a_tensor_left_behind_is_found():
    with OtherDevice() as device:
        number = There(torch.ones(3))
        with pytest.raises(AssertionError, match="reads tensors of two devices"):
            number + torch.ones(3)
        assert device.answers == []
        assert number.sum().item() == 3
        assert len(device.answers) == 1
