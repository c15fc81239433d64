"""Mean and maximum, side by side."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from idbert.nn.parts import NoOptions
from idbert.nn.pooling.over_positions import max_over_positions, mean_over_positions
from idbert.nn.pooling.pooling import POOLINGS, Pooling


@POOLINGS.register("mean_max")
class MeanMaxPooling(Pooling):
    """[mean_i h_i ; max_i h_i] over the real positions: twice the width.

    Source: Howard & Ruder 2018 (ULMFiT), "concat pooling", without its last state.

    Shapes:
        hidden_BLD -> pooled [B, 2 * D], the mean first.
    """

    def __init__(self, input_width: int, options: NoOptions) -> None:
        super().__init__(input_width, options)
        self.width = 2 * input_width

    def pool(
        self, hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B _"]:
        """Return mean and maximum of each sequence, concatenated."""
        mean_BD = mean_over_positions(hidden_BLD, real_BL)
        return torch.cat([mean_BD, max_over_positions(hidden_BLD, real_BL)], dim=-1)
