"""Huber loss."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.losses.labels.label_loss import LABEL_LOSSES, NumberLoss
from idbert.nn.parts import NoOptions


@LABEL_LOSSES.register("huber")
class Huber(NumberLoss):
    """e^2 / 2 where |e| <= delta, else delta * (|e| - delta / 2), with e = prediction - target.

    Source: Huber 1964, "Robust Estimation of a Location Parameter".

    Shapes:
        logits [B, 1], targets_B -> loss_B.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Where the loss turns from squared to linear."""

        delta: float = 1.0
        """Error from which on the loss grows linearly, in units of what the head learns: in nlp_cls
        standard deviations of the training numbers."""

        def __post_init__(self) -> None:
            if not 0.0 < self.delta < float("inf"):
                raise ConfigError(f"delta of the Huber loss is {self.delta}; it must be above 0.")

    def __init__(self, num_outputs: int, options: Options) -> None:
        super().__init__(num_outputs, options)
        self.delta = options.delta

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row."""
        prediction_B = logits_BC[:, 0]
        target_B = targets.to(logits_BC.dtype)
        return F.huber_loss(prediction_B, target_B, reduction="none", delta=self.delta)
