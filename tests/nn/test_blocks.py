"""The laws of every block, and its published formula written as a slow loop."""

from dataclasses import dataclass, fields

import pytest
import torch
from torch import nn

from idbert.errors import ConfigError
from idbert.nn.blocks import BLOCKS, Block, BlockSettings, build_block
from idbert.nn.blocks.block import zero_padding
from idbert.nn.blocks.layers import LayerOptions, Sublayer
from idbert.nn.parts import NoOptions
from idbert.nn.registry import Registry

INPUT_WIDTH = 16
LENGTHS = (7, 3, 1)

RECURRENT = {"num_layers": (1, 3), "layer_norm": (False, True)}
ATTENTION = {
    "num_layers": (1, 2),
    "num_heads": (4, 2),
    "inner_factor": (4, 2),
    "dropout": (0.0, 0.5),
    "norm": ("post", "pre"),
}
CHANGES = {
    "bilstm": RECURRENT,
    "bigru": RECURRENT,
    "lstm": RECURRENT,
    "gru": RECURRENT,
    "transformer": ATTENTION,
    "tener": ATTENTION,
    "rtransformer": {**ATTENTION, "window": (7, 3), "cell": ("gru", "lstm")},
    "textcnn": {"kernel_widths": ((3, 4, 5), (3, 4, 2)), "dropout": (0.0, 0.5)},
    "idcnn": {
        "dilations": ((1, 1, 2), (1, 1, 3)),
        "iterations": (4, 2),
        "kernel_width": (3, 2),
        "dropout": (0.0, 0.5),
        "layer_norm": (True, False),
    },
    "dgcnn": {
        "dilations": ((1, 2, 5), (1, 2, 3)),
        "kernel_width": (3, 4),
        "gate_dropout": (0.0, 0.5),
    },
}
"""Two values of each option of each block; the first is the default, or switches dropout off."""

VARIANTS = [
    *((name, {}) for name in CHANGES),
    *((name, {"num_layers": 2, "layer_norm": True}) for name in ("bilstm", "bigru", "lstm", "gru")),
    *((name, {"num_layers": 2, "norm": "pre"}) for name in ("transformer", "tener")),
    ("rtransformer", {"num_layers": 2, "norm": "pre", "cell": "lstm", "window": 3}),
    ("rtransformer", {"num_layers": 2, "cell": "rnn", "window": 12}),
    ("textcnn", {"kernel_widths": (1, 2, 9)}),
    ("idcnn", {"dilations": (1, 2, 4), "kernel_width": 4, "layer_norm": False}),
    ("dgcnn", {"dilations": (1, 3, 9), "kernel_width": 4}),
]
CASES = [
    pytest.param(name, options, is_causal, id=f"{name}-{number}-{'causal' * is_causal}")
    for number, (name, options) in enumerate(VARIANTS)
    for is_causal in (False, True)
    if BLOCKS[name].supports_causal or not is_causal
]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def block(name: str, options=None, *, width=None, is_causal=False, training=False) -> Block:
    """Build a block in double precision, none of its parameters at a special value."""
    torch.manual_seed(0)
    built = build_block(name, INPUT_WIDTH, width, options, is_causal=is_causal)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return built.double().train(training)


def mask_of(lengths, total: int | None = None) -> torch.Tensor:
    return (torch.arange(total or max(lengths)) < torch.tensor(lengths)[:, None]).long()


def rows(lengths=LENGTHS, total: int | None = None, filling: float = 0.0) -> torch.Tensor:
    """Return rows whose real values depend on their lengths alone; `filling` is at padding."""
    size = (len(lengths), total or max(lengths), INPUT_WIDTH)
    batch = torch.full(size, filling, dtype=torch.float64)
    for number, length in enumerate(lengths):
        batch[number, :length] = randn(length, INPUT_WIDTH, seed=number)
    return batch


