"""Recurrent blocks against torch's own modules, row by row."""

import pytest
import torch
from torch import nn

from idbert.errors import ConfigError
from idbert.nn.blocks import Block, build_block
from tests.nn.block_world import INPUT_WIDTH, LENGTHS, block, mask_of, randn, rows


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


@pytest.mark.parametrize("name", ["bilstm", "bigru", "lstm", "gru"])
@torch.no_grad()
def test_dropout_between_recurrent_layers_acts_in_training(name):
    options = {"num_layers": 2, "dropout": 0.5}
    hidden = randn(2, 9, INPUT_WIDTH)
    still = block(name, {"num_layers": 2})(hidden, None)
    assert block(name, options)(hidden, None).equal(still)
    assert not torch.allclose(block(name, options, training=True)(hidden, None), still)


@pytest.mark.parametrize("name", ["bilstm", "bigru"])
def test_a_block_that_looks_ahead_is_refused_where_none_may(name):
    with pytest.raises(ConfigError, match=rf"'{name}' reads later positions.*gru, idcnn, lstm"):
        build_block(name, INPUT_WIDTH, is_causal=True)
