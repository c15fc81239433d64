"""TENER: attention that knows on which side, and how far off, a position stands."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.blocks.block import BLOCKS
from idbert.nn.blocks.checks import check_divisible
from idbert.nn.blocks.layers import LayerOptions, join_heads, split_heads
from idbert.nn.blocks.transformer import AttentionBlock


@BLOCKS.register("tener")
class TENER(AttentionBlock):
    """Transformer layers with relative, directed, un-scaled attention.

    For query t and key j, in each head: A_tj = q_t . k_j + q_t . R_(t-j) + u . k_j + v . R_(t-j);
    read_t = sum_j softmax_j(A_tj) x_j. Query q and value x are projected, the key k is the head's
    part of h itself, and A is not divided by sqrt(W), which makes attention sharper. R_d is the
    sinusoid of a distance, its sine telling left from right; u and v are learned, 0 at the start.
    Then norm, feed-forward, norm.
    Source: Yan et al. 2019 (arXiv:1911.04474), direction- and distance-aware attention.

    Shapes:
        hidden_BLD -> [B, L, width].

    Raises:
        ConfigError: the width cannot be divided among the heads, or a head's width is odd.
    """

    def attention(self, options: LayerOptions) -> nn.Module:
        """Return directed attention."""
        return DirectedAttention(self.width, options.num_heads, options.dropout)


class DirectedAttention(nn.Module):
    """The attention of `TENER`; no [L, L, W] tensor is built.

    Args:
        width: D.
        num_heads: H.
        dropout: Share of the attention's shares that are dropped.

    Shapes:
        hidden_BLD -> [B, L, D].

    Raises:
        ConfigError: the width cannot be divided among the heads, or a head's width is odd.
    """

    def __init__(self, width: int, num_heads: int, dropout: float | int) -> None:
        super().__init__()
        check_divisible("block 'tener'", width, num_heads, "heads")
        head_width = width // num_heads
        if head_width % 2:
            raise ConfigError(
                f"The block 'tener' needs heads of an even width, for the sine and cosine of a "
                f"distance: {width} among {num_heads} heads is {head_width}. Choose another width "
                "or number of heads."
            )
        self.num_heads = num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        # Those of all heads in one vector, since matrices decay and biases must not.
        self.key_bias = nn.Parameter(torch.zeros(width))
        self.distance_bias = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, width)

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], visible_BLL: Bool[Tensor, "B L L"] | None
    ) -> Float[Tensor, "B L D"]:
        """Return what each position (first L) reads where it may look (second L)."""
        query_BHLW = split_heads(self.query(hidden_BLD), self.num_heads)
        value_BHLW = split_heads(self.value(hidden_BLD), self.num_heads)
        key_BHLW = split_heads(hidden_BLD, self.num_heads)
        distances = distance_table(hidden_BLD.shape[1], query_BHLW.shape[-1], hidden_BLD.device)
        key_bias, distance_bias = (
            bias.view(self.num_heads, 1, -1) for bias in (self.key_bias, self.distance_bias)
        )
        by_distance = (query_BHLW + distance_bias) @ distances.to(query_BHLW).T
        scores_BHLL = (query_BHLW + key_bias) @ key_BHLW.transpose(-1, -2)
        scores_BHLL = scores_BHLL + distances_to_keys(by_distance)
        if visible_BLL is not None:
            scores_BHLL = scores_BHLL.masked_fill(~visible_BLL[:, None], -torch.inf)
        shares_BHLL = self.dropout(scores_BHLL.softmax(dim=-1))
        output_BLD: Tensor = self.output(join_heads(shares_BHLL @ value_BHLW))
        return output_BLD


def distance_table(length: int, width: int, device: torch.device) -> Float[Tensor, "_ _"]:
    """Return TENER's sinusoids R_d for the distances d = L, L - 1, ..., 1 - L; 2L rows.

    R_d[2i] = sin(d / 10000^(2i/W)), R_d[2i+1] = cos(d / 10000^(2i/W)).

    Args:
        length: L.
        width: W, even.
        device: Where the table is needed.
    """
    distance = torch.arange(length, -length, -1, device=device)
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=device) / width)
    angle = distance[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def distances_to_keys(by_distance: Float[Tensor, "B H L _"]) -> Float[Tensor, "B H L L"]:
    """Turn each query's scores by distance, as in `distance_table`, into scores by key.

    Key j of query t has distance t - j and so stands in column L - t + j. With the rows end to end,
    at 2L t, that is (2L - 1) t + L + j: in rows of 2L - 1, after the first L, the column is j.
    """
    batch_size, num_heads, length, _ = by_distance.shape
    shifted = by_distance.flatten(-2)[..., length:]
    return shifted.reshape(batch_size, num_heads, length, 2 * length - 1)[..., :length]
