"""An RNN over the labels."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from idbert.nn.heads.head import HEADS
from idbert.nn.heads.label_head import LabelHead
from idbert.nn.heads.options import check_least
from idbert.nn.parts import NoOptions


@HEADS.register("label_rnn")
class LabelRnnHead(LabelHead):
    """Labels are judged one after the other, each knowing what was found for those before it.

    h_c = GRU(e_c + W x, h_{c-1}); logit_c = u_c . h_c + b_c, with vectors e_c and u_c of each
    label, e_c normalised to mean 0 and variance 1. The labels stand in the order of their
    frequency in the training rows. What goes from label to label is the state itself and no drawn
    or thresholded label, so that training and prediction compute the same.

    Source: Nam et al. 2017, "Maximizing Subset Accuracy with Recurrent Neural Networks in
    Multi-label Classification", for the RNN and the order; states in place of drawn labels.

    Shapes:
        pooled_BD -> logits_BC.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """The RNN."""

        hidden_size: int = 128
        """Width of its states and of the labels' vectors."""

        order: Literal["frequent_first", "rare_first"] = "frequent_first"
        """Which labels come first."""

        def __post_init__(self) -> None:
            check_least("hidden_size", 2, self.hidden_size)

    order_C: Tensor
    place_C: Tensor

    def __init__(self, input_width: int, num_outputs: int, options: Options) -> None:
        super().__init__(input_width, num_outputs, options)
        self.rare_first = options.order == "rare_first"
        width = options.hidden_size
        self.text = nn.Linear(input_width, width)
        self.labels = nn.Embedding(num_outputs, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, num_outputs)
        self.register_buffer("order_C", torch.arange(num_outputs))
        self.register_buffer("place_C", torch.arange(num_outputs))

    def fit_labels(self, labels_NC: Float[Tensor, "N C"]) -> None:
        """Put the labels in the order of their frequency; equal ones keep theirs."""
        counts_C = labels_NC.sum(dim=0)
        self.order_C.copy_(counts_C.argsort(descending=not self.rare_first, stable=True))
        self.place_C.copy_(self.order_C.argsort())

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the logits of each row, in the order of the label map."""
        self.check_fitted()
        labels_CD = F.layer_norm(self.labels(self.order_C), self.labels.weight.shape[1:])
        states_BCD, _ = self.rnn(self.text(pooled_BD)[:, None] + labels_CD)
        states_BCD = states_BCD[:, self.place_C]
        logits_BC: Tensor = (states_BCD * self.output.weight).sum(dim=-1) + self.output.bias
        return logits_BC
