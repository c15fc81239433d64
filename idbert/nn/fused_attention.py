"""Torch's fused attention, which stays as fast where the products of a CPU are rounded."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from idbert.nn.products import plain_products, products_are_rounded


def fused_attention(
    query_BHQW: Float[Tensor, "B H Q W"],
    key_BHLW: Float[Tensor, "B H L W"],
    value_BHLW: Float[Tensor, "B H L W"],
    mask: Shaped[Tensor, "#B #H #Q L"] | None,
    *,
    dropout: float,
    is_causal: bool,
) -> Float[Tensor, "B H Q W"]:
    """Return torch's fused attention, whose small products are plain ones on a CPU.

    Rounded ones (see `fast_products`) would take three times as long.

    Args:
        query_BHQW: Queries of each head.
        key_BHLW: Keys of each head.
        value_BHLW: Values of each head.
        mask: As torch's `attn_mask`; it gets no gradient on a CPU where products are rounded.
        dropout: Probability with which a share is set to zero.
        is_causal: Whether later keys are hidden.
    """
    if query_BHQW.is_cpu and query_BHQW.numel() and dropout == 0 and products_are_rounded():
        attended: Tensor = _PlainlyFused.apply(  # type: ignore[no-untyped-call]
            query_BHQW, key_BHLW, value_BHLW, _added(mask, query_BHQW.dtype), is_causal
        )
        return attended
    return F.scaled_dot_product_attention(
        query_BHQW, key_BHLW, value_BHLW, attn_mask=mask, dropout_p=dropout, is_causal=is_causal
    )


def _added(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a mask as what is added to scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)


class _PlainlyFused(torch.autograd.Function):
    """Torch's fused attention on a CPU, forwards and backwards with `plain_products`."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BHQW: Tensor,
        key_BHLW: Tensor,
        value_BHLW: Tensor,
        mask: Tensor | None,
        is_causal: bool,
    ) -> Tensor:
        read = (query_BHQW, key_BHLW, value_BHLW)
        with plain_products():
            attended, log_total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *read, 0.0, is_causal, attn_mask=mask
            )
        ctx.save_for_backward(*read, attended, log_total, mask)
        ctx.is_causal = is_causal
        return cast(Tensor, attended)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Asked for before products are plain ones: layers may be computed again for them.
        *read, attended, log_total, mask = ctx.saved_tensors
        with plain_products():
            backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            gradients = backward(
                gradient, *read, attended, log_total, 0.0, ctx.is_causal, attn_mask=mask
            )
        return (*gradients, None, None)
