"""Softmax for labels that occur together."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from idbert.errors import ConfigError
from idbert.nn.losses.labels.label_loss import LABEL_LOSSES, MultiLabelLoss
from idbert.nn.parts import NoOptions


@LABEL_LOSSES.register("concurrent_softmax")
class ConcurrentSoftmax(MultiLabelLoss):
    """log(1 + sum_{j not borne} e^{s_j}) - sum_{i borne} log of the share of label i.

    share_i = e^{s_i} / (1 + e^{s_i} + sum_{j not borne} (1 - r_ij) e^{s_j}): a label competes with
    those that the row does not bear, and less with those that often occur beside it: r_ij is the
    share of the training rows with i that bear j too. The 1 is a background of logit 0, which
    every row bears as well: the first term. So borne labels end above 0 and the others below it,
    and a label is predicted where its logit is above 0. The sigmoids have their 1/2 there, and are
    not calibrated otherwise.

    Source: Peng et al. 2020, "Large-Scale Object Detection in the Wild from Imbalanced
    Multi-Labels", section 4.1, where the background is a class of the detector.

    Shapes:
        logits_BC, targets_BC -> loss_B.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Whether labels that occur together are spared."""

        use_rates: bool = True
        """False: r_ij is 0, every label not borne competes in full."""

    compete_CC: Tensor
    is_fitted: Tensor

    def __init__(self, num_outputs: int, options: Options) -> None:
        super().__init__(num_outputs, options)
        self.use_rates = options.use_rates
        self.register_buffer("compete_CC", 1.0 - torch.eye(num_outputs))
        self.register_buffer("is_fitted", torch.tensor(not options.use_rates))

    def fit(
        self,
        counts_C: Shaped[Tensor, "C"],
        num_rows: int,
        pair_counts_CC: Shaped[Tensor, "C C"] | None = None,
    ) -> None:
        """Learn how often labels occur together, if asked for.

        Raises:
            ConfigError: the rates are to act, and pair_counts_CC is not given.
        """
        if not self.use_rates:
            return
        if pair_counts_CC is None:
            raise ConfigError(
                "The label loss 'concurrent_softmax' needs how often two labels occur together. "
                "Call `fit_targets` with the training rows, or set use_rates=False."
            )
        rates_CC = pair_counts_CC.float() / counts_C.float().clamp(min=1.0)[:, None]
        self.compete_CC.copy_((1.0 - rates_CC).fill_diagonal_(0.0))
        self.is_fitted.fill_(True)

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row."""
        is_borne_BC = targets > 0.5
        zero_B1 = logits_BC.new_zeros(len(logits_BC), 1)
        others_BC = logits_BC.masked_fill(is_borne_BC, -torch.inf)
        background_B = torch.cat([zero_B1, others_BC], dim=1).logsumexp(dim=1)
        loss_BC = self._log_total(logits_BC, ~is_borne_BC) - logits_BC
        return background_B + loss_BC.masked_fill(~is_borne_BC, 0.0).sum(dim=1)

    def _log_total(
        self, logits_BC: Float[Tensor, "B C"], competes_BC: Bool[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """Return log(1 + e^{s_i} + sum_j competes_j (1 - r_ij) e^{s_j}) for every label i.

        The sum is one matrix product of exponentials, taken relative to the row's highest logit; a
        label 87 below that is lost.
        """
        if not self.is_fitted:
            raise ConfigError(
                "The label loss 'concurrent_softmax' needs how often two labels occur together. "
                "Call `fit_targets` with the training rows before training."
            )
        highest_B1 = logits_BC.detach().amax(dim=1, keepdim=True)
        relative_BC = (logits_BC - highest_B1).exp() * competes_BC
        others_BC = relative_BC @ self.compete_CC.to(logits_BC.dtype).T
        is_alone_BC = others_BC == 0.0
        log_others_BC = others_BC.masked_fill(is_alone_BC, 1.0).log() + highest_B1
        own_BC = torch.logaddexp(logits_BC, torch.zeros_like(logits_BC))
        return torch.logaddexp(own_BC, log_others_BC.masked_fill(is_alone_BC, -torch.inf))
