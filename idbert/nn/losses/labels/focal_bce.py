"""Focal loss for several labels."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.losses.labels.focal import check_gamma, focal_factor
from idbert.nn.losses.labels.label_loss import LABEL_LOSSES, MultiLabelLoss
from idbert.nn.parts import NoOptions


@LABEL_LOSSES.register("focal_bce")
class FocalBinaryCrossEntropy(MultiLabelLoss):
    """-1/C sum_c a_c (1 - q_c)^gamma log q_c, with q_c the probability of what is true of label c.

    p = sigmoid(logits); q = p and a = alpha where the row bears the label, q = 1 - p and
    a = 1 - alpha where it does not; a = 1 for all without alpha.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5.

    Shapes:
        logits_BC, targets_BC -> loss_B.
    """

    averages_labels = True

    @dataclass(frozen=True)
    class Options(NoOptions):
        """The exponent and the balance."""

        gamma: float = 2.0
        """How strongly decisions that are right already are played down."""

        alpha: float | int | None = None
        """Weight of the labels that a row bears, 1 - alpha of the others. Default: both 1."""

        def __post_init__(self) -> None:
            check_gamma(self.gamma)
            if self.alpha is not None and not 0.0 < self.alpha < 1.0:
                raise ConfigError(
                    f"alpha of the focal loss is {self.alpha}; choose between 0 and 1."
                )

    def __init__(self, num_outputs: int, options: Options) -> None:
        super().__init__(num_outputs, options)
        self.gamma, self.alpha = options.gamma, options.alpha

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row."""
        targets_BC = targets.to(logits_BC.dtype)
        plain_BC = F.binary_cross_entropy_with_logits(logits_BC, targets_BC, reduction="none")
        loss_BC = focal_factor(plain_BC, self.gamma) * plain_BC
        if self.alpha is not None:
            loss_BC = loss_BC * (self.alpha * targets_BC + (1.0 - self.alpha) * (1.0 - targets_BC))
        return loss_BC.mean(dim=1)
