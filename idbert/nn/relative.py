"""NEZHA's relative positions: what the distance between query and key adds to attention.

NEZHA (Wei et al. 2019, arXiv:1909.00204) adds a fixed sinusoid R_ij for the clipped distance j - i
between query i and key j, to the keys and to the values. No [L, L, W] tensor is built: 2k + 1
different sinusoids exist, and they lie in the [L, L] scores in a pattern. Near the diagonal, every
diagonal has its own; left of this band all keys share the first, right of it the last.

For a block of n successive queries the band is n + 2k keys wide. The block's products with the
sinusoids of all distances between its queries and those keys are one small matrix, of which each
row, read one step further left than the row above, is a row of the band: a view by strides.

`relative_scores` and `relative_values` are each other's adjoints (the gradient of one is the
other), so that neither keeps a tensor for its backward pass. `spread` and `collect` are what they
compute, for those who know the gradients by themselves.

A few queries of each sequence, which do not follow each other, look the distances up instead: see
`DistancesOfSome`.
"""

from collections.abc import Callable, Sequence
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

    def at(self, queries_BQ: Int64[Tensor, "B Q"]) -> "DistancesOfSome":
        """Return the distances from some positions of each sequence to all."""
        position_L = torch.arange(self.length, device=queries_BQ.device)
        return DistancesOfSome(self.table_PW, self.bucket(position_L - queries_BQ[:, :, None]))


@dataclass(frozen=True)
class DistancesOfSome:
    """The distances from a few queries of each sequence to all positions, which form no pattern.

    Attributes:
        table_PW: As in `RelativeDistances`.
        buckets_BQL: The bucket of key j seen from a query.
    """

    table_PW: Float[Tensor, "P W"]
    buckets_BQL: Int64[Tensor, "B Q L"]

    def buckets(self, num_heads: int) -> Int64[Tensor, "B H Q L"]:
        """Return the buckets for each head."""
        return self.buckets_BQL[:, None].expand(-1, num_heads, -1, -1)


def relative_scores(
    query_BHQW: Float[Tensor, "B H Q W"],
    distances: RelativeDistances | DistancesOfSome,
    onto: Float[Tensor, "B H Q L"] | None = None,
) -> Float[Tensor, "B H Q L"]:
    """Return q_i . R_ij for each query i and key j, R_ij being the sinusoid of their distance.

    Args:
        query_BHQW: The queries q_i.
        distances: Between all positions, or from these queries to all.
        onto: Scores to which the result is added in place, where all positions are queries: one
            [B, H, L, L] tensor less. Nothing may need their former values, nor may they be a leaf
            of the graph.
    """
    if isinstance(distances, DistancesOfSome):
        products_BHQP = query_BHQW @ distances.table_PW.T.to(query_BHQW.dtype)
        # In float32 at least, since many keys share a bucket, and their gradients are summed.
        wide_BHQP = products_BHQP.to(torch.promote_types(products_BHQP.dtype, torch.float32))
        wide_BHQL = wide_BHQP.gather(3, distances.buckets(query_BHQW.shape[1]))
        added_BHQL = wide_BHQL.to(products_BHQP.dtype)
        return added_BHQL if onto is None else onto + added_BHQL
    scores: Tensor = _RelativeScores.apply(  # type: ignore[no-untyped-call]
        query_BHQW, onto, distances
    )
    return scores


def relative_values(
    shares_BHQL: Float[Tensor, "B H Q L"], distances: RelativeDistances | DistancesOfSome
) -> Float[Tensor, "B H Q W"]:
    """Return sum over j of shares_ij R_ij for each query i."""
    if isinstance(distances, DistancesOfSome):
        dtype = shares_BHQL.dtype
        wide_BHQL = shares_BHQL.to(torch.promote_types(dtype, torch.float32))
        sums_BHQP = wide_BHQL.new_zeros(*shares_BHQL.shape[:3], len(distances.table_PW))
        buckets_BHQL = distances.buckets(shares_BHQL.shape[1])
        sums_BHQP = sums_BHQP.scatter_add(3, buckets_BHQL, wide_BHQL)
        return sums_BHQP.to(dtype) @ distances.table_PW.to(dtype)
    values: Tensor = _RelativeValues.apply(shares_BHQL, distances)  # type: ignore[no-untyped-call]
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
class Block:
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


def blocks_of(distances: RelativeDistances, dtype: torch.dtype) -> list[Block]:
    """Return the blocks of all queries, with tables in the dtype."""
    blocks = []
    length, device = distances.length, distances.table_PW.device
    step = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    for start in range(0, length, step):
        stop = min(start + step, length)
        first, last = max(start - distances.behind, 0), min(stop + distances.ahead, length)
        reach = torch.arange(first - stop, last - start + 1, device=device)
        table = distances.table_PW[distances.bucket(reach)].to(dtype)
        blocks.append(Block(slice(start, stop), slice(first, last), table))
    return blocks


class _RelativeScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_BHLW: Tensor, onto: Tensor | None, distances: RelativeDistances
    ) -> Tensor:
        ctx.distances = distances
        if onto is not None:
            ctx.mark_dirty(onto)
        return spread(query_BHLW, blocks_of(distances, query_BHLW.dtype), onto)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLL: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        query, onto, _ = ctx.needs_input_grad
        blocks = blocks_of(ctx.distances, gradient_BHLL.dtype)
        gradient_BHLW = collect(gradient_BHLL, blocks) if query else None
        return gradient_BHLW, gradient_BHLL if onto else None, None


class _RelativeValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shares_BHLL: Tensor, distances: RelativeDistances) -> Tensor:
        ctx.distances = distances
        return collect(shares_BHLL, blocks_of(distances, shares_BHLL.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLW: Tensor) -> tuple[Tensor, None]:
        return spread(gradient_BHLW, blocks_of(ctx.distances, gradient_BHLW.dtype)), None


def spread(
    vectors_BHLW: Float[Tensor, "B H L W"],
    blocks: Sequence[Block],
    onto: Float[Tensor, "B H L L"] | None = None,
) -> Float[Tensor, "B H L L"]:
    """Return x_i . R_ij for each query i and key j, or add it in place to what is there."""
    batch_size, heads, length, _ = vectors_BHLW.shape
    write: Callable[[Tensor, Tensor], Tensor] = Tensor.copy_ if onto is None else Tensor.add_
    scores_BHLL = (
        vectors_BHLW.new_empty(batch_size, heads, length, length) if onto is None else onto
    )
    for block in blocks:
        products = (vectors_BHLW[:, :, block.queries] @ block.table.T).contiguous()
        rows = scores_BHLL[:, :, block.queries]
        write(rows[..., block.keys], block.band(products))
        write(rows[..., : block.keys.start], products[..., :1])
        write(rows[..., block.keys.stop :], products[..., -1:])
    return scores_BHLL


def collect(
    shares_BHLL: Float[Tensor, "B H L L"], blocks: Sequence[Block]
) -> Float[Tensor, "B H L W"]:
    """Return sum over j of shares_ij R_ij for each query i."""
    batch_size, heads, length, _ = shares_BHLL.shape
    values_BHLW = shares_BHLL.new_empty(batch_size, heads, length, blocks[0].table.shape[1])
    for block in blocks:
        rows = shares_BHLL[:, :, block.queries]
        weights = rows.new_zeros(*rows.shape[:3], len(block.table))
        block.band(weights).copy_(rows[..., block.keys])
        weights[..., 0] = rows[..., : block.keys.start].sum(-1)
        weights[..., -1] = rows[..., block.keys.stop :].sum(-1)
        values_BHLW[:, :, block.queries] = weights @ block.table
    return values_BHLW
