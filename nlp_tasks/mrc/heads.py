"""The heads of every reader: start and end of an answer, and whether there is one."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils.generic import ModelOutput

from nlp_tasks.mrc.losses import build_span_loss


@dataclass
class ReaderOutput(ModelOutput):
    """What the `forward` of a reader returns.

    Attributes:
        loss: The windows' summed loss over their number, a scalar; None without answers.
        start_logits: Of every position, [B, L].
        end_logits: Of every position, [B, L].
        answer_logits: Whether the window has an answer, [B]; None without a head for it.
    """

    loss: Any = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    answer_logits: Tensor | None = None


class SpanHeads(nn.Module):
    """Dropout, then a linear map to start and end logits; optionally one to "is there an answer?".

    loss = (1 - a) * (span(start) + span(end)) / 2 + a * BCE(sigmoid(answer), [there is one]), with
    a the answer_share. Start and end are those of transformers' BertForQuestionAnswering, whose
    names the tensors bear.

    Args:
        width: Of the vectors that are read.
        loss: Name of the span loss.
        loss_options: What it can be told.
        answer_share: a; 0: there is no such head.
        dropout: Share of the vectors' components dropped in training.
    """

    def __init__(
        self,
        width: int,
        loss: str,
        loss_options: dict[str, Any] | None,
        answer_share: float | int,
        dropout: float | int,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.qa_outputs = nn.Linear(width, 2)
        self.has_answer = nn.Linear(width, 1) if answer_share else None
        self.loss = build_span_loss(loss, loss_options)
        self.answer_share = answer_share

    def forward(
        self,
        hidden_BLX: Float[Tensor, "B L _"],
        context_mask: Shaped[Tensor, "B L"] | None = None,
        start_positions: Int[Tensor, "B"] | None = None,
        end_positions: Int[Tensor, "B"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> ReaderOutput:
        """Compute the logits, and with positions the loss.

        Args:
            hidden_BLX: The states; the first stands for the whole window.
            context_mask: 1 where an answer can begin or end, and at position 0; None: anywhere.
            start_positions: Where the answer begins; 0: there is none.
            end_positions: Where it ends.
            num_items_in_batch: Windows of the whole batch that this one is a part of; None: those
                of this one.
        """
        hidden_BLX = self.dropout(hidden_BLX)
        start_BL, end_BL = self.qa_outputs(hidden_BLX).float().unbind(dim=-1)
        answer_B = None
        if self.has_answer is not None:
            answer_B = self.has_answer(hidden_BLX[:, 0]).squeeze(-1).float()
        output = ReaderOutput(start_logits=start_BL, end_logits=end_BL, answer_logits=answer_B)
        if start_positions is not None and end_positions is not None:
            losses_B = self.losses(output, context_mask, start_positions, end_positions)
            divisor = len(losses_B) if num_items_in_batch is None else num_items_in_batch
            output.loss = losses_B.sum() / divisor
        return output

    def losses(
        self,
        output: ReaderOutput,
        context_mask: Shaped[Tensor, "B L"] | None,
        start_positions: Int[Tensor, "B"],
        end_positions: Int[Tensor, "B"],
    ) -> Float[Tensor, "B"]:
        """Return the loss of each window; arguments as for `forward`."""
        start_BL, end_BL = output.start_logits, output.end_logits
        assert start_BL is not None and end_BL is not None
        can_BL = torch.ones_like(start_BL).bool() if context_mask is None else context_mask.bool()
        losses_B: Tensor = (
            self.loss(start_BL, start_positions, can_BL) + self.loss(end_BL, end_positions, can_BL)
        ) / 2
        if output.answer_logits is None:
            return losses_B
        answer_loss_B = functional.binary_cross_entropy_with_logits(
            output.answer_logits, start_positions.ne(0).float(), reduction="none"
        )
        return (1 - self.answer_share) * losses_B + self.answer_share * answer_loss_B
