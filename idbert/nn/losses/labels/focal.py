"""Focal loss for one label of several, and what focal losses share."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.losses.labels.label_loss import IGNORED, LABEL_LOSSES, SingleLabelLoss
from idbert.nn.losses.labels.weights import ClassWeights, LossWeights, balanced_weights
from idbert.nn.parts import NoOptions


def focal_factor(cross_entropy: Float[Tensor, "..."], gamma: float | int) -> Float[Tensor, "..."]:
    """Return (1 - p)^gamma for p = exp(-cross_entropy), with a finite gradient at p = 1.

    Args:
        cross_entropy: Of each single decision, never of a mean.
        gamma: How strongly sure decisions are played down.
    """
    missing = -torch.expm1(-cross_entropy)
    return missing.clamp(min=torch.finfo(missing.dtype).tiny) ** gamma


def check_gamma(gamma: float | int) -> None:
    """Check the exponent of a focal loss.

    Raises:
        ConfigError: it is not above 0.
    """
    if not 0.0 < gamma < float("inf"):
        raise ConfigError(
            f"gamma of the focal loss is {gamma}; it must be above 0. With 0 it is the plain "
            "cross-entropy: choose that loss."
        )


@LABEL_LOSSES.register("focal")
class FocalLoss(SingleLabelLoss):
    """-alpha_y * (1 - p_y)^gamma * log p_y with p = softmax(logits), row by row.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5, for a softmax.

    Shapes:
        logits_BC, targets_B -> loss_B.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """The exponent and the weights."""

        gamma: float = 2.0
        """How strongly rows that are right already are played down."""

        alpha: ClassWeights = None
        """One number a label; "balanced": n / (C * count) from the training rows. Default: 1."""

        def __post_init__(self) -> None:
            check_gamma(self.gamma)

    def __init__(self, num_outputs: int, options: Options) -> None:
        super().__init__(num_outputs, options)
        self.gamma = options.gamma
        self.alpha = LossWeights("alpha", options.alpha, num_outputs)

    def fit(
        self,
        counts_C: Shaped[Tensor, "C"],
        num_rows: int,
        pair_counts_CC: Shaped[Tensor, "C C"] | None = None,
    ) -> None:
        """Balance the weights of the classes, if asked for."""
        if self.alpha.given == "balanced":
            self.alpha.set(balanced_weights(counts_C))

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row."""
        plain_B = F.cross_entropy(logits_BC, targets, ignore_index=IGNORED, reduction="none")
        # The target of an ignored row is -100 and its plain loss 0: any weight will do.
        alpha_B: Tensor = self.alpha()[targets.clamp(min=0)]
        return alpha_B * focal_factor(plain_B, self.gamma) * plain_B
