"""BERT's pooler."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from idbert.nn.parts import NoOptions
from idbert.nn.pooling.first import first_position
from idbert.nn.pooling.pooling import POOLINGS, Pooling


@POOLINGS.register("pooler")
class TanhPooler(Pooling):
    """tanh(W h_1 + b): a dense layer and tanh on the first position.

    The layer is called `dense`, as in BERT: weights of a published pooler fit as they are.
    Source: Devlin et al. 2019 (BERT).

    Shapes:
        hidden_BLD -> pooled_BD, between -1 and 1.
    """

    def __init__(self, input_width: int, options: NoOptions) -> None:
        super().__init__(input_width, options)
        self.dense = nn.Linear(input_width, input_width)

    def pool(
        self, hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B D"]:
        """Return the transformed first vector of each sequence."""
        pooled_BD: Tensor = self.dense(first_position(hidden_BLD, real_BL)).tanh()
        return pooled_BD.masked_fill(~real_BL.any(dim=1, keepdim=True), 0.0)
