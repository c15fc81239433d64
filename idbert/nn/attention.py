"""Self-attention: BERT's by fused kernels or plain products, NEZHA's with relative positions.

Layers may hand on their scores, as in RealFormer; that goes with plain products only.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, Int64, Shaped
from torch import Tensor, nn

from idbert.nn.asked import WORTHWHILE_SHARE, Asked, at_positions
from idbert.nn.cpu_attention import cpu_attention, packed_attention, suits
from idbert.nn.dropout import dropout as drop
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.fused_attention import fused_attention
from idbert.nn.relative import (
    DistancesOfSome,
    RelativeDistances,
    relative_scores,
    relative_values,
)
from idbert.nn.time_bias import TimeBias


@dataclass(frozen=True)
class AttentionContext:
    """What all layers of one forward pass share.

    Attributes:
        visible: True where a query may look at a key; None where it may look everywhere, but for
            what `kernel_is_causal` hides.
        kernel_is_causal: Whether the fused kernel is to hide later positions by itself.
        distances: NEZHA's distances; None for BERT.
        buckets_BQL: Of the time between queries and keys; None without a time bias.
    """

    visible: Bool[Tensor, "#B 1 #Q L"] | None
    kernel_is_causal: bool
    distances: RelativeDistances | DistancesOfSome | None
    buckets_BQL: Int32[Tensor, "B Q L"] | None = None

    def of_queries(self, queries_BQ: Int64[Tensor, "B Q"], length: int) -> "AttentionContext":
        """Return what a layer needs whose queries are only some of the L positions."""
        visible, distances = self.visible, self.distances
        if isinstance(distances, RelativeDistances):
            distances = distances.at(queries_BQ)
        if self.kernel_is_causal:
            position_L = torch.arange(length, device=queries_BQ.device)
            visible = (position_L <= queries_BQ[:, :, None])[:, None]
        elif visible is not None and visible.shape[2] > 1:
            rows_B1QL = queries_BQ[:, None, :, None].expand(-1, -1, -1, length)
            visible = visible.expand(len(queries_BQ), -1, -1, -1).gather(2, rows_B1QL)
        buckets_BQL = self.buckets_BQL
        if buckets_BQL is not None:
            buckets_BQL = buckets_BQL.gather(1, queries_BQ[:, :, None].expand(-1, -1, length))
        return AttentionContext(visible, False, distances, buckets_BQL)


class SelfAttention(nn.Module):
    """Multi-head self-attention; parameters named as in BERT.

    With residual scores a layer adds those of the layer below to its own, before the softmax, and
    hands on the sum: S_n = Q K^T / sqrt(W) + g_n S_(n-1), where g_n is 1, or learned from 0 on.
    A time bias is part of a layer's own scores.
    Source: He et al. 2021, "RealFormer: Transformer Likes Residual Attention" (g_n = 1).

    Args:
        config: The architecture.
        is_first: Whether no layer stands below.

    Shapes:
        hidden_BLD -> attended_BLD, and the scores [B, H, L, L] to hand on; with `asked` -> what it
        asks for, and no scores.
    """

    def __init__(self, config: EncoderConfig, *, is_first: bool = True) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_width = width // config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.is_fused = config._attn_implementation == "sdpa"
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.hands_on = config.residual_scores != "none"
        self.score_gate = (
            nn.Parameter(torch.zeros(1))
            if config.residual_scores == "gated" and not is_first
            else None
        )
        self.time_bias = (
            None
            if config.time_buckets is None
            else TimeBias(config.time_buckets, config.num_attention_heads)
        )

    def forward(
        self,
        hidden_BLD: Float[Tensor, "B L D"],
        context: AttentionContext,
        below_BHLL: Float[Tensor, "B H L L"] | None = None,
        asked: Asked | None = None,
    ) -> tuple[Float[Tensor, "_ _ D"], Float[Tensor, "B H L L"] | None]:
        """Return, for each position, the mean of the values that it attends to; and the scores.

        Args:
            hidden_BLD: What is attended to.
            context: What all layers share.
            below_BHLL: Scores that the layer below has handed on; None in the first.
            asked: The positions that are wanted; None: all. Not with handed-on scores.

        Returns:
            The attended values; and the scores for the layer above, before mask and softmax, or
            None where none are handed on.
        """
        dropout = self.dropout if self.training else 0.0
        if asked is not None and _pattern(context) is not None:
            # Bands of distances are cheaper than a lookup of each, where many are asked for.
            if asked.positions_BQ.shape[1] > WORTHWHILE_SHARE * hidden_BLD.shape[1]:
                attended_BLD, _ = self.forward(hidden_BLD, context)
                return asked.of(attended_BLD), None
        if asked is None and self._can_be_packed(hidden_BLD, context, dropout):
            attended_BLD = packed_attention(
                self._packed(hidden_BLD),
                hidden_BLD.shape[2] // self.head_width,
                context.visible,
                is_causal=context.kernel_is_causal,
                dropout=dropout,
                distances=_pattern(context),
            )
            return attended_BLD, None
        asking_BLD = hidden_BLD
        if asked is not None:
            context = context.of_queries(asked.positions_BQ, hidden_BLD.shape[1])
            asking_BLD = at_positions(hidden_BLD, asked.positions_BQ)
        handed_on = None
        query_BHLW = self._split_heads(self.query(asking_BLD))
        key_BHLW = self._split_heads(self.key(hidden_BLD))
        value_BHLW = self._split_heads(self.value(hidden_BLD))
        if self._suits_cpu_attention(query_BHLW, context, dropout):
            attended_BHLW = cpu_attention(
                query_BHLW,
                key_BHLW,
                value_BHLW,
                context.visible,
                is_causal=context.kernel_is_causal,
                dropout=dropout,
                bias_NH=None if self.time_bias is None else self.time_bias.weight,
                buckets_BQL=context.buckets_BQL,
                distances=_pattern(context),
            )
        elif self.is_fused:
            mask = context.visible
            if self.time_bias is not None:
                assert context.buckets_BQL is not None  # the encoder has checked it
                mask = self.time_bias.as_mask(context.buckets_BQL, mask, query_BHLW.dtype)
            attended_BHLW = fused_attention(
                query_BHLW,
                key_BHLW,
                value_BHLW,
                mask,
                dropout=dropout,
                is_causal=context.kernel_is_causal,
            )
        else:
            scores_BHLL = attention_scores(query_BHLW, key_BHLW, context.distances)
            if self.time_bias is not None:
                scores_BHLL = scores_BHLL + self.time_bias(context.buckets_BQL)
            if below_BHLL is not None:
                gate = 1.0 if self.score_gate is None else self.score_gate
                scores_BHLL = scores_BHLL + gate * below_BHLL
            attended_BHLW = attend(
                scores_BHLL, value_BHLW, context.visible, context.distances, dropout
            )
            handed_on = scores_BHLL if self.hands_on else None
        attended_BLD = attended_BHLW.transpose(1, 2).flatten(2)
        if asked is not None:
            return asked.of_attended(attended_BLD), None
        return attended_BLD, handed_on

    def _suits_cpu_attention(self, x: Tensor, context: AttentionContext, dropout: float) -> bool:
        """Say whether `cpu_attention` can compute this, and is faster."""
        if self.is_fused:
            return suits(x, dropout, has_bias=self.time_bias is not None)
        return x.is_cpu and not self.hands_on and _pattern(context) is not None

    def _can_be_packed(self, hidden_BLD: Tensor, context: AttentionContext, dropout: float) -> bool:
        """Say whether one product is to give queries, keys and values.

        Not for few positions, where bringing the weights together takes longer than it saves.
        """
        batch_size, length, width = hidden_BLD.shape
        if batch_size * length < 4 * width or self.time_bias is not None:
            return False
        if not self._suits_cpu_attention(hidden_BLD, context, dropout):
            return False
        if torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled():
            return False  # what comes out will be bfloat16, and may not suit
        return all(
            type(part) is nn.Linear and not _has_hooks(part)  # no adapter, nobody who listens
            for part in (self.query, self.key, self.value)
        )

    def _packed(self, hidden_BLD: Tensor) -> Tensor:
        parts = (self.query, self.key, self.value)
        weight_XD = torch.cat([part.weight for part in parts])
        return F.linear(hidden_BLD, weight_XD, torch.cat([part.bias for part in parts]))

    def _split_heads(self, projected_BLD: Tensor) -> Tensor:
        batch_size, length, _ = projected_BLD.shape
        return projected_BLD.view(batch_size, length, -1, self.head_width).transpose(1, 2)


def _pattern(context: AttentionContext) -> RelativeDistances | None:
    """Return NEZHA's distances where all positions are queries."""
    distances = context.distances
    return distances if isinstance(distances, RelativeDistances) else None


