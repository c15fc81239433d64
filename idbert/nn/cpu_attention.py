"""Attention on a CPU by a few large products, with cheap dropout.

torch's fused attention on a CPU multiplies small blocks, and with dropout it gives way to plain
operations that keep three [B, H, Q, L] tensors and draw a float for each share. Here the shares of
some heads at a time are computed by batched products; in training the shares, and what
dropout leaves of them, are kept for the backward pass while they are small, and computed and drawn
once more where they are not. NEZHA's relative positions go the same way.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor
from torch.autograd.function import once_differentiable

from idbert.nn.dropout import kept_mask, kept_scale
from idbert.nn.products import products_are_fast, products_are_rounded
from idbert.nn.relative import Block, RelativeDistances, blocks_of, collect, spread

NUM_AT_ONCE = 2**20
"""Scores computed at a time: 4 MiB of float32, which a processor's caches about hold."""

NUM_KEPT = 2**23
"""Scores of a layer whose shares are kept for the backward pass: 32 MiB of float32. To compute them
once more takes a quarter of the time of attention."""


def suits(query: Tensor, probability: float, *, has_bias: bool = False) -> bool:
    """Say whether `cpu_attention` is faster here than torch's fused attention."""
    if query.device.type != "cpu":
        return False
    if has_bias:
        # torch gives way to plain operations where a bias is trained.
        return True
    if query.dtype == torch.bfloat16 and query.requires_grad:
        # torch's backward pass is several times as slow; its forward pass keeps scores in float32.
        return True
    if probability > 0:
        return True
    return query.dtype == torch.float32 and products_are_fast() and not products_are_rounded()


def cpu_attention(
    query_BHQW: Float[Tensor, "B H Q W"],
    key_BHLW: Float[Tensor, "B H L W"],
    value_BHLW: Float[Tensor, "B H L W"],
    visible: Bool[Tensor, "#B 1 #Q L"] | None = None,
    *,
    is_causal: bool = False,
    dropout: float = 0.0,
    bias_NH: Float[Tensor, "N H"] | None = None,
    buckets_BQL: Int32[Tensor, "B Q L"] | None = None,
    distances: RelativeDistances | None = None,
) -> Float[Tensor, "B H Q W"]:
    """Compute o_i = sum_j dropout(softmax_j(q_i . k_j / sqrt(W) + b_ij)) v_j.

    With `distances`, R_ij is added to k_j and v_j: NEZHA's attention.

    Args:
        query_BHQW: Queries of each head; with `is_causal` as many as keys.
        key_BHLW: Keys of each head.
        value_BHLW: Values of each head.
        visible: True where a query may look at a key; None for everywhere. A query that may look
            nowhere gets the mean of all values.
        is_causal: Whether later keys are hidden too.
        dropout: Probability with which a share is set to zero.
        bias_NH: b of each bucket and head; None: 0.
        buckets_BQL: Which of them stands between query and key.
        distances: NEZHA's, between as many queries as keys; None: R is 0.
    """
    attended: Tensor = _CpuAttention.apply(  # type: ignore[no-untyped-call]
        query_BHQW,
        key_BHLW,
        value_BHLW,
        None if bias_NH is None else bias_NH.to(query_BHQW.dtype),
        _shown(visible, is_causal, key_BHLW.shape[2]),
        dropout,
        buckets_BQL,
        distances,
    )
    return attended


def packed_attention(
    packed_BLX: Float[Tensor, "B L _"],
    num_heads: int,
    visible: Bool[Tensor, "#B 1 #L L"] | None = None,
    *,
    is_causal: bool = False,
    dropout: float = 0.0,
    distances: RelativeDistances | None = None,
) -> Float[Tensor, "B L D"]:
    """Compute `cpu_attention` of queries, keys and values that came out of one product.

    They are brought into the order of heads by one copy, and their gradients back by another.

    Args:
        packed_BLX: Queries, keys and values beside each other, X = 3 D.
        num_heads: H.
        visible: As in `cpu_attention`.
        is_causal: As in `cpu_attention`.
        dropout: As in `cpu_attention`.
        distances: As in `cpu_attention`.

    Returns:
        What was attended to, the heads beside each other.
    """
    attended: Tensor = _PackedAttention.apply(  # type: ignore[no-untyped-call]
        packed_BLX, num_heads, _shown(visible, is_causal, packed_BLX.shape[1]), dropout, distances
    )
    return attended


