"""Cross-entropy against a sample of the labels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.losses.labels.label_loss import IGNORED, LABEL_LOSSES, SingleLabelLoss
from idbert.nn.parts import NoOptions


@LABEL_LOSSES.register("sampled_softmax")
class SampledSoftmax(SingleLabelLoss):
    """Cross-entropy whose sum over all labels is estimated from S drawn ones, for many labels.

    loss = -s_y + log(e^{s_y} + 1/S sum_{j drawn, j != y} e^{s_j} / q_j): labels are drawn with
    replacement with probability q, for all rows of a batch together, and each logit is corrected
    by -log(S q_j) (logQ), so that the estimate of the sum has no bias. A drawn label that is the
    row's own is left out. Labels are drawn in training only; in evaluation the loss is the full
    cross-entropy. The logits of all labels are computed either way.

    q is proportional to (count + 1)^power in the training rows.

    Source: Bengio & Senecal 2008, "Adaptive Importance Sampling"; Jean et al. 2015, section 3.

    Shapes:
        logits_BC, targets_B -> loss_B.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """How labels are drawn."""

        num_negatives: int = 100
        """S, labels drawn a batch."""

        power: float = 0.75
        """Exponent of the labels' counts; 0: all are drawn alike."""

        def __post_init__(self) -> None:
            if self.num_negatives < 1:
                raise ConfigError(f"num_negatives is {self.num_negatives}; it must be at least 1.")
            if not 0.0 <= self.power <= 1.0:
                raise ConfigError(f"power of the drawn labels is {self.power}; choose from 0 to 1.")

    probability_C: Tensor
    is_fitted: Tensor

    def __init__(self, num_outputs: int, options: Options) -> None:
        super().__init__(num_outputs, options)
        if options.num_negatives >= num_outputs:
            raise ConfigError(
                f"num_negatives={options.num_negatives} saves nothing with {num_outputs} labels. "
                "Draw fewer, or choose the label loss 'cross_entropy'."
            )
        self.num_negatives, self.power = options.num_negatives, options.power
        uniform_C = torch.full((num_outputs,), 1.0 / num_outputs)
        self.register_buffer("probability_C", uniform_C)
        self.register_buffer("is_fitted", torch.tensor(options.power == 0.0))

    def fit(
        self,
        counts_C: Shaped[Tensor, "C"],
        num_rows: int,
        pair_counts_CC: Shaped[Tensor, "C C"] | None = None,
    ) -> None:
        """Draw labels by their counts from now on."""
        weights_C = (counts_C.float() + 1.0) ** self.power
        self.probability_C.copy_(weights_C / weights_C.sum())
        self.is_fitted.fill_(True)

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row."""
        if not self.training:
            return F.cross_entropy(logits_BC, targets, ignore_index=IGNORED, reduction="none")
        if not self.is_fitted:
            raise ConfigError(
                f"The label loss 'sampled_softmax' with power={self.power} draws labels by their "
                "counts in the training rows. Call `fit` of the loss before training, or set "
                "power=0."
            )
        drawn_S = torch.multinomial(self.probability_C, self.num_negatives, replacement=True)
        log_expected_S = (self.probability_C[drawn_S] * self.num_negatives).log()
        negative_BS = logits_BC[:, drawn_S] - log_expected_S
        negative_BS = negative_BS.masked_fill(drawn_S == targets[:, None], -torch.inf)
        own_B1 = logits_BC.gather(1, targets.clamp(min=0)[:, None])
        total_B = torch.cat([own_B1, negative_BS], dim=1).logsumexp(dim=1)
        return (total_B - own_B1[:, 0]).masked_fill(targets == IGNORED, 0.0)
