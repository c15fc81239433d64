"""The minimum in each dimension."""

from jaxtyping import Bool, Float
from torch import Tensor

from idbert.nn.pooling.over_positions import max_over_positions
from idbert.nn.pooling.pooling import POOLINGS, Pooling


@POOLINGS.register("min")
class MinPooling(Pooling):
    """min_i h_i in each dimension, over the real positions.

    Shapes:
        hidden_BLD -> pooled_BD.
    """

    def pool(
        self, hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B D"]:
        """Return the lowest value of each sequence in each dimension."""
        return -max_over_positions(-hidden_BLD, real_BL)
