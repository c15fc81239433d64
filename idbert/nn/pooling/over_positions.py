"""Mean, maximum and minimum over the real positions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mean_over_positions(
    hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
) -> Float[Tensor, "B D"]:
    """Return the mean of the real positions, 0 where there is none.

    Sums are taken in float32 at least: bfloat16 cannot count to 300.

    Args:
        hidden_BLD: The vectors; 0 at padding.
        real_BL: Which positions are real.
    """
    wide = torch.promote_types(hidden_BLD.dtype, torch.float32)
    count_B1 = real_BL.sum(dim=1, keepdim=True).clamp(min=1)
    return (hidden_BLD.sum(dim=1, dtype=wide) / count_B1).to(hidden_BLD.dtype)


def max_over_positions(
    hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
) -> Float[Tensor, "B D"]:
    """Return the maximum of the real positions in each dimension, 0 where there is none.

    Args:
        hidden_BLD: The vectors.
        real_BL: Which positions are real.
    """
    highest_BD = hidden_BLD.masked_fill(~real_BL[..., None], -torch.inf).amax(dim=1)
    return highest_BD.masked_fill(~real_BL.any(dim=1, keepdim=True), 0.0)