def _has_hooks(part: nn.Module) -> bool:
    before, behind = part._forward_pre_hooks, part._forward_hooks
    return bool(before or behind or part._backward_pre_hooks or part._backward_hooks)


def eager_attention(
    query_BHQW: Float[Tensor, "B H Q W"],
    key_BHLW: Float[Tensor, "B H L W"],
    value_BHLW: Float[Tensor, "B H L W"],
    visible: Bool[Tensor, "#B 1 #Q L"] | None = None,
    distances: RelativeDistances | DistancesOfSome | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H Q W"]:
    """Compute attention by plain products; with `distances`, NEZHA's.

    With R the sinusoid of the distance from query i to key j:

        score_ij = q_i . (k_j + R_ij) / sqrt(W),  p = dropout(softmax(score)),
        o_i = sum_j p_ij (v_j + R_ij)

    A query that may look nowhere gets the mean of all values, not NaN.

    Args:
        query_BHQW: Queries of each head.
        key_BHLW: Keys of each head.
        value_BHLW: Values of each head.
        visible: True where a query may look at a key; None for everywhere.
        distances: NEZHA's distances; None for BERT's attention.
        dropout: Probability with which an attention probability is set to zero.
    """
    scores_BHQL = attention_scores(query_BHQW, key_BHLW, distances)
    return attend(scores_BHQL, value_BHLW, visible, distances, dropout)


def attention_scores(
    query_BHQW: Float[Tensor, "B H Q W"],
    key_BHLW: Float[Tensor, "B H L W"],
    distances: RelativeDistances | DistancesOfSome | None = None,
) -> Float[Tensor, "B H Q L"]:
    """Return the scores of `eager_attention`, before mask and softmax; arguments as there."""
    scores_BHQL = query_BHQW @ key_BHLW.transpose(-1, -2)
    if distances is not None:
        scores_BHQL = relative_scores(query_BHQW, distances, onto=scores_BHQL)
    scale: float = query_BHQW.shape[-1] ** -0.5
    return scores_BHQL * scale


def attend(
    scores_BHQL: Float[Tensor, "B H Q L"],
    value_BHLW: Float[Tensor, "B H L W"],
    visible: Bool[Tensor, "#B 1 #Q L"] | None = None,
    distances: RelativeDistances | DistancesOfSome | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H Q W"]:
    """Return the values in the shares that the scores give them; arguments as `eager_attention`."""
    if visible is not None:
        scores_BHQL = scores_BHQL.masked_fill(~visible, torch.finfo(scores_BHQL.dtype).min)
    shares_BHQL = drop(scores_BHQL.softmax(dim=-1), dropout)
    attended_BHQW = shares_BHQL @ value_BHLW
    if distances is not None:
        attended_BHQW = attended_BHQW + relative_values(shares_BHQL, distances)
    return attended_BHQW


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