def test_every_block_is_among_the_cases():
    assert set(CHANGES) == set(BLOCKS)


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_padding_changes_nothing_whatever_its_values(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal)
    alone = [
        tested(rows()[number : number + 1, :length], None)[0]
        for number, length in enumerate(LENGTHS)
    ]
    for total, filling in ((7, 0.0), (7, 1e4), (40, 1.0), (8, float("nan"))):
        output = tested(rows(total=total, filling=filling), mask_of(LENGTHS, total))
        assert output.shape == (3, total, INPUT_WIDTH)
        for number, length in enumerate(LENGTHS):
            torch.testing.assert_close(output[number, :length], alone[number])
            assert (output[number, length:] == 0).all()


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_padding_before_a_row_changes_nothing(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal)
    hidden, mask = rows(filling=5.0), mask_of(LENGTHS)
    output = tested(hidden, mask)
    for number, length in enumerate(LENGTHS):
        hidden[number] = hidden[number].roll(7 - length, dims=0)
        mask[number] = mask[number].roll(7 - length)
    moved = tested(hidden, mask)
    for number, length in enumerate(LENGTHS):
        torch.testing.assert_close(moved[number, 7 - length :], output[number, :length])


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_a_neighbour_in_the_batch_changes_nothing(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal)
    hidden, mask = rows(), mask_of(LENGTHS)
    before = tested(hidden, mask)
    hidden[0], mask[0] = 100 * randn(7, INPUT_WIDTH, seed=9), mask_of((2,), 7)[0]
    after = tested(hidden, mask)
    torch.testing.assert_close(after[1:], before[1:])
    assert not torch.allclose(after[0], before[0])
    turned = tested(hidden.flip(0), mask.flip(0))
    torch.testing.assert_close(turned.flip(0), after)


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
def test_a_row_of_padding_alone_gives_zeros_and_no_gradient(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal)
    hidden = rows((4, 0), filling=float("nan")).requires_grad_()
    output = tested(hidden, mask_of((4, 0)))
    assert (output[1] == 0).all()
    output.square().sum().backward()
    assert (hidden.grad[1] == 0).all() and hidden.grad[0].abs().min() > 0
    assert all(parameter.grad.isfinite().all() for parameter in tested.parameters())


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_any_length_width_and_a_batch_of_one_work(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal, width=24)
    assert tested.width == 24
    for batch_size, length in ((1, 1), (1, 7), (3, 1), (2, 2), (1, 65)):
        for mask in (None, torch.ones(batch_size, length)):
            output = tested(randn(batch_size, length, INPUT_WIDTH), mask)
            assert output.shape == (batch_size, length, 24)
            assert output.isfinite().all()


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_no_mask_is_a_mask_of_ones(name, options, is_causal):
    tested, hidden = block(name, options, is_causal=is_causal), randn(2, 6, INPUT_WIDTH)
    expected = tested(hidden, None)
    for dtype in (torch.int64, torch.bool, torch.float32):
        torch.testing.assert_close(tested(hidden, torch.ones(2, 6, dtype=dtype)), expected)


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_a_causal_block_does_not_look_ahead_and_another_does(name, options, is_causal):
    tested, hidden = block(name, options, is_causal=is_causal), randn(2, 9, INPUT_WIDTH)
    changed = hidden.clone()
    changed[:, 5] = -changed[:, 5]
    for mask in (None, mask_of((9, 8))):
        before, after = tested(hidden, mask), tested(changed, mask)
        assert not torch.allclose(after[:, 5], before[:, 5])
        assert not torch.allclose(after[:, 6], before[:, 6])
        looks_ahead = not torch.allclose(after[:, :5], before[:, :5])
        assert looks_ahead == (not is_causal and name not in ("lstm", "gru"))
        if is_causal:
            torch.testing.assert_close(tested(hidden[:, :5], None), before[:, :5])


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
def test_gradients_reach_every_parameter_and_every_real_position(name, options, is_causal):
    tested = block(name, options, width=24, is_causal=is_causal, training=True)
    hidden = rows((7, 5)).requires_grad_()
    tested(hidden, mask_of((7, 5))).mul(randn(2, 7, 24)).sum().backward()
    for parameter_name, parameter in tested.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name
    assert (hidden.grad.abs().amax(-1) > 0).equal(mask_of((7, 5)).bool())


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_a_saved_block_is_restored_exactly(name, options, is_causal, tmp_path):
    saved, hidden = block(name, options, is_causal=is_causal), randn(2, 5, INPUT_WIDTH)
    torch.save(saved.state_dict(), tmp_path / "block.pt")
    restored = build_block(name, INPUT_WIDTH, None, options, is_causal=is_causal).eval().double()
    restored.load_state_dict(torch.load(tmp_path / "block.pt", weights_only=True))
    assert restored(hidden, None).equal(saved(hidden, None))
    assert not list(saved.buffers())


