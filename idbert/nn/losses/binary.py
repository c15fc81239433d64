"""Binary losses: is it this item, yes or no, against a few negatives."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.losses.catalogue import LOSSES, CatalogueLoss, accumulator, take
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
    """Base of the binary losses."""

    draws_rows = True
    normalises_rows = True

    def _take(self, table: Tensor, rows: Tensor) -> Tensor:
        return take(table, rows, sparse=self.sparse, unit=self.unit_rows)

    def _right_scores(
        self, hidden_MD: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_M: Tensor
    ) -> Tensor:
        right_MD = self._take(weight_VD, targets_M)
        scores_M = (hidden_MD * right_MD).sum(1) + self._take(bias_V, targets_M)
        return scores_M.to(accumulator(scores_M.dtype))


@LOSSES.register("bce")
class BinaryCrossEntropy(BinaryLoss):
    """Binary cross-entropy against negatives of each target's own; SASRec's with one.

    Source: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation".
    """

    Options = NegativesOfEach

    def __init__(self, options: NegativesOfEach) -> None:
        super().__init__(options)
        self._negatives = options.negatives

    def forward(
        self,
        hidden_MD: Float[Tensor, "M D"],
        weight_VD: Float[Tensor, "V D"],
        bias_V: Float[Tensor, "V"],
        targets_M: Int64[Tensor, "M"],
        weights_M: Float[Tensor, "M"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses."""
        rows_MN = torch.randint(
            self.first_row,
            len(weight_VD),
            (len(targets_M), self._negatives),
            device=targets_M.device,
        )
        row_MND = self._take(weight_VD, rows_MN)
        wrong_MN = torch.einsum("md,mnd->mn", hidden_MD, row_MND)
        wrong_MN = wrong_MN + self._take(bias_V, rows_MN)
        wrong_MN = _without_targets(wrong_MN, rows_MN, targets_M)
        right_M = self._right_scores(hidden_MD, weight_VD, bias_V, targets_M)
        return _summed(generalised_bce(right_M, wrong_MN), weights_M)


@LOSSES.register("gbce")
class GeneralisedBinaryCrossEntropy(BinaryLoss):
    """gBCE: binary cross-entropy whose negatives, shared by a batch, do not make it overconfident.

    See `generalised_bce` and `calibrated_beta`.
    """

    @dataclass(frozen=True)
    class Options(NegativesOfEach):
        """How many negatives, and how calibrated."""

        negatives: int = 256
        """Rows drawn for a batch, uniformly and with replacement; all its targets share them."""

        calibration: float = 0.75
        """t, from 0 (binary cross-entropy) to 1 (as calibrated as a softmax)."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.calibration <= 1:
                raise ConfigError(f"calibration is {self.calibration}; it must be from 0 to 1.")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._options = options

    def forward(
        self,
        hidden_MD: Float[Tensor, "M D"],
        weight_VD: Float[Tensor, "V D"],
        bias_V: Float[Tensor, "V"],
        targets_M: Int64[Tensor, "M"],
        weights_M: Float[Tensor, "M"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses."""
        number, num_rows = self._options.negatives, len(weight_VD)
        rate = min(1.0, number / max(1, num_rows - self.first_row - 1))
        rows_N = torch.randint(self.first_row, num_rows, (number,), device=targets_M.device)
        row_ND, bias_N = (self._take(table, rows_N) for table in (weight_VD, bias_V))
        wrong_MN = _without_targets(F.linear(hidden_MD, row_ND, bias_N), rows_N, targets_M)
        right_M = self._right_scores(hidden_MD, weight_VD, bias_V, targets_M)
        beta = calibrated_beta(rate, self._options.calibration)
        return _summed(generalised_bce(right_M, wrong_MN, beta), weights_M)


def _without_targets(scores_MN: Tensor, rows: Tensor, targets_M: Tensor) -> Tensor:
    """Return wide scores, -inf where a negative is the target itself."""
    scores_MN = scores_MN.to(accumulator(scores_MN.dtype))
    return scores_MN.masked_fill(rows == targets_M[:, None], -torch.inf)


def _summed(loss_M: Tensor, weights_M: Tensor | None) -> Tensor:
    return (loss_M if weights_M is None else loss_M * weights_M).sum()