def _shown(visible: Tensor | None, is_causal: bool, length: int) -> Tensor | None:
    if not is_causal:
        return visible
    not_later = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    return not_later if visible is None else visible & not_later


class _CpuAttention(torch.autograd.Function):
    """See `cpu_attention`. N = B * H heads are one batch of products."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BHQW: Tensor,
        key_BHLW: Tensor,
        value_BHLW: Tensor,
        bias_NH: Tensor | None,
        visible: Tensor | None,
        dropout: float,
        buckets_BQL: Tensor | None,
        distances: RelativeDistances | None,
    ) -> Tensor:
        query, key, value = (_heads(tensor) for tensor in (query_BHQW, key_BHLW, value_BHLW))
        bias = (
            None
            if bias_NH is None or buckets_BQL is None
            else _BucketBias(bias_NH.detach(), buckets_BQL)
        )
        attended = _attend(
            ctx, query, key, value, visible, dropout, query_BHQW.shape[1], bias, distances
        )
        return attended.view(query_BHQW.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHQW: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # to be asked for only once where layers are computed again
        gradients = [torch.empty_like(tensor) for tensor in saved[:3]]
        bias: _BucketBias | None = ctx.source.bias if ctx.needs_input_grad[3] else None
        of_bias = None if bias is None else bias.no_gradient()
        _fill_gradients(ctx, saved, _heads(gradient_BHQW), *gradients, of_bias=of_bias)
        sequences_and_heads = gradient_BHQW.shape[:2]
        of_inputs = [of.view(*sequences_and_heads, *of.shape[1:]) for of in gradients]
        of_bias_NH = None if bias is None or of_bias is None else bias.as_table(of_bias)
        return (*of_inputs, of_bias_NH, None, None, None, None)


class _BucketBias:
    """Biases of queries and keys by their bucket, some heads at a time.

    Args:
        table_NH: One of each bucket and head.
        buckets_BQL: Which bucket.
    """

    def __init__(self, table_NH: Tensor, buckets_BQL: Tensor) -> None:
        self._shape, self._dtype = table_NH.T.shape, table_NH.dtype
        self._flat = table_NH.T.reshape(-1)
        self._buckets_BQL = buckets_BQL

    def of(self, heads: slice) -> Tensor:
        """Return the biases [n, Q, L]."""
        return self._flat.take(self._places(heads))

    def no_gradient(self) -> Tensor:
        """Return the sum to which `add_gradient` adds, in float32 at least."""
        return torch.zeros_like(self._flat, dtype=torch.promote_types(self._dtype, torch.float32))

    def add_gradient(self, summed: Tensor, heads: slice, of_scores: Tensor) -> None:
        """Add to each bias the gradients of the scores [n, Q, L] that it is part of."""
        weights = of_scores.reshape(-1).to(summed.dtype)
        summed += torch.bincount(self._places(heads).view(-1), weights, len(summed))

    def as_table(self, summed: Tensor) -> Tensor:
        """Return such a sum as the gradient of the table."""
        return summed.view(self._shape).T.to(self._dtype)

    def _places(self, heads: slice) -> Tensor:
        """Return where in the flat table these biases stand."""
        num_heads, num_buckets = self._shape
        numbers = torch.arange(heads.start, heads.stop)
        first = (numbers % num_heads * num_buckets)[:, None, None]
        return first + self._buckets_BQL[numbers // num_heads]


class _PackedAttention(torch.autograd.Function):
    """See `packed_attention`."""

    @staticmethod
    def forward(
        ctx: Any,
        packed_BLX: Tensor,
        num_heads: int,
        visible: Tensor | None,
        dropout: float,
        distances: RelativeDistances | None,
    ) -> Tensor:
        batch_size, length, _ = packed_BLX.shape
        parts_BL3HW = packed_BLX.view(batch_size, length, 3, num_heads, -1)
        parts_3NLW = parts_BL3HW.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2)
        query, key, value = parts_3NLW.unbind()
        attended = _attend(ctx, query, key, value, visible, dropout, num_heads, distances=distances)
        return _beside(attended.view(batch_size, num_heads, length, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BLD: Tensor) -> tuple[Tensor | None, ...]:
        batch_size, length, _ = gradient_BLD.shape
        saved = ctx.saved_tensors
        num_heads = len(saved[0]) // batch_size
        gradient_BLHW = gradient_BLD.view(batch_size, length, num_heads, -1)
        of_parts_3NLW = saved[0].new_empty(3, *saved[0].shape)
        _fill_gradients(ctx, saved, _heads(gradient_BLHW.transpose(1, 2)), *of_parts_3NLW)
        of_parts_3BHLW = of_parts_3NLW.view(3, batch_size, num_heads, length, -1)
        return of_parts_3BHLW.permute(1, 3, 0, 2, 4).flatten(2), None, None, None, None


def _attend(
    ctx: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor | None,
    dropout: float,
    num_heads: int,
    bias: "_BucketBias | None" = None,
    distances: RelativeDistances | None = None,
) -> Tensor:
    """Return what N heads attend to, [N, Q, W], and save what `_fill_gradients` needs."""
    num_scores = query.shape[0] * query.shape[1] * key.shape[1]
    keeps = any(ctx.needs_input_grad) and num_scores <= NUM_KEPT
    shape = torch.Size((len(query) // num_heads, num_heads, *query.shape[1:]))
    blocks = None if distances is None else blocks_of(distances, query.dtype)
    source = _Shares(shape, visible, dropout, bias, blocks, is_drawn_again=not keeps)
    attended = torch.empty_like(query)
    kept: list[Tensor] = []
    with torch.autocast("cpu", enabled=False):
        for heads, shares, weights in source.each(query, key):
            torch.bmm(weights, value[heads], out=attended[heads])
            if blocks is not None:
                attended[heads] += collect(weights[:, None], blocks)[:, 0]
            if keeps:
                kept += [shares, weights] if dropout else [shares]
        if dropout:
            attended *= kept_scale(dropout)
    ctx.save_for_backward(query, key, value, *([attended] if dropout else []), *kept)
    ctx.source = source
    return attended


def _fill_gradients(
    ctx: Any,
    saved: tuple[Tensor, ...],
    gradient: Tensor,
    of_query: Tensor,
    of_key: Tensor,
    of_value: Tensor,
    *,
    of_bias: Tensor | None = None,
) -> None:
    """Write the gradients of what `_attend` has read into tensors; add to that of the biases."""
    query, key, value, *kept = saved
    source: _Shares = ctx.source
    if source.dropout:
        attended, *kept = kept
        # of each query: the sum over keys of weight times gradient of the weight
        wide = torch.promote_types(gradient.dtype, torch.float32)
        mean_NQ1 = (gradient.to(wide) * attended).sum(-1, keepdim=True).to(gradient.dtype)
        gradient = gradient * kept_scale(source.dropout)
    for heads, shares, weights in source.of(kept) if kept else source.each(query, key):
        torch.bmm(weights.transpose(1, 2), gradient[heads], out=of_value[heads])
        of_shares = torch.bmm(gradient[heads], value[heads].transpose(1, 2))
        if source.blocks is not None:
            spread(gradient[heads, None], source.blocks, onto=of_shares[:, None])
        if source.dropout:
            # The softmax's gradient with what each query's share of it is told beforehand: two
            # passes where dropout and softmax one after the other are five.
            of_scores = of_shares.mul_(weights).addcmul_(shares, mean_NQ1[heads], value=-1)
        else:
            of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
        if of_bias is not None and source.bias is not None:
            source.bias.add_gradient(of_bias, heads, of_scores)
        torch.bmm(of_scores, key[heads], out=of_query[heads])
        torch.bmm(of_scores.transpose(1, 2), query[heads], out=of_key[heads])
        if source.blocks is not None:
            of_query[heads] += collect(of_scores[:, None], source.blocks)[:, 0]
    # Scaling these takes a fraction of the time of scaling the scores.
    of_query *= source.scale
    of_key *= source.scale


class _Shares:
    """The shares of some heads at a time, and what dropout leaves of them.

    Args:
        shape: B, H, Q, W.
        visible: As in `cpu_attention`.
        dropout: The probability.
        bias: Added to the scores; None: nothing.
        blocks: Of NEZHA's distances; None for BERT.
        is_drawn_again: Whether `each` must draw the same mask whenever it is called.
    """

    def __init__(
        self,
        shape: torch.Size,
        visible: Tensor | None,
        dropout: float,
        bias: _BucketBias | None,
        blocks: list[Block] | None,
        *,
        is_drawn_again: bool,
    ) -> None:
        self.bias, self.blocks, self.dropout = bias, blocks, dropout
        self.shape, self.scale = shape, shape[-1] ** -0.5
        self._visible = visible
        draws_apart = dropout > 0 and is_drawn_again
        self._seed = int(torch.randint(2**62, ())) if draws_apart else None

    def each(self, query: Tensor, key: Tensor) -> Iterator["_Part"]:
        """Compute the shares [n, Q, L], and what dropout leaves of them, before it is scaled."""
        generator = None if self._seed is None else torch.Generator().manual_seed(self._seed)
        # Adding takes a tenth of the time of filling in.
        hidden = None
        if self._visible is not None:
            lowest = torch.finfo(query.dtype).min
            hidden = torch.zeros(self._visible.shape, dtype=query.dtype)
            hidden = hidden.masked_fill_(~self._visible, lowest)[:, 0]
        for heads in self._chunks(key.shape[1]):
            scaled = query[heads] * self.scale
            scores = torch.bmm(scaled, key[heads].transpose(1, 2))
            if self.blocks is not None:
                spread(scaled[:, None], self.blocks, onto=scores[:, None])
            if self.bias is not None:
                scores += self.bias.of(heads)
            if hidden is not None:
                scores += hidden[self._sequences(heads)] if len(hidden) > 1 else hidden
            shares = scores.softmax(-1)
            weights = shares
            if self.dropout:
                weights = kept_mask(shares.shape, self.dropout, shares.dtype, generator).mul_(
                    shares
                )
            yield heads, shares, weights

    def of(self, kept: list[Tensor]) -> Iterator["_Part"]:
        """Return what `each` has returned, out of a list of its tensors."""
        remaining = iter(kept)
        for heads in self._chunks(kept[0].shape[-1]):
            shares = next(remaining)
            yield heads, shares, next(remaining) if self.dropout else shares

    def _chunks(self, num_keys: int) -> Iterator[slice]:
        num_sequences, heads, num_queries, _ = self.shape
        count = num_sequences * heads
        step = min(max(1, count), max(1, NUM_AT_ONCE // max(1, num_queries * num_keys)))
        # Even parts are products of one size, where oneDNN remembers each size for ever.
        even = next((size for size in range(step, step // 2, -1) if count % size == 0), step)
        for start in range(0, count, even):
            yield slice(start, min(start + even, count))

    def _sequences(self, heads: slice) -> Tensor:
        """Return which sequence each of these heads reads."""
        return torch.arange(heads.start, heads.stop) // self.shape[1]


_Part: TypeAlias = tuple[slice, Tensor, Tensor]
"""Which heads, their shares, and what dropout leaves of these."""


def _beside(tensor_BHLW: Tensor) -> Tensor:
    """Return [B, L, D]: the heads of a position beside each other."""
    return tensor_BHLW.transpose(1, 2).flatten(2)


def _heads(tensor_BHLW: Tensor) -> Tensor:
    """Return [N, L, W], contiguous, or [N, Q, W]."""
    return tensor_BHLW.flatten(0, 1).contiguous()
