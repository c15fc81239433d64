"""What training adds to the label loss: an auxiliary head, and the distance of two readings."""

from jaxtyping import Float
from torch import Tensor, nn

from idbert.nn.losses.labels import LabelKind
from idbert.nn.pooling import build_pooling
from nlp_tasks.cls.config import ClassifierConfig


class AuxiliaryHead(nn.Module):
    """Pooling, dropout and a linear layer on the encoder's last state."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.pooling = build_pooling(config.pooling, config.hidden_size, config.pooling_options)
        self.dropout = nn.Dropout(config.head_dropout)
        self.output = nn.Linear(self.pooling.width, config.num_outputs)

    def forward(
        self, last_BLD: Float[Tensor, "B L D"], attention_mask_BL: Tensor | None
    ) -> Float[Tensor, "B C"]:
        """Return the logits."""
        logits_BC: Tensor = self.output(self.dropout(self.pooling(last_BLD, attention_mask_BL)))
        return logits_BC.float()


def symmetric_divergence(
    logits_BC: Float[Tensor, "B C"], others_BC: Float[Tensor, "B C"], kind: LabelKind
) -> Float[Tensor, "B"]:
    """Return (KL(p || q) + KL(q || p)) / 2 of two predictions.

    Of one label they are softmax distributions; of several, one Bernoulli distribution a label,
    summed; of a number, normal distributions of variance 1.
    """
    if kind == "single":
        log_p_BC, log_q_BC = logits_BC.log_softmax(dim=1), others_BC.log_softmax(dim=1)
        both_BC = (log_p_BC.exp() - log_q_BC.exp()) * (log_p_BC - log_q_BC)
    elif kind == "multi":
        both_BC = (logits_BC.sigmoid() - others_BC.sigmoid()) * (logits_BC - others_BC)
    else:
        both_BC = (logits_BC - others_BC).square()
    return both_BC.sum(dim=1) / 2
