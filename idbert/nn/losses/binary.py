"""Binary losses: is it this item, yes or no, against a few negatives."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.losses.catalogue import LOSSES, CatalogueLoss
from idbert.nn.losses.own_scores import right_and_wrong_scores
from idbert.nn.parts import NoOptions


def generalised_bce(
    right_M: Float[Tensor, "M"],
    wrong_MN: Float[Tensor, "M N"],
    beta: float | int = 1.0,
) -> Float[Tensor, "M"]:
    """Return the mean binary cross-entropy of a target and its negatives, the target's generalised.

    loss = -(beta * log sigmoid(right) + sum_n log sigmoid(-wrong_n)) / (1 + N)

    A negative of -inf does not count, and does not change the divisor.

    Args:
        right_M: Scores of the targets.
        wrong_MN: Scores of the negatives of each.
        beta: 1: binary cross-entropy. Below 1 the target's probability is sigmoid(right) ** beta.

    Source: Petrov and Macdonald 2023, "gSASRec: Reducing Overconfidence in Sequential
    Recommendation Trained with Negative Sampling".
    """
    summed_M = beta * F.logsigmoid(right_M) + F.logsigmoid(-wrong_MN).sum(1)
    return -summed_M / (1 + wrong_MN.shape[1])


def calibrated_beta(sampling_rate: float | int, calibration: float | int) -> float:
    """Return gBCE's beta: a * (t * (1 - 1 / a) + 1 / a), a the sampling rate, t the calibration.

    At t = 1 the score is as calibrated as that of a softmax, at t = 0 it is plain BCE's.

    Args:
        sampling_rate: Negatives of a target over the other items of the catalogue.
        calibration: t, from 0 to 1.
    """
    return sampling_rate * (calibration * (1 - 1 / sampling_rate) + 1 / sampling_rate)


@dataclass(frozen=True)
class NegativesOfEach(NoOptions):
    """The negatives of a target."""

    negatives: int = 1
    """Rows drawn for each target, uniformly and with replacement."""

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise ConfigError(f"negatives is {self.negatives}; it must be at least 1.")


class BinaryLoss(CatalogueLoss):
    """Base of the binary losses: each target against negatives of its own.

    The loss sees a score shifted by log(beta / N). An untrained model, whose scores are about 0,
    then takes an item for the target as often as one is among those that are compared; without the
    shift the first steps press all N negatives down, and their gradients, which Adam remembers,
    leave nothing of those of the targets (measured: benchmarks/results.md). The order of the items
    knows nothing of it; a learned score is higher by log(N / beta), and it is sigmoid(score +
    log(beta / N)) that is a probability.

    The shift is that of the last layer's bias in Lin et al. 2017, "Focal Loss for Dense Object
    Detection", section 4.1.
    """

    draws_rows = True
    normalises_rows = True
    options: NegativesOfEach

    def beta(self, num_items: int) -> float:
        """Return the power of a target's probability.

        Args:
            num_items: Of the catalogue.
        """
        raise NotImplementedError

    def forward(
        self,
        hidden_MD: Float[Tensor, "M D"],
        weight_VD: Float[Tensor, "V D"],
        bias_V: Float[Tensor, "V"],
        targets_M: Int64[Tensor, "M"],
        weights_M: Float[Tensor, "M"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses."""
        number, num_rows = self.options.negatives, len(weight_VD)
        beta = self.beta(num_rows - self.first_row)
        shift = math.log(beta / number)
        rows_MN = torch.randint(
            self.first_row, num_rows, (len(targets_M), number), device=targets_M.device
        )
        right_M, wrong_MN = right_and_wrong_scores(
            hidden_MD,
            weight_VD,
            bias_V,
            targets_M,
            rows_MN,
            sparse=self.sparse,
            unit=self.unit_rows,
        )
        loss_M = generalised_bce(right_M + shift, wrong_MN + shift, beta)
        return (loss_M if weights_M is None else loss_M * weights_M).sum()


@LOSSES.register("bce")
class BinaryCrossEntropy(BinaryLoss):
    """Binary cross-entropy; with one negative SASRec's.

    Source: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation".
    """

    Options = NegativesOfEach

    def beta(self, num_items: int) -> float:
        """Return 1: a target's probability as it is."""
        return 1.0


@LOSSES.register("gbce")
class GeneralisedBinaryCrossEntropy(BinaryLoss):
    """gBCE: binary cross-entropy whose many negatives do not make it overconfident.

    See `generalised_bce` and `calibrated_beta`.
    """

    @dataclass(frozen=True)
    class Options(NegativesOfEach):
        """How many negatives, and how calibrated."""

        negatives: int = 256
        """Rows drawn for each target, uniformly and with replacement."""

        calibration: float = 0.75
        """t, from 0 (binary cross-entropy) to 1 (as calibrated as a softmax)."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.calibration <= 1:
                raise ConfigError(f"calibration is {self.calibration}; it must be from 0 to 1.")

    options: Options

    def beta(self, num_items: int) -> float:
        """Return the power that the calibration asks for."""
        rate = min(1.0, self.options.negatives / max(1, num_items - 1))
        return calibrated_beta(rate, self.options.calibration)