@pytest.mark.parametrize("name", CHANGES)
def test_a_block_trains_under_bfloat16_autocast(name):
    tested = block(name, training=True).float()
    with torch.autocast("cpu", torch.bfloat16):
        output = tested(rows().float(), mask_of(LENGTHS))
    output.float().square().sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in tested.parameters())


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in CHANGES for option in CHANGES[name]]
)
@torch.no_grad()
def test_each_option_acts(name, option):
    outputs = []
    for value in CHANGES[name][option]:
        options = {switch: 0 for switch in CHANGES[name] if "dropout" in switch}
        tested = block(name, {**options, option: value}, training=True)
        torch.manual_seed(1)
        outputs.append(tested(randn(2, 9, INPUT_WIDTH), None))
    assert not torch.allclose(*outputs, atol=1e-4)


@pytest.mark.parametrize("name", ["bilstm", "bigru", "lstm", "gru"])
@torch.no_grad()
def test_dropout_between_recurrent_layers_acts_in_training(name):
    options = {"num_layers": 2, "dropout": 0.5}
    hidden = randn(2, 9, INPUT_WIDTH)
    still = block(name, {"num_layers": 2})(hidden, None)
    assert block(name, options)(hidden, None).equal(still)
    assert not torch.allclose(block(name, options, training=True)(hidden, None), still)


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


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_of_each_block_is_tried(name):
    tried = set(CHANGES[name]) | ({"dropout"} if CHANGES[name] is RECURRENT else set())
    assert {field.name for field in fields(BLOCKS[name].Options)} == tried


@pytest.mark.parametrize("name", CHANGES)
def test_dropout_is_still_when_the_model_is_judged(name):
    judged, hidden = block(name), randn(2, 5, INPUT_WIDTH)
    assert judged(hidden, None).equal(judged(hidden, None))


# Formulas, position by position.


def mirrored(tested: Block, num_layers: int, kind: type[nn.RNNBase]) -> nn.RNNBase:
    """Return torch's own recurrent module with the weights of a block."""
    directions = len(tested.layers[0])
    theirs = kind(
        INPUT_WIDTH, 24 // directions, num_layers, batch_first=True, bidirectional=directions == 2
    )
    weights = {
        f"{name.removesuffix('_l0')}_l{layer}{'_reverse' if direction else ''}": parameter
        for layer in range(num_layers)
        for direction in range(directions)
        for name, parameter in tested.layers[layer][direction].named_parameters()
    }
    theirs.double().load_state_dict(weights)
    return theirs


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("bilstm", nn.LSTM), ("bigru", nn.GRU), ("lstm", nn.LSTM), ("gru", nn.GRU)],
)
@torch.no_grad()
def test_a_recurrent_block_equals_torchs_over_each_row_and_over_packed_rows(name, kind, num_layers):
    tested = block(name, {"num_layers": num_layers}, width=24)
    theirs = mirrored(tested, num_layers, kind)
    output = tested(rows(filling=3.0), mask_of(LENGTHS))
    for number, length in enumerate(LENGTHS):
        expected = theirs(rows()[number : number + 1, :length])[0]
        torch.testing.assert_close(output[number, :length], expected[0])
    packed = nn.utils.rnn.pack_padded_sequence(rows(), torch.tensor(LENGTHS), batch_first=True)
    expected = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]
    torch.testing.assert_close(output, expected)


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


@pytest.mark.parametrize("name", CHANGES)
def test_every_bias_is_a_vector_so_that_it_does_not_decay(name):
    biases = {n: p for n, p in block(name).named_parameters() if "bias" in n}
    assert biases and {n for n, p in biases.items() if p.ndim > 1} == set()


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


# Refusals and settings.


