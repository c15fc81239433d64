"""Dropout whose random numbers are cheap on a CPU.

torch draws one float for every number that may be dropped, which takes several times as long as the
matrix product before it. Sixteen random bits are as good: a 64-bit word serves four numbers, and
integers that are clamped to two values take a fifth of the time of comparing them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_STEPS = 2**16
_LOWEST = -(2**15)

_MANY_WORDS = 2**13
"""Random words from which on numpy's generator is faster: twice as fast, but for its making."""


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` that draws bits on a CPU; elsewhere torch's own.

    The probability is rounded to 1/65536, and what is kept is scaled by the rounded one, so that
    the expectation is exact.
    """

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:  # noqa: A002 (torch's)
        """Return the input with a share of its numbers set to zero, in training."""
        return dropout(input, self.p) if self.training else input


def dropout(x: Float[Tensor, "..."], probability: float) -> Float[Tensor, "..."]:
    """Set each number to zero with a probability, and scale the others to keep the expectation."""
    if probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    return x * dropout_factors(x.shape, probability, x.dtype)


def dropout_factors(
    shape: torch.Size,
    probability: float,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "..."]:
    """Draw what dropout multiplies by: 0, or 1 / (1 - probability); on the CPU.

    Args:
        shape: Of the result.
        probability: Of a 0.
        dtype: Of the result.
        generator: Of the random bits; None: torch's own.
    """
    return kept_mask(shape, probability, dtype, generator).mul_(kept_scale(probability))


def kept_mask(
    shape: torch.Size,
    probability: float,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "..."]:
    """Draw `dropout_factors` that are not scaled yet: 0, or 1; arguments as there."""
    num_dropped = _num_dropped(probability)
    if num_dropped in (0, _STEPS):
        return torch.full(shape, float(num_dropped == 0), dtype=dtype)
    words = _random_words(-(-shape.numel() // 4), generator)
    lanes = words.view(torch.int16)[: shape.numel()].view(shape)
    lowest_kept = _LOWEST + num_dropped
    is_kept = lanes.clamp_(lowest_kept - 1, lowest_kept).sub_(lowest_kept - 1)
    return is_kept.to(dtype)


def kept_scale(probability: float) -> float:
    """Return what dropout multiplies by what is kept: 1 / (1 - probability); 1 for nothing."""
    num_dropped = _num_dropped(probability)
    return 1.0 if num_dropped == _STEPS else _STEPS / (_STEPS - num_dropped)


def _num_dropped(probability: float) -> int:
    """Return how many of all values of 16 bits stand for a 0."""
    return round(probability * _STEPS)


def _random_words(count: int, generator: torch.Generator | None) -> Tensor:
    """Draw random words [count], int64; many of them by numpy, from a seed of torch's."""
    if count < _MANY_WORDS:
        words = torch.empty(count, dtype=torch.int64)
        return words.random_(-(2**63), None, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    drawn = np.random.SFC64(seed).random_raw(count)
    return torch.from_numpy(drawn.view(np.int64))
