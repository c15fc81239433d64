"""Blocks of convolutions, and their published formulas written as slow loops."""

import pytest
import torch
from torch import nn

from idbert.nn.blocks import build_block
from tests.nn.block_world import INPUT_WIDTH, LENGTHS, block, mask_of, randn, rows


def convolved(convolution: nn.Conv1d, row, position: int, dilation: int, is_causal: bool):
    """Return b + sum_k W_k x_(t + (k - o) d) with a loop over k; outside the row x is zero."""
    weight, width = convolution.weight, convolution.kernel_size[0]
    before = width - 1 if is_causal else (width - 1) // 2
    total = convolution.bias
    for k in range(width):
        read = position + (k - before) * dilation
        if 0 <= read < len(row):
            total = total + weight[:, :, k] @ row[read]
    return total


@pytest.mark.parametrize("is_causal", [False, True])
@torch.no_grad()
def test_textcnn_is_its_formula(is_causal):
    tested = block("textcnn", {"kernel_widths": (2, 3, 5)}, width=10, is_causal=is_causal)
    assert [c.convolution.out_channels for c in tested.convolutions] == [4, 3, 3]
    output = tested(rows(filling=3.0), mask_of(LENGTHS))
    for number, length in enumerate(LENGTHS):
        row = rows()[number, :length]
        for position in range(length):
            expected = [
                convolved(c.convolution, row, position, 1, is_causal).relu()
                for c in tested.convolutions
            ]
            torch.testing.assert_close(output[number, position], torch.cat(expected))


def test_the_narrowest_textcnn_has_one_filter_for_each_kernel_width():
    assert block("textcnn", width=3)(randn(1, 4, INPUT_WIDTH), None).shape[-1] == 3


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("is_causal", [False, True])
@torch.no_grad()
def test_idcnn_is_its_formula(layer_norm, is_causal):
    options = {"iterations": 3, "dilations": (1, 2), "layer_norm": layer_norm}
    tested = block("idcnn", options, width=12, is_causal=is_causal)
    output = tested(rows(filling=3.0), mask_of(LENGTHS))
    for number, length in enumerate(LENGTHS):
        row = rows()[number, :length]
        row = [convolved(tested.first.convolution, row, t, 1, is_causal) for t in range(length)]
        for _ in range(3):
            for layer, dilation in enumerate((1, 2)):
                convolution = tested.convolutions[layer].convolution
                row = [
                    convolved(convolution, row, t, dilation, is_causal).relu()
                    for t in range(length)
                ]
                if layer_norm:
                    norm = tested.norms[layer]
                    row = [
                        (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * norm.weight
                        + norm.bias
                        for x in row
                    ]
        torch.testing.assert_close(output[number, :length], torch.stack(row))


def test_idcnn_shares_its_stack_among_the_iterations():
    sizes = {
        sum(parameter.numel() for parameter in build_block("idcnn", 8, options=given).parameters())
        for given in ({"iterations": 1}, {"iterations": 6})
    }
    assert len(sizes) == 1


@pytest.mark.parametrize("width", [INPUT_WIDTH, 12])
@pytest.mark.parametrize("is_causal", [False, True])
@torch.no_grad()
def test_dgcnn_is_its_formula(width, is_causal):
    tested = block("dgcnn", {"dilations": (1, 3)}, width=width, is_causal=is_causal)
    output = tested(rows(filling=3.0), mask_of(LENGTHS))
    for number, length in enumerate(LENGTHS):
        row = list(tested.projection(rows()[number, :length]))
        for layer, dilation in enumerate((1, 3)):
            convolution = tested.convolutions[layer].convolution
            both = [convolved(convolution, row, t, dilation, is_causal) for t in range(length)]
            gates = [x[width:].sigmoid() for x in both]
            row = [
                (1 - gate) * x + gate * new[:width]
                for x, gate, new in zip(row, gates, both, strict=True)
            ]
        torch.testing.assert_close(output[number, :length], torch.stack(row))


def test_a_gate_whose_score_is_dropped_stands_half_open():
    tested = block("dgcnn", {"dilations": (1,)}, training=True)
    tested.gate_dropout.p = 1.0
    hidden = randn(1, 6, INPUT_WIDTH)
    new = tested.convolutions[0](hidden, None)[..., :INPUT_WIDTH]
    torch.testing.assert_close(tested(hidden, None), (hidden + new) / 2)
