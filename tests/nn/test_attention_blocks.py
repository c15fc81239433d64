"""Blocks with attention, and their published formulas written as slow loops."""

import pytest
import torch
from torch import nn

from idbert.nn.blocks.layers import LayerOptions, Sublayer
from tests.nn.block_world import INPUT_WIDTH, LENGTHS, block, mask_of, randn, rows


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("is_causal", [False, True])
@torch.no_grad()
def test_a_transformer_block_equals_torchs_layer_over_each_row(norm, is_causal):
    tested = block("transformer", {"norm": norm, "inner_factor": 3}, is_causal=is_causal)
    theirs = nn.TransformerEncoderLayer(
        INPUT_WIDTH,
        4,
        3 * INPUT_WIDTH,
        activation="gelu",
        batch_first=True,
        norm_first=norm == "pre",
        dtype=torch.float64,
    ).train()
    theirs.dropout.p = theirs.dropout1.p = theirs.dropout2.p = theirs.self_attn.dropout = 0.0
    attention, feed_forward = tested.layers[0]["attention"], tested.layers[0]["feed_forward"]
    theirs.self_attn.in_proj_weight.copy_(attention.module.query_key_value.weight)
    theirs.self_attn.in_proj_bias.copy_(attention.module.query_key_value.bias)
    for ours, other in (
        (attention.module.output, theirs.self_attn.out_proj),
        (attention.norm, theirs.norm1),
        (feed_forward.module[0], theirs.linear1),
        (feed_forward.module[2], theirs.linear2),
        (feed_forward.norm, theirs.norm2),
    ):
        other.load_state_dict(ours.state_dict())
    output = tested(rows(filling=3.0), mask_of(LENGTHS))
    for number, length in enumerate(LENGTHS):
        ahead = torch.ones(length, length).triu(1).bool()
        expected = theirs(rows()[number : number + 1, :length], ahead if is_causal else None)[0]
        if norm == "pre":
            expected = nn.functional.layer_norm(
                expected, (INPUT_WIDTH,), tested.final_norm.weight, tested.final_norm.bias
            )
        torch.testing.assert_close(output[number, :length], expected)


def rest_of_layer(layer: nn.ModuleDict, row, read):
    """Return norm(h + ffn(h)) of h = norm(x + read), as the layer's own parts compute it."""
    hidden = layer["attention"].norm(row + read)
    return layer["feed_forward"].norm(hidden + layer["feed_forward"].module(hidden))


@pytest.mark.parametrize("is_causal", [False, True])
@torch.no_grad()
def test_tener_is_its_formula(is_causal):
    tested = block("tener", {"num_heads": 2}, is_causal=is_causal)
    layer = tested.layers[0]
    attention, width = layer["attention"].module, INPUT_WIDTH // 2
    output = tested(rows(filling=3.0), mask_of(LENGTHS))
    for number, length in enumerate(LENGTHS):
        row = rows()[number, :length]
        query, value = attention.query(row), attention.value(row)
        read = torch.zeros_like(row)
        for head in range(2):
            part = slice(head * width, (head + 1) * width)
            u, v = attention.key_bias[part], attention.distance_bias[part]
            for t in range(length):
                keys = range(t + 1 if is_causal else length)
                scores = []
                for j in keys:
                    sinusoid = torch.zeros(width, dtype=torch.float64)
                    for i in range(width // 2):
                        angle = torch.tensor((t - j) / 10000 ** (2 * i / width))
                        sinusoid[2 * i], sinusoid[2 * i + 1] = angle.sin(), angle.cos()
                    q, k = query[t, part], row[j, part]
                    scores.append(q @ k + q @ sinusoid + u @ k + v @ sinusoid)
                for share, j in zip(torch.stack(scores).softmax(0), keys, strict=True):
                    read[t, part] += share * value[j, part]
        expected = rest_of_layer(layer, row, attention.output(read))
        torch.testing.assert_close(output[number, :length], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_tener_tells_left_from_right():
    tested = block("tener")
    hidden = randn(1, 1, INPUT_WIDTH).repeat(1, 5, 1)
    hidden[0, 1] = randn(INPUT_WIDTH, seed=5)
    mirrored_output = tested(hidden.flip(1), None).flip(1)
    assert not torch.allclose(tested(hidden, None), mirrored_output, atol=1e-3)


@pytest.mark.parametrize(("cell", "kind"), [("rnn", nn.RNN), ("gru", nn.GRU), ("lstm", nn.LSTM)])
@pytest.mark.parametrize("window", [1, 3, 9])
@pytest.mark.parametrize("is_causal", [False, True])
@torch.no_grad()
def test_rtransformer_is_its_formula(cell, kind, window, is_causal):
    tested = block("rtransformer", {"cell": cell, "window": window}, is_causal=is_causal)
    layer = tested.layers[0]
    cells = layer["local"].module.cells
    assert [type(module) for module in cells] == [kind] * (1 if is_causal else 2)
    output = tested(rows(filling=3.0), mask_of(LENGTHS))
    for number, length in enumerate(LENGTHS):
        row = rows()[number, :length]
        outside = torch.zeros(window, INPUT_WIDTH, dtype=torch.float64)
        long_row = torch.cat([outside, row, outside])
        states = []
        for t in range(window, window + length):
            windows = [long_row[t - window + 1 : t + 1], long_row[t : t + window].flip(0)]
            ends = [module(read[None])[0][0, -1] for module, read in zip(cells, windows)]  # noqa: B905
            states.append(torch.cat(ends))
        hidden = layer["local"].norm(row + torch.stack(states))
        visible = torch.ones(1, length, length).tril().bool() if is_causal else None
        read = layer["attention"].module(hidden[None], visible)[0]
        expected = rest_of_layer(layer, hidden, read)
        torch.testing.assert_close(output[number, :length], expected)


@pytest.mark.parametrize("name", ["transformer", "rtransformer", "tener"])
@torch.no_grad()
def test_dropout_reaches_the_shares_of_attention_too(name):
    attention = block(name, {"dropout": 0.5}).layers[0]["attention"].module
    hidden = randn(2, 9, INPUT_WIDTH)
    still = attention(hidden, None)
    assert not torch.allclose(attention.train()(hidden, None), still)
    assert attention.eval()(hidden, None).equal(still)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_sublayer_drops_what_its_module_gives_and_keeps_the_skip(norm):
    hidden = 1 + randn(2, 9, INPUT_WIDTH).abs()
    sublayer = Sublayer(nn.Identity(), INPUT_WIDTH, LayerOptions(dropout=0.5, norm=norm)).double()
    dropped = sublayer(hidden)
    assert not torch.allclose(dropped, sublayer.eval()(hidden))
    if norm == "pre":
        share_dropped = torch.isclose(dropped, hidden).double().mean()
        assert 0.3 < share_dropped < 0.7
