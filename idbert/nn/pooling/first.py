"""The first real position of each sequence."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def first_position(
    hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
) -> Float[Tensor, "B D"]:
    """Return the vector at the first real position; on which side the padding is does not matter.

    Args:
        hidden_BLD: The vectors; 0 at padding.
        real_BL: Which positions are real.
    """
    first_B = real_BL.int().argmax(dim=1)
    return hidden_BLD[torch.arange(len(first_B), device=first_B.device), first_B]
