"""Every block with its options, and rows of several lengths to read with it."""

import pytest
import torch

from idbert.nn.blocks import BLOCKS, Block, build_block

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
