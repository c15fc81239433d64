"""Binary cross-entropy."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from idbert.nn.losses.labels.label_loss import LABEL_LOSSES, MultiLabelLoss
from idbert.nn.losses.labels.weights import LossWeights, balanced_positive_weights
from idbert.nn.parts import NoOptions


@LABEL_LOSSES.register("bce")
class BinaryCrossEntropy(MultiLabelLoss):
    """-1/C sum_c (w_c t_c log p_c + (1 - t_c) log(1 - p_c)) with p = sigmoid(logits).

    The mean over labels, so that the mean over rows is what transformers' models for several
    labels are trained with.

    Shapes:
        logits_BC, targets_BC -> loss_B.
    """

    averages_labels = True

    @dataclass(frozen=True)
    class Options(NoOptions):
        """The weight of the labels that a row bears."""

        pos_weight: tuple[float | int, ...] | float | int | Literal["balanced"] | None = None
        """One number for all labels, or one a label; "balanced": rows without the label / rows
        with it, from the training rows. Default: 1."""

    def __init__(self, num_outputs: int, options: Options) -> None:
        super().__init__(num_outputs, options)
        given = options.pos_weight
        if isinstance(given, int | float):
            given = (given,) * num_outputs
        self.pos_weight = LossWeights("pos_weight", given, num_outputs)

    def fit(
        self,
        counts_C: Shaped[Tensor, "C"],
        num_rows: int,
        pair_counts_CC: Shaped[Tensor, "C C"] | None = None,
    ) -> None:
        """Balance the weights of the labels, if asked for."""
        if self.pos_weight.given == "balanced":
            self.pos_weight.set(balanced_positive_weights(counts_C, num_rows))

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row."""
        loss_BC = F.binary_cross_entropy_with_logits(
            logits_BC,
            targets.to(logits_BC.dtype),
            pos_weight=self.pos_weight().to(logits_BC.dtype),
            reduction="none",
        )
        return loss_BC.mean(dim=1)
