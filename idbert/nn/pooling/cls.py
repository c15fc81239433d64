"""The vector of [CLS]."""

from jaxtyping import Bool, Float
from torch import Tensor

from idbert.nn.pooling.first import first_position
from idbert.nn.pooling.pooling import POOLINGS, Pooling


@POOLINGS.register("cls")
class ClsPooling(Pooling):
    """The vector at the first position, where BERT's [CLS] stands.

    Shapes:
        hidden_BLD -> pooled_BD.
    """

    def pool(
        self, hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B D"]:
        """Return the first vector of each sequence."""
        return first_position(hidden_BLD, real_BL)
