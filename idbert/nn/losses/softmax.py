"""The softmax over a whole catalogue as functions: all scores at once, or a chunk at a time."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from idbert.nn.products import padded_rows, products_are_rounded, rounded_rows

_LARGEST_CHUNK, _SMALLEST_CHUNK = 1024, 64
_CACHED_SCORES = 2**19
"""Of each core: 2 MiB in float32, what its own cache can hold while they are worked on."""

_ROUNDED_TIMES = 4

_LARGEST_TOTAL = 1e25
"""Of exponentials that are taken without subtracting the largest score, which would be two more
passes over the scores; float32 ends at 3e38."""

_NOBODYS = -100
"""Target of a row that is there for the size of a product alone."""


def full_softmax_loss(
    hidden_MD: Float[Tensor, "M D"],
    weight_VD: Float[Tensor, "V D"],
    bias_V: Float[Tensor, "V"],
    targets_M: Int64[Tensor, "M"],
    weights_M: Float[Tensor, "M"] | None = None,
    *,
    label_smoothing: float | int = 0.0,
    first_row: int = 0,
) -> Float[Tensor, ""]:
    """Sum the cross-entropies of the targets under a softmax over all V rows.

    loss = sum_m weights_m * -log softmax(hidden_m @ weight.T + bias)[targets_m]

    With label smoothing e the right answer is no single row any more: the target has 1 - e, and e
    is spread evenly over the rows from `first_row` on, the target among them. At first_row = 0
    that is torch's cross_entropy(label_smoothing=e); special rows get no share of it.

    Args:
        hidden_MD: Vectors at the positions with a target.
        weight_VD: Vectors of the vocabulary rows.
        bias_V: Bias of the vocabulary rows.
        targets_M: The right row at each position.
        weights_M: How much each target counts; None: all 1.
        label_smoothing: e, from 0 to below 1.
        first_row: The rows below it are special tokens, which are never the right answer.

    Returns:
        The sum, float32 or wider whatever the inputs; 0 for M = 0. Divide it by the number of
        targets of the whole (accumulated) batch.

    Source of the smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture for
    Computer Vision", section 7.
    """
    rows_PD = padded_rows(hidden_MD)
    targets_P = F.pad(targets_M, (0, len(rows_PD) - len(targets_M)), value=_NOBODYS)
    scores_PV = F.linear(rows_PD, weight_VD, bias_V)
    scores_PV = scores_PV.to(accumulator(scores_PV.dtype))
    losses_P = F.cross_entropy(scores_PV, targets_P, ignore_index=_NOBODYS, reduction="none")
    loss_M = losses_P[: len(targets_M)]
    if label_smoothing:
        scores_MV = scores_PV[: len(targets_M)]
        of_target_M = scores_MV.gather(1, targets_M[:, None])[:, 0]
        loss_M = loss_M + label_smoothing * (of_target_M - scores_MV[:, first_row:].mean(1))
    if weights_M is not None:
        loss_M = loss_M * weights_M
    return loss_M.sum()


def chunked_softmax_loss(
    hidden_MD: Float[Tensor, "M D"],
    weight_VD: Float[Tensor, "V D"],
    bias_V: Float[Tensor, "V"],
    targets_M: Int64[Tensor, "M"],
    weights_M: Float[Tensor, "M"] | None = None,
    *,
    chunk_size: int | None = None,
    label_smoothing: float | int = 0.0,
    first_row: int = 0,
) -> Float[Tensor, ""]:
    """Compute `full_softmax_loss` with never more than chunk_size x V scores in memory.

    The gradients are computed in the forward pass, chunk by chunk, while the scores are at hand.
    What is kept for the backward pass is of the inputs' size: M x D, V x D and V.
    Under autocast the products run in its dtype; softmax and sums stay in float32.

    Args:
        hidden_MD: As in `full_softmax_loss`.
        weight_VD: As in `full_softmax_loss`.
        bias_V: As in `full_softmax_loss`.
        targets_M: As in `full_softmax_loss`.
        weights_M: As in `full_softmax_loss`; no gradient flows to them.
        chunk_size: Most targets scored at a time; the chunks are of even size. None: see
            `usual_chunk`.
        label_smoothing: As in `full_softmax_loss`. It costs next to nothing: a target's mean score
            is its score with the mean of the rows.
        first_row: As in `full_softmax_loss`.

    Source: the fused linear cross-entropy of Hsu et al., "Liger Kernel" (2024), in plain torch.
    """
    loss: Tensor = _ChunkedSoftmax.apply(  # type: ignore[no-untyped-call]
        hidden_MD,
        weight_VD,
        bias_V,
        targets_M,
        weights_M,
        usual_chunk(len(weight_VD), hidden_MD.device.type, is_rounded=products_are_rounded())
        if chunk_size is None
        else chunk_size,
        float(label_smoothing),
        first_row,
        torch.is_grad_enabled(),
    )
    return loss


class _ChunkedSoftmax(torch.autograd.Function):
    """See `chunked_softmax_loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        targets_M: Tensor,
        weights_M: Tensor | None,
        chunk_size: int,
        smoothing: float,
        first_row: int,
        with_gradients: bool,
    ) -> Tensor:
        device = hidden_MD.device.type
        wide, product = accumulator(hidden_MD.dtype), product_dtype(hidden_MD)
        with torch.autocast(device, enabled=False):
            narrow_VD, wide_bias_V = weight_VD.to(product), bias_V.to(wide)
            loss = hidden_MD.new_zeros((), dtype=wide)
            if with_gradients:
                hidden_grad_MD = torch.empty_like(hidden_MD)
                # lying down: its products take a seventh less time than those of [V, D]
                weight_grad_DV = weight_VD.new_zeros(weight_VD.shape[::-1], dtype=wide)
                bias_grad_V = torch.zeros_like(bias_V, dtype=wide)
            if smoothing:
                mean_D = weight_VD[first_row:].mean(0, dtype=wide)
                mean_bias, num_items = wide_bias_V[first_row:].mean(), len(bias_V) - first_row
            # Where the largest score has to be subtracted once, it is likely to be so again.
            subtracts = not hidden_MD.is_cpu or product == torch.float16
            even_size = even_size_of(len(targets_M), chunk_size)
            for start in range(0, len(targets_M), even_size):
                chunk = slice(start, start + even_size)
                target_M1 = targets_M[chunk, None]
                count = len(target_M1)
                chunk_PD = padded_rows(hidden_MD[chunk], even_size).to(product)
                scores_PV = _scores(chunk_PD, narrow_VD, wide_bias_V)
                of_target_M1 = scores_PV[:count].gather(1, target_M1)
                # softmax in place: the scores become their exponentials, then the gradient
                if not subtracts:
                    total_P1 = scores_PV.exp_().sum(1, keepdim=True)
                    log_total_P1 = total_P1.log()
                    smallest, largest = total_P1.aminmax()
                    if not 1 / _LARGEST_TOTAL < smallest <= largest < _LARGEST_TOTAL:
                        subtracts = True
                        del scores_PV
                        scores_PV = _scores(chunk_PD, narrow_VD, wide_bias_V)
                if subtracts:
                    largest_P1 = scores_PV.amax(1, keepdim=True)
                    total_P1 = scores_PV.sub_(largest_P1).exp_().sum(1, keepdim=True)
                    log_total_P1 = total_P1.log().add_(largest_P1)
                loss_M1 = log_total_P1[:count] - of_target_M1
                weight_M1 = torch.ones_like(loss_M1)
                if weights_M is not None:
                    weight_M1 = weights_M[chunk, None].to(wide)
                if smoothing:
                    wide_MD = hidden_MD[chunk].to(wide)
                    mean_score_M1 = (wide_MD @ mean_D + mean_bias)[:, None]
                    loss_M1 += smoothing * (of_target_M1 - mean_score_M1)
                loss += (loss_M1 * weight_M1).sum()
                if with_gradients:
                    # d loss / d scores = weight * (softmax - what is right), and right is the
                    # target with 1 - smoothing, and each item with smoothing / num_items
                    scale_P1 = torch.zeros_like(total_P1)
                    scale_P1[:count] = weight_M1 / total_P1[:count]
                    grad_PV = scores_PV.mul_(scale_P1)
                    grad_PV[:count].scatter_add_(1, target_M1, (smoothing - 1) * weight_M1)
                    bias_grad_V += grad_PV.sum(0)
                    narrow_PV = grad_PV.to(product)
                    hidden_grad_MD[chunk] = (narrow_PV @ narrow_VD)[:count]
                    if product == wide:
                        weight_grad_DV.addmm_(chunk_PD.T, narrow_PV)
                    else:
                        weight_grad_DV += chunk_PD.T @ narrow_PV
                    if smoothing:
                        hidden_grad_MD[chunk] -= (smoothing * weight_M1 * mean_D).to(
                            hidden_MD.dtype
                        )
                        share_M1 = weight_M1 * (smoothing / num_items)
                        weight_grad_DV[:, first_row:] -= (share_M1 * wide_MD).sum(0)[:, None]
                        bias_grad_V[first_row:] -= share_M1.sum()
        if with_gradients:
            ctx.save_for_backward(
                hidden_grad_MD, weight_grad_DV.to(weight_VD.dtype), bias_grad_V.to(bias_V.dtype)
            )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad_MD, weight_grad_DV, bias_grad_V = ctx.saved_tensors
        weight_grad_VD = weight_grad_DV.new_empty(weight_grad_DV.shape[::-1])
        weight_grad_VD = torch.mul(weight_grad_DV.T, grad, out=weight_grad_VD)
        gradients = (hidden_grad_MD * grad, weight_grad_VD, bias_grad_V * grad)
        return (*gradients, None, None, None, None, None, None)


def _scores(chunk_PD: Tensor, weight_VD: Tensor, bias_V: Tensor) -> Tensor:
    # Faster than to let the product begin with the bias.
    return (chunk_PD @ weight_VD.T).to(bias_V.dtype).add_(bias_V)


def usual_chunk(num_rows: int, device_type: str, *, is_rounded: bool = False) -> int:
    """Return how many targets are scored at a time where nobody says it.

    On a CPU as many as leave the scores in the cores' caches, for they are read and written five to
    seven times, but at least 64, for all rows are read anew for each chunk: 153 a thread for 3,416
    rows. Four times as many where products are rounded, which makes them so fast that reading the
    rows and their gradients costs more. Elsewhere 1,024.

    Args:
        num_rows: That are scored against.
        device_type: cpu, or cuda and the like.
        is_rounded: Whether products are rounded, see `products_are_rounded`.
    """
    if device_type != "cpu":
        return _LARGEST_CHUNK
    cached = _CACHED_SCORES * torch.get_num_threads() // max(1, num_rows)
    if is_rounded:
        cached *= _ROUNDED_TIMES
    return min(_LARGEST_CHUNK, max(_SMALLEST_CHUNK, cached))


def even_size_of(count: int, most: int) -> int:
    """Return the size of as few chunks as have no more than `most`: as even as they can be.

    Inside `fast_products` it is rounded up to one of few, and the last chunk may be padded to it.
    """
    num_chunks = max(1, math.ceil(count / most))
    return max(1, min(most, rounded_rows(math.ceil(count / num_chunks))))


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of softmax and sums: float32, or wider if the input is."""
    return torch.promote_types(dtype, torch.float32)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: autocast's where it is on, else the input's."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
