"""Cross-entropy."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.losses.labels.label_loss import IGNORED, LABEL_LOSSES, SingleLabelLoss
from idbert.nn.losses.labels.weights import ClassWeights, LossWeights, balanced_weights
from idbert.nn.parts import NoOptions


@LABEL_LOSSES.register("cross_entropy")
class CrossEntropy(SingleLabelLoss):
    """-sum_c w_c t_c log softmax(logits)_c, with the target t smoothed if asked for.

    t is 1 at the row's label y, so that the loss is -w_y log softmax(logits)_y; with smoothing s
    it is 1 - s at y plus s / C everywhere. The mean is over rows: torch's CrossEntropyLoss divides
    by the sum of the rows' weights instead, so that a batch of one row would not feel its weight
    at all.

    Source: Szegedy et al. 2016, section 7, for the smoothing.

    Shapes:
        logits_BC, targets_B -> loss_B.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Weights and smoothing."""

        class_weights: ClassWeights = None
        """One number a label; "balanced": n / (C * count) from the training rows. Default: 1."""

        label_smoothing: float = 0.0
        """Share of the target that is spread over all labels evenly."""

        def __post_init__(self) -> None:
            if not 0.0 <= self.label_smoothing < 1.0:
                raise ConfigError(
                    f"label_smoothing is {self.label_smoothing}; choose from 0 to below 1."
                )

    def __init__(self, num_outputs: int, options: Options) -> None:
        super().__init__(num_outputs, options)
        self.label_smoothing = options.label_smoothing
        self.class_weights = LossWeights("class_weights", options.class_weights, num_outputs)

    def fit(
        self,
        counts_C: Shaped[Tensor, "C"],
        num_rows: int,
        pair_counts_CC: Shaped[Tensor, "C C"] | None = None,
    ) -> None:
        """Balance the weights of the classes, if asked for."""
        if self.class_weights.given == "balanced":
            self.class_weights.set(balanced_weights(counts_C))

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row."""
        return F.cross_entropy(
            logits_BC,
            targets,
            weight=self.class_weights().to(logits_BC.dtype),
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
