"""The mean of the vectors."""

from jaxtyping import Bool, Float
from torch import Tensor

from idbert.nn.pooling.over_positions import mean_over_positions
from idbert.nn.pooling.pooling import POOLINGS, Pooling


@POOLINGS.register("mean")
class MeanPooling(Pooling):
    """sum_i h_i / n over the n real positions.

    Shapes:
        hidden_BLD -> pooled_BD.
    """

    def pool(
        self, hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B D"]:
        """Return the mean vector of each sequence."""
        return mean_over_positions(hidden_BLD, real_BL)
