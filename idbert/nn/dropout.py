"""Dropout whose random numbers are cheap on a CPU.

torch draws one float for every number that may be dropped, which takes several times as long as the
matrix product before it. Sixteen random bits are as good: a 64-bit word serves four numbers.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_STEPS = 2**16
_LOWEST = -(2**15)


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
    num_dropped = round(probability * _STEPS)
    if num_dropped == _STEPS:
        return torch.zeros(shape, dtype=dtype)
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    lanes = words.view(torch.int16)[: shape.numel()].view(shape)
    return (lanes >= _LOWEST + num_dropped).to(dtype).mul_(_STEPS / (_STEPS - num_dropped))
