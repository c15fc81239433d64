import pytest
import torch
from torch import nn

from idbert.errors import ConfigError
from idbert.nn.blocks.block import Block
from idbert.nn.parts import NoOptions
from idbert.nn.residual import RESIDUAL_MODES, ResidualSettings, ResidualWrapper


class Dense(Block):
    """A block simple enough to compute by hand; it remembers the mask that it was given."""

    supports_causal = True

    def __init__(self, input_width, width=None):
        super().__init__(input_width, width, NoOptions(), is_causal=False)
        self.dense = nn.Linear(self.input_width, self.width)
        self.mask = None

    def forward(self, hidden_BLD, attention_mask_BL):
        self.mask = attention_mask_BL
        return self.dense(hidden_BLD)


def wrapper(width: int, mode: str, gate: bool = False) -> ResidualWrapper:
    torch.manual_seed(0)
    return ResidualWrapper(Dense(4, width), 4, mode, gate)


HIDDEN = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))


def test_the_modes_are_what_their_formulas_say():
    for mode, width, expected in (
        ("none", 5, lambda w, f: f),
        ("sum", 4, lambda w, f: HIDDEN + f),
        ("projected", 5, lambda w, f: HIDDEN @ w.projection.weight.T + f),
        ("concat", 5, lambda w, f: torch.cat([HIDDEN, f], -1)),
    ):
        wrapped = wrapper(width, mode)
        result = wrapped(HIDDEN)
        torch.testing.assert_close(result, expected(wrapped, wrapped.block.dense(HIDDEN)))
        assert result.shape == (2, 3, wrapped.width)


@pytest.mark.parametrize("mode", ["sum", "projected", "concat"])
def test_a_gate_scales_the_block_in_each_component_and_nothing_else(mode):
    wrapped = wrapper(4, mode, gate=True)
    block = wrapped.block.dense(HIDDEN)
    gate = torch.sigmoid(wrapped.gate(torch.cat([HIDDEN, block], -1)))
    result = wrapped(HIDDEN)
    with torch.no_grad():
        wrapped.block.dense.weight.zero_()
        wrapped.block.dense.bias.zero_()
    if mode == "concat":
        torch.testing.assert_close(result[..., 4:], gate * block)
        torch.testing.assert_close(result[..., :4], HIDDEN)
    else:
        torch.testing.assert_close(result - wrapped(HIDDEN), gate * block)


@pytest.mark.parametrize("mode", ["sum", "projected", "concat"])
def test_a_shut_gate_leaves_only_the_path_past_the_block(mode):
    wrapped = wrapper(4, mode, gate=True)
    with torch.no_grad():
        wrapped.gate.weight.zero_()
        wrapped.gate.bias.fill_(-100.0)
    result = wrapped(HIDDEN)
    if mode == "concat":
        assert torch.equal(result[..., :4], HIDDEN) and not result[..., 4:].any()
    elif mode == "sum":
        assert torch.equal(result, HIDDEN)
    else:
        torch.testing.assert_close(result, wrapped.projection(HIDDEN))


def test_the_mask_reaches_the_block():
    wrapped = wrapper(4, "sum")
    mask = torch.ones(2, 3)
    wrapped(HIDDEN, mask)
    assert wrapped.block.mask is mask


@pytest.mark.parametrize("mode", ["none", "projected", "concat"])
def test_widths_may_differ_but_in_a_sum(mode):
    assert wrapper(7, mode)(HIDDEN).shape == (2, 3, 11 if mode == "concat" else 7)
    with pytest.raises(ConfigError, match="needs equal widths, and Dense makes 7 out of 4. Set"):
        wrapper(7, "sum")


def test_a_gate_without_a_path_to_weigh_against_is_refused():
    with pytest.raises(ConfigError, match="residual 'none' has no such path"):
        ResidualSettings("none", gate=True)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="no residual 'add'. Choose from: none, sum, projected"):
        wrapper(4, "add")
    assert RESIDUAL_MODES == ("none", "sum", "projected", "concat")
