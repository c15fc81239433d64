"""Squared error."""

from jaxtyping import Float
from torch import Tensor

from idbert.nn.losses.labels.label_loss import LABEL_LOSSES, NumberLoss


@LABEL_LOSSES.register("mse")
class SquaredError(NumberLoss):
    """(prediction - target)^2.

    Shapes:
        logits [B, 1], targets_B -> loss_B.
    """

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row."""
        return (logits_BC[:, 0] - targets.to(logits_BC.dtype)).square()
