"""Rows of states whose padding holds garbage, and what must not change with it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from idbert.nn.blocks import BLOCKS, build_block

WIDTH = 8
Part = Callable[[Tensor, Tensor], Tensor]


def states(*lengths: int, padding: int = 0, garbage: float = 9.0) -> tuple[Tensor, Tensor]:
    """Rows that depend on their own length alone, with garbage at padding; and their mask."""
    hidden = torch.full((len(lengths), max(lengths) + padding, WIDTH), garbage)
    mask = torch.zeros(hidden.shape[:2], dtype=torch.long)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(length)
        hidden[row, :length] = torch.randn(length, WIDTH, generator=generator)
        mask[row, :length] = 1
    return hidden, mask


def blocks(*names: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: build_block(name, WIDTH).eval() for name in names or BLOCKS}


def check_padding_changes_nothing(part: Part) -> None:
    """Neither how much padding there is nor what stands in it changes a real position, or a row."""
    for length in range(1, 8):
        hidden, mask = states(length)
        expected = part(hidden, mask)
        for padding, garbage in ((2, 9.0), (5, -9.0)):
            padded = part(*states(length, padding=padding, garbage=garbage))
            kept = padded[:, :length] if padded.ndim == 3 else padded
            torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-4)
