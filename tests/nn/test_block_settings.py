"""How blocks are chosen by name, what is refused, and a block from outside."""

from dataclasses import dataclass

import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.blocks import BLOCKS, Block, BlockSettings, build_block
from idbert.nn.blocks.block import zero_padding
from idbert.nn.parts import NoOptions
from idbert.nn.registry import Registry
from tests.nn.block_world import INPUT_WIDTH, randn


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
