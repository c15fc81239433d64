"""Softmax for several labels."""

import torch
from jaxtyping import Float
from torch import Tensor

from idbert.nn.losses.labels.label_loss import LABEL_LOSSES, MultiLabelLoss


@LABEL_LOSSES.register("zlpr")
class Zlpr(MultiLabelLoss):
    """log(1 + sum_{labels not borne} e^{s_j}) + log(1 + sum_{labels borne} e^{-s_i}).

    Every label that the row bears is pushed above 0 and above every other one, and the others
    below 0, without a weight between few and many; a label is predicted where its logit is above
    0. The sigmoids have their 1/2 there, and are not calibrated otherwise.

    Source: Su et al. 2022, "ZLPR: A Novel Loss for Multi-label Classification", equation 6.

    Shapes:
        logits_BC, targets_BC -> loss_B.
    """

    def row_losses(
        self, logits_BC: Float[Tensor, "B C"], targets: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B"]:
        """Return the loss of each row."""
        is_borne_BC = targets > 0.5
        zero_B1 = logits_BC.new_zeros(len(logits_BC), 1)
        others_BC = logits_BC.masked_fill(is_borne_BC, -torch.inf)
        borne_BC = (-logits_BC).masked_fill(~is_borne_BC, -torch.inf)
        return torch.cat([zero_B1, others_BC], dim=1).logsumexp(dim=1) + torch.cat(
            [zero_B1, borne_BC], dim=1
        ).logsumexp(dim=1)
