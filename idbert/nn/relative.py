"""NEZHA's relative positions: what the distance between query and key adds to attention.

NEZHA (Wei et al. 2019, arXiv:1909.00204) adds a fixed sinusoid R_ij for the clipped distance j - i
between query i and key j, to the keys and to the values. No [L, L, W] tensor is built: 2k + 1
different sinusoids exist, and they lie in the [L, L] scores in a pattern. Near the diagonal, every
diagonal has its own; left of this band all keys share the first, right of it the last.

For a block of n successive queries the band is n + 2k keys wide. The block's products with the
sinusoids of all distances between its queries and those keys are one small matrix, of which each
row, read one step further left than the row above, is a row of the band: a view by strides.

`relative_scores` and `relative_values` are each other's adjoints (the gradient of one is the
other), so that neither keeps a tensor for its backward pass.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_BLOCK, MAX_BLOCKS = 32, 16
"""Queries in a block, at least; blocks in a sequence, at most. Small blocks waste fewer products,
few blocks need fewer calls; of 32, 64, 128 and 256 queries 32 was fastest at L = 128 and 512."""


@dataclass(frozen=True)
class RelativeDistances:
    """The distances between the positions of one batch, in buckets.

    Attributes:
        table_PW: The sinusoid of each bucket: of the distances -behind, ..., ahead.
        length: L.
        behind: The distance that stands for itself and all that are further behind.
        ahead: The distance that stands for itself and all that are further ahead.
    """

    table_PW: Float[Tensor, "P W"]
    length: int
    behind: int
    ahead: int

    @property
    def bucket_LL(self) -> Int64[Tensor, "L L"]:
        """The bucket of key j seen from query i, at [i, j]: what is meant, not how it is done."""
        position_L = torch.arange(self.length, device=self.table_PW.device)
        return self.bucket(position_L[None, :] - position_L[:, None])

    def bucket(self, distances: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the row of `table_PW` of each distance."""
        return distances.clamp(-self.behind, self.ahead) + self.behind


def relative_scores(
    query_BHLW: Float[Tensor, "B H L W"],
    distances: RelativeDistances,
    onto: Float[Tensor, "B H L L"] | None = None,
) -> Float[Tensor, "B H L L"]:
    """Return q_i . R_ij for each query i and key j, R_ij being the sinusoid of their distance.

    Args:
        query_BHLW: The queries q_i.
        distances: Between all positions.
        onto: Scores to which the result is added in place: one [B, H, L, L] tensor less. Nothing
            may need their former values, nor may they be a leaf of the graph.
    """
    scores: Tensor = _RelativeScores.apply(  # type: ignore[no-untyped-call]
        query_BHLW, onto, distances
    )
    return scores


def relative_values(
    shares_BHLL: Float[Tensor, "B H L L"], distances: RelativeDistances
) -> Float[Tensor, "B H L W"]:
    """Return sum over j of shares_ij R_ij for each query i."""
    values: Tensor = _RelativeValues.apply(shares_BHLL, distances)  # type: ignore[no-untyped-call]
    return values


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
        return RelativeDistances(
            table_PW=self.table_PW[self.max_distance - behind : self.max_distance + ahead + 1],
            length=length,
            behind=behind,
            ahead=ahead,
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


@dataclass(frozen=True)
class _Block:
    """Successive queries, the keys in their band, and the sinusoids from the ones to the others.

    Attributes:
        queries: Which queries.
        keys: The keys of the band; all left of it are in the first bucket, all right of it in
            the last, for each of the queries.
        table: [n + keys + 1, W]: the sinusoids of the distances from the last query to the first
            key, ..., from the first query to the last key, and one more on either side: that of
            the keys left of the band, and that of the keys right of it.
    """

    queries: slice
    keys: slice
    table: Tensor

    def band(self, products: Tensor) -> Tensor:
        """View [B, H, n, n + keys + 1] products with the table as [B, H, n, keys]."""
        queries, keys = self.queries.stop - self.queries.start, self.keys.stop - self.keys.start
        *outer, row, column = products.stride()
        return products.as_strided(
            (*products.shape[:2], queries, keys),
            (*outer, row - column, column),
            products.storage_offset() + queries * column,
        )


def _blocks(distances: RelativeDistances, dtype: torch.dtype) -> Iterator[_Block]:
    length, device = distances.length, distances.table_PW.device
    step = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    for start in range(0, length, step):
        stop = min(start + step, length)
        first, last = max(start - distances.behind, 0), min(stop + distances.ahead, length)
        reach = torch.arange(first - stop, last - start + 1, device=device)
        table = distances.table_PW[distances.bucket(reach)].to(dtype)
        yield _Block(slice(start, stop), slice(first, last), table)


class _RelativeScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_BHLW: Tensor, onto: Tensor | None, distances: RelativeDistances
    ) -> Tensor:
        ctx.distances = distances
        if onto is not None:
            ctx.mark_dirty(onto)
        return _spread(query_BHLW, distances, onto)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLL: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        query, onto, _ = ctx.needs_input_grad
        gradient_BHLW = _collect(gradient_BHLL, ctx.distances) if query else None
        return gradient_BHLW, gradient_BHLL if onto else None, None


class _RelativeValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shares_BHLL: Tensor, distances: RelativeDistances) -> Tensor:
        ctx.distances = distances
        return _collect(shares_BHLL, distances)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLW: Tensor) -> tuple[Tensor, None]:
        return _spread(gradient_BHLW, ctx.distances), None


def _spread(
    vectors_BHLW: Tensor, distances: RelativeDistances, onto: Tensor | None = None
) -> Tensor:
    """Return x_i . R_ij for each query i and key j, or add it to what is there."""
    batch_size, heads, length, _ = vectors_BHLW.shape
    write: Callable[[Tensor, Tensor], Tensor] = Tensor.copy_ if onto is None else Tensor.add_
    scores_BHLL = (
        vectors_BHLW.new_empty(batch_size, heads, length, length) if onto is None else onto
    )
    for block in _blocks(distances, vectors_BHLW.dtype):
        products = (vectors_BHLW[:, :, block.queries] @ block.table.T).contiguous()
        rows = scores_BHLL[:, :, block.queries]
        write(rows[..., block.keys], block.band(products))
        write(rows[..., : block.keys.start], products[..., :1])
        write(rows[..., block.keys.stop :], products[..., -1:])
    return scores_BHLL


def _collect(shares_BHLL: Tensor, distances: RelativeDistances) -> Tensor:
    """Return sum over j of shares_ij R_ij."""
    batch_size, heads, length, _ = shares_BHLL.shape
    values_BHLW = shares_BHLL.new_empty(batch_size, heads, length, distances.table_PW.shape[1])
    for block in _blocks(distances, shares_BHLL.dtype):
        rows = shares_BHLL[:, :, block.queries]
        weights = rows.new_zeros(*rows.shape[:3], len(block.table))
        block.band(weights).copy_(rows[..., block.keys])
        weights[..., 0] = rows[..., : block.keys.start].sum(-1)
        weights[..., -1] = rows[..., block.keys.stop :].sum(-1)
        values_BHLW[:, :, block.queries] = weights @ block.table
    return values_BHLW
