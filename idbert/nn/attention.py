"""Self-attention: BERT's by fused kernels or plain products, NEZHA's with relative positions."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from idbert.nn.config import EncoderConfig
from idbert.nn.relative import RelativeDistances, relative_scores, relative_values


@dataclass(frozen=True)
class AttentionContext:
    """What all layers of one forward pass share.

    Attributes:
        visible: True where a query may look at a key; None where it may look everywhere, but for
            what `kernel_is_causal` hides.
        kernel_is_causal: Whether the fused kernel is to hide later positions by itself.
        distances: NEZHA's distances; None for BERT.
    """

    visible: Bool[Tensor, "#B 1 #L L"] | None
    kernel_is_causal: bool
    distances: RelativeDistances | None


class SelfAttention(nn.Module):
    """Multi-head self-attention; parameters named as in BERT.

    Shapes:
        hidden_BLD -> attended_BLD.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_width = width // config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.is_fused = config._attn_implementation == "sdpa"
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], context: AttentionContext
    ) -> Float[Tensor, "B L D"]:
        """Return, for each position, the mean of the values that it attends to."""
        query_BHLW = self._split_heads(self.query(hidden_BLD))
        key_BHLW = self._split_heads(self.key(hidden_BLD))
        value_BHLW = self._split_heads(self.value(hidden_BLD))
        dropout = self.dropout if self.training else 0.0
        if self.is_fused:
            attended_BHLW = F.scaled_dot_product_attention(
                query_BHLW,
                key_BHLW,
                value_BHLW,
                attn_mask=context.visible,
                dropout_p=dropout,
                is_causal=context.kernel_is_causal,
            )
        else:
            attended_BHLW = eager_attention(
                query_BHLW, key_BHLW, value_BHLW, context.visible, context.distances, dropout
            )
        return attended_BHLW.transpose(1, 2).flatten(2)

    def _split_heads(self, projected_BLD: Tensor) -> Tensor:
        batch_size, length, _ = projected_BLD.shape
        return projected_BLD.view(batch_size, length, -1, self.head_width).transpose(1, 2)


def eager_attention(
    query_BHLW: Float[Tensor, "B H L W"],
    key_BHLW: Float[Tensor, "B H L W"],
    value_BHLW: Float[Tensor, "B H L W"],
    visible: Bool[Tensor, "#B 1 #L L"] | None = None,
    distances: RelativeDistances | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H L W"]:
    """Compute attention by plain products; with `distances`, NEZHA's.

    With R the sinusoid of the distance from query i to key j:

        score_ij = q_i . (k_j + R_ij) / sqrt(W),  p = dropout(softmax(score)),
        o_i = sum_j p_ij (v_j + R_ij)

    A query that may look nowhere gets the mean of all values, not NaN.

    Args:
        query_BHLW: Queries of each head.
        key_BHLW: Keys of each head.
        value_BHLW: Values of each head.
        visible: True where a query may look at a key; None for everywhere.
        distances: NEZHA's distances; None for BERT's attention.
        dropout: Probability with which an attention probability is set to zero.
    """
    scores_BHLL = query_BHLW @ key_BHLW.transpose(-1, -2)
    if distances is not None:
        scores_BHLL = scores_BHLL + relative_scores(query_BHLW, distances)
    scores_BHLL = scores_BHLL * query_BHLW.shape[-1] ** -0.5
    if visible is not None:
        scores_BHLL = scores_BHLL.masked_fill(~visible, torch.finfo(scores_BHLL.dtype).min)
    shares_BHLL = F.dropout(scores_BHLL.softmax(dim=-1), dropout)
    attended_BHLW = shares_BHLL @ value_BHLW
    if distances is not None:
        attended_BHLW = attended_BHLW + relative_values(shares_BHLL, distances)
    return attended_BHLW


def visible_positions(
    attention_mask_BL: Shaped[Tensor, "B L"] | None,
    length: int,
    *,
    is_causal: bool,
    device: torch.device,
) -> Bool[Tensor, "#B 1 #L L"] | None:
    """Return where a query (row) may look at a key (column): not at padding, causally not ahead.

    Args:
        attention_mask_BL: Not zero at real positions; None where all are real.
        length: L.
        is_causal: Whether later positions are hidden.
        device: Where the result is needed.

    Returns:
        None where nothing is hidden.
    """
    visible = None if attention_mask_BL is None else attention_mask_BL.bool()[:, None, None, :]
    if not is_causal:
        return visible
    not_later = torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()
    return not_later if visible is None else visible & not_later


def is_right_padded(attention_mask_BL: Shaped[Tensor, "B L"]) -> bool:
    """Tell whether in every row all padding stands behind the last real position."""
    real_BL = attention_mask_BL.bool()
    return bool((real_BL[:, 1:] <= real_BL[:, :-1]).all())