@pytest.mark.parametrize(
    ("name", "width", "options", "words"),
    [
        ("bilstn", None, {}, "There is no block 'bilstn'. Did you mean 'bilstm'?"),
        ("none", None, {}, "There is no block 'none'"),
        ("bilstm", 15, {}, "divides its width among 2 directions, and 15 is no multiple of 2"),
        ("bigru", 7, {}, "2 directions"),
        ("rtransformer", 15, {"num_heads": 1}, "2 directions"),
        ("transformer", 18, {}, "divides its width among 4 heads, and 18 is no multiple of 4"),
        ("rtransformer", 18, {}, "4 heads"),
        ("tener", 18, {}, "4 heads"),
        ("tener", 12, {}, "heads of an even width.*12 among 4 heads is 3"),
        ("textcnn", 2, {}, "divides its width among 3 kernel widths, and 2 is too small"),
        ("lstm", 0, {}, "must have a width of at least 1, not 0"),
        ("gru", None, {"num_layers": 0}, "needs num_layers of at least 1, not 0"),
        ("gru", None, {"dropout": 0.1}, "dropout=0.1 cannot act on one layer"),
        ("gru", None, {"dropout": 1.0, "num_layers": 2}, "dropout from 0 to below 1, not 1.0"),
        ("transformer", None, {"dropout": -0.1}, "dropout from 0 to below 1, not -0.1"),
        ("transformer", None, {"norm": "both"}, "norm"),
        ("rtransformer", None, {"window": 0}, "needs window of at least 1, not 0"),
        ("rtransformer", None, {"inner_factor": 0}, "needs inner_factor of at least 1"),
        ("rtransformer", None, {"cell": "qrnn"}, "cell"),
        ("textcnn", None, {"kernel_widths": []}, r"needs kernel_widths of at least 1, not \(\)"),
        ("textcnn", None, {"kernel_widths": [3, 0]}, r"kernel_widths of at least 1, not \(3, 0\)"),
        ("textcnn", None, {"widths": [3]}, "block 'textcnn' has no option 'widths'.*kernel_widths"),
        ("idcnn", None, {"dilations": [1, -1]}, "needs dilations of at least 1"),
        ("idcnn", None, {"iterations": 0}, "needs iterations of at least 1"),
        ("idcnn", None, {"dropout": 1}, "dropout from 0 to below 1"),
        ("dgcnn", None, {"kernel_width": 0}, "needs kernel_width of at least 1"),
        ("dgcnn", None, {"gate_dropout": 2.0}, "gate_dropout from 0 to below 1"),
    ],
)
def test_what_does_not_fit_is_refused(name, width, options, words):
    with pytest.raises(ConfigError, match=words):
        build_block(name, INPUT_WIDTH, width, options)


@pytest.mark.parametrize("name", ["bilstm", "bigru"])
def test_a_block_that_looks_ahead_is_refused_where_none_may(name):
    with pytest.raises(ConfigError, match=rf"'{name}' reads later positions.*gru, idcnn, lstm"):
        build_block(name, INPUT_WIDTH, is_causal=True)


def test_settings_are_checked_before_anything_is_built():
    assert BlockSettings() == BlockSettings("none", None, {})
    BlockSettings("textcnn", 30, {"kernel_widths": [2, 3]})
    with pytest.raises(ConfigError, match="no block 'rnn'"):
        BlockSettings("rnn")
    with pytest.raises(ConfigError, match="no option 'layers'"):
        BlockSettings("lstm", None, {"layers": 2})
    with pytest.raises(ConfigError, match="width of at least 1, not -1"):
        BlockSettings("lstm", -1)
    for settings in ({"width": 8}, {"options": {"num_layers": 2}}):
        with pytest.raises(ConfigError, match="cannot act without a block"):
            BlockSettings(**settings)


def test_a_width_not_given_is_the_width_read():
    for name in BLOCKS:
        assert build_block(name, INPUT_WIDTH).width == INPUT_WIDTH


def test_the_narrowest_textcnn_has_one_filter_for_each_kernel_width():
    assert block("textcnn", width=3)(randn(1, 4, INPUT_WIDTH), None).shape[-1] == 3


def test_idcnn_shares_its_stack_among_the_iterations():
    sizes = {
        sum(parameter.numel() for parameter in build_block("idcnn", 8, options=given).parameters())
        for given in ({"iterations": 1}, {"iterations": 6})
    }
    assert len(sizes) == 1


def test_a_block_from_outside_is_built_by_name(monkeypatch):
    ours: Registry[type[Block]] = Registry("block")
    monkeypatch.setattr("idbert.nn.blocks.block.BLOCKS", ours)

    @ours.register("scaled")
    class Scaled(Block):
        @dataclass(frozen=True)
        class Options(NoOptions):
            factor: float = 2.0

        def forward(self, hidden_BLD, attention_mask_BL):
            return self.options.factor * zero_padding(hidden_BLD, attention_mask_BL)

    hidden = randn(1, 2, INPUT_WIDTH)
    scaled = build_block("scaled", INPUT_WIDTH, options={"factor": 3})
    assert scaled(hidden, torch.tensor([[1, 0]])).equal(
        torch.stack([3 * hidden[:, 0], 0 * hidden[:, 1]], 1)
    )
    with pytest.raises(ConfigError, match="reads later positions"):
        build_block("scaled", INPUT_WIDTH, is_causal=True)
