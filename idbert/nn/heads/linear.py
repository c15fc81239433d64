"""The linear head."""

from jaxtyping import Float
from torch import Tensor, nn

from idbert.nn.heads.head import HEADS, Head
from idbert.nn.parts import NoOptions


@HEADS.register("linear")
class LinearHead(Head):
    """W x + b.

    Source: Devlin et al. 2019 (BERT).

    Shapes:
        pooled_BD -> logits_BC.
    """

    def __init__(self, input_width: int, num_outputs: int, options: NoOptions) -> None:
        super().__init__(input_width, num_outputs, options)
        self.output = nn.Linear(input_width, num_outputs)

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the logits of each row."""
        logits_BC: Tensor = self.output(pooled_BD)
        return logits_BC
