"""The last layer at some positions alone: the vectors, losses and gradients of the whole layer."""

import pytest
import torch

from idbert.nn import asked as asked_module
from idbert.nn.asked import asked_at, at_positions
from idbert.nn.config import EncoderSettings
from idbert.nn.fusion import FusionSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.nn.products import fast_products, rounded_rows
from idbert.nn.relative import RelativeDistances
from idbert.nn.time_bias import TimeBiasSettings
from idbert.nn.word_config import WordEncoderSettings
from idbert.nn.word_models import MaskedWordModel

LENGTH = 20
ENCODERS = {
    "post-LN": {},
    "pre-LN": {"norm": "pre"},
    "gated layers": {"feed_forward": "gated", "layer_residual": "gated"},
    "plain products": {"attention": "eager"},
    "residual scores": {"residual_scores": "sum"},
    "NEZHA": {"kind": "nezha", "max_length": None, "max_relative_position": 3},
    "NEZHA and time bias": {
        "kind": "nezha",
        "max_length": None,
        "max_relative_position": 3,
        "time_bias": TimeBiasSettings("log"),
    },
    "time bias": {"time_bias": TimeBiasSettings("log")},
    "fused layers": {"fusion": FusionSettings(name="softmax")},
}


def timed(model, inputs):
    """The batch as this model reads it."""
    if model.config.reads_times == "none":
        return inputs
    return inputs | {"timestamps": inputs["input_ids"] * 1000}


def build(model_class, **changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_length": LENGTH}
    return model_class.build(EncoderSettings(**sizes | changes), vocab_size=40).eval()


def batch(*, is_left_padded=False):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 40, (5, LENGTH), generator=generator)
    mask = torch.ones(5, LENGTH, dtype=torch.long)
    mask[1, 14:] = 0
    if is_left_padded:
        mask = mask.flip(1)
    labels = torch.where(torch.rand(5, LENGTH, generator=generator) < 0.2, ids, -100)
    labels[3] = -100  # a sequence without a target
    return {"input_ids": ids, "attention_mask": mask, "labels": labels.where(mask > 0, -100)}


def loss_and_gradients(model, inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return [loss, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
@pytest.mark.parametrize("is_left_padded", [False, True])
@pytest.mark.parametrize("is_fast", [False, True])
def test_loss_and_gradients_are_those_of_the_whole_layer(
    monkeypatch, name, model_class, is_left_padded, is_fast
):
    if is_fast:
        monkeypatch.setattr(
            "idbert.nn.attention.suits", lambda query, dropout, has_bias=False: True
        )
    model = build(model_class, **ENCODERS[name])
    inputs = timed(model, batch(is_left_padded=is_left_padded))
    asked = loss_and_gradients(model, inputs)
    monkeypatch.setattr(asked_module, "WORTHWHILE_SHARE", 0.0)
    whole = loss_and_gradients(model, inputs)
    for ours, theirs in zip(asked, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
def test_nezha_looks_no_distance_up_where_a_sequence_is_asked_for_everywhere(
    monkeypatch, model_class
):
    model, inputs = build(model_class, **ENCODERS["NEZHA"]), batch()
    inputs["labels"][0] = inputs["input_ids"][0]
    looked_up = []
    at = RelativeDistances.at
    monkeypatch.setattr(RelativeDistances, "at", lambda *given: looked_up.append(1) or at(*given))
    asked = loss_and_gradients(model, inputs)
    assert not looked_up
    monkeypatch.setattr(asked_module, "WORTHWHILE_SHARE", 0.0)
    whole = loss_and_gradients(model, inputs)
    for ours, theirs in zip(asked, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_states_are_those_at_the_positions(name):
    model = build(NextItemModel, **ENCODERS[name])
    inputs = timed(model, batch())
    del inputs["labels"]
    queries = torch.tensor([[3, 0, 19], [2, 2, 13], [0, 1, 2], [19, 18, 17], [5, 5, 5]])
    with torch.no_grad():
        asked = model.backbone(**inputs, queries=queries)
        expected = at_positions(model.backbone(**inputs), queries)
    torch.testing.assert_close(asked, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["post-LN", "NEZHA"])
def test_the_last_layer_computes_no_more_than_its_targets_need(name):
    model, inputs = build(MaskedItemModel, **ENCODERS[name]), batch()
    seen = []
    for layer in model.backbone.encoder.encoder.layer:
        layer.intermediate.register_forward_hook(
            lambda module, states, widened: seen.append(widened.shape[1])
        )
    with fast_products():
        model(**inputs)
    targets = int((inputs["labels"] != -100).sum())
    assert seen == [LENGTH, rounded_rows_of(targets)]


def rounded_rows_of(count):
    with fast_products():
        return rounded_rows(count)


def test_attention_reads_as_few_positions_of_a_sequence_as_the_targets_need():
    wanted = torch.zeros(3, 40, dtype=torch.bool)
    wanted[0, 5] = wanted[2, [0, 7, 39]] = True
    asked = asked_at(wanted)
    assert asked.positions_BQ.tolist() == [[5, 0, 0, 0], [0, 0, 0, 0], [0, 7, 39, 0]]
    assert asked.count == 4
    states = torch.arange(3 * 40.0).view(3, 40, 1)
    assert asked.of(states)[0, :4, 0].tolist() == [5, 80, 87, 119]
    attended = at_positions(states, asked.positions_BQ)
    assert torch.equal(asked.of_attended(attended), asked.of(states))


def test_masked_words_have_the_loss_of_the_whole_layer_for_less(monkeypatch):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_length": LENGTH}
    model = MaskedWordModel.build(WordEncoderSettings(**sizes), vocab_size=40).eval()
    seen = []
    model.backbone.encoder.encoder.layer[-1].intermediate.register_forward_hook(
        lambda module, states, widened: seen.append(widened.shape[1])
    )
    inputs = batch()
    asked = loss_and_gradients(model, inputs)
    monkeypatch.setattr(asked_module, "WORTHWHILE_SHARE", 0.0)
    whole = loss_and_gradients(model, inputs)
    for ours, theirs in zip(asked, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert seen[0] < seen[1] == LENGTH


def test_where_most_positions_have_a_target_none_is_chosen():
    model, inputs = build(NextItemModel), batch()
    inputs["labels"] = inputs["input_ids"]
    seen = []
    model.backbone.encoder.encoder.layer[-1].register_forward_hook(
        lambda module, states, output: seen.append(output[0].shape[1])
    )
    model(**inputs)
    assert seen == [LENGTH]
