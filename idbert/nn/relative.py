"""NEZHA's relative positions: what the distance between query and key adds to attention.

NEZHA (Wei et al. 2019, arXiv:1909.00204) adds a fixed sinusoid for the clipped distance between
query and key, to the keys and to the values. No [L, L, W] tensor is built: distances fall into
2k + 1 buckets, so scores are gathered from, and probabilities added into, [L, 2k + 1].
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


@dataclass(frozen=True)
class RelativeDistances:
    """The distances between the positions of one batch, in buckets.

    Attributes:
        table_PW: The sinusoid of each bucket.
        bucket_LL: The bucket of key j seen from query i, at [i, j].
    """

    table_PW: Float[Tensor, "P W"]
    bucket_LL: Int64[Tensor, "L L"]


def relative_scores(
    query_BHLW: Float[Tensor, "B H L W"], distances: RelativeDistances
) -> Float[Tensor, "B H L L"]:
    """Return q_i . R_ij for each query i and key j, R_ij being the sinusoid of their distance."""
    scores_BHLP = query_BHLW @ distances.table_PW.T
    bucket_BHLL = distances.bucket_LL.expand(*query_BHLW.shape[:3], -1)
    return scores_BHLP.gather(-1, bucket_BHLL)


def relative_values(
    shares_BHLL: Float[Tensor, "B H L L"], distances: RelativeDistances
) -> Float[Tensor, "B H L W"]:
    """Return sum over j of shares_ij R_ij for each query i."""
    bucket_BHLL = distances.bucket_LL.expand_as(shares_BHLL)
    shares_BHLP = shares_BHLL.new_zeros(*shares_BHLL.shape[:3], len(distances.table_PW))
    return shares_BHLP.scatter_add(-1, bucket_BHLL, shares_BHLL) @ distances.table_PW


class RelativePositions(nn.Module):
    """NEZHA's sinusoids: one table for all heads and layers, for keys and values; never trained.

    Args:
        max_distance: k, the distance from which on no difference is made.
        width: W, the width of one attention head; even.
    """

    def __init__(self, max_distance: int, width: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.width = width
        self.register_buffer("table_PW", relative_table(max_distance, width), persistent=False)
        self.table_PW: Tensor

    def forward(self, length: int, *, is_causal: bool) -> RelativeDistances:
        """Return the distances between `length` positions, with the buckets that can occur."""
        behind = min(self.max_distance, length - 1)
        ahead = 0 if is_causal else behind
        position_L = torch.arange(length, device=self.table_PW.device)
        distance_LL = position_L[None, :] - position_L[:, None]
        return RelativeDistances(
            table_PW=self.table_PW[self.max_distance - behind : self.max_distance + ahead + 1],
            bucket_LL=distance_LL.clamp(-behind, ahead) + behind,
        )


def relative_table(max_distance: int, width: int) -> Float[Tensor, "P W"]:
    """Return NEZHA's sinusoids: row p stands for the distance p - max_distance.

    table[p, 2i] = sin(p / 10000^(2i/W)), table[p, 2i+1] = cos(p / 10000^(2i/W)).

    Args:
        max_distance: k; the table has 2k + 1 rows.
        width: W, even.
    """
    row_P1 = torch.arange(2 * max_distance + 1, dtype=torch.float64)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = row_P1 * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()
