"""Scores of a few rows of each target's own, without a copy of their vectors for each."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from idbert.nn.losses.catalogue import accumulator, take

_CACHED_NUMBERS = 2**18
"""Products of a CPU's core at once: 1 MiB in float32, what its own cache holds."""

_NUMBERS = 2**24
"""The same of any other device, where a launch costs more than memory does."""


def own_scores(
    hidden_MD: Float[Tensor, "M D"],
    table_VD: Float[Tensor, "V D"],
    rows_MN: Int64[Tensor, "M N"],
) -> Float[Tensor, "M N"]:
    """Return the inner products of each vector with its own rows of a table.

    scores_mn = hidden_m . table[rows_mn]

    The M x N x D numbers of a plain gather are never in memory at once, neither forwards nor
    backwards. Once differentiable, also under autocast, which has no part in it.

    Args:
        hidden_MD: The vectors.
        table_VD: The table; its gradient is dense.
        rows_MN: Which rows each is compared with; a row may come several times.

    Returns:
        The scores, float32 or wider.
    """
    scores: Tensor = _OwnScores.apply(hidden_MD, table_VD, rows_MN)  # type: ignore[no-untyped-call]
    return scores


def right_and_wrong_scores(
    hidden_MD: Float[Tensor, "M D"],
    weight_VD: Float[Tensor, "V D"],
    bias_V: Float[Tensor, "V"],
    targets_M: Int64[Tensor, "M"],
    rows_MN: Int64[Tensor, "M N"],
    *,
    sparse: bool = False,
    unit: bool = False,
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M N"]]:
    """Return the scores of the targets and of the negatives of each.

    Args:
        hidden_MD: Vectors at the positions with a target.
        weight_VD: Vectors of the vocabulary rows; only those that are named are read.
        bias_V: Bias of the vocabulary rows.
        targets_M: The right row at each position.
        rows_MN: Negatives of each target.
        sparse: Whether the gradients of weight and bias are sparse tensors.
        unit: Whether the rows that are read are brought to norm 1.

    Returns:
        Both float32 or wider; a negative that is the target has -inf.
    """
    is_target_MN = rows_MN == targets_M[:, None]
    right_MD = take(weight_VD, targets_M, sparse=sparse, unit=unit)
    right_M = (hidden_MD * right_MD).sum(1) + take(bias_V, targets_M, sparse=sparse)
    if sparse or unit:
        # What is read once for all targets has a gradient no longer than itself.
        read_U, rows_MN = torch.unique(rows_MN, return_inverse=True)
        weight_VD = take(weight_VD, read_U, sparse=sparse, unit=unit)
        bias_V = take(bias_V, read_U, sparse=sparse)
    wrong_MN = own_scores(hidden_MD, weight_VD, rows_MN) + take(bias_V, rows_MN, sparse=False)
    return right_M.to(wrong_MN.dtype), wrong_MN.masked_fill(is_target_MN, -torch.inf)


class _OwnScores(torch.autograd.Function):
    """See `own_scores`."""

    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, table_VD: Tensor, rows_MN: Tensor) -> Tensor:
        ctx.save_for_backward(hidden_MD, table_VD, rows_MN)
        wide = accumulator(hidden_MD.dtype)
        with torch.autocast(hidden_MD.device.type, enabled=False):
            scores_MN = hidden_MD.new_zeros(rows_MN.shape, dtype=wide)
            if not rows_MN.numel():
                return scores_MN
            # The gradient of a weighted sum with respect to its weights is what is looked for, and
            # torch has it in one kernel that reads the table row by row.
            with torch.enable_grad():
                share_MN = scores_MN.requires_grad_()
                summed_MD = F.embedding_bag(
                    rows_MN, table_VD.detach().to(wide), mode="sum", per_sample_weights=share_MN
                )
                (scores_MN,) = torch.autograd.grad(summed_MD, share_MN, hidden_MD.detach().to(wide))
        return scores_MN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MN: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_MD, table_VD, rows_MN = ctx.saved_tensors
        wide, device = grad_MN.dtype, hidden_MD.device.type
        hidden_grad_MD = table_grad_VD = None
        if not rows_MN.numel():
            return torch.zeros_like(hidden_MD), torch.zeros_like(table_VD), None
        with torch.autocast(device, enabled=False):
            if ctx.needs_input_grad[0]:
                hidden_grad_MD = F.embedding_bag(
                    rows_MN, table_VD.to(wide), mode="sum", per_sample_weights=grad_MN.contiguous()
                ).to(hidden_MD.dtype)
            if ctx.needs_input_grad[1]:
                wide_MD = hidden_MD.to(wide)
                table_grad_VD = torch.zeros_like(table_VD, dtype=wide)
                numbers = _CACHED_NUMBERS if device == "cpu" else _NUMBERS
                size = max(1, numbers // (rows_MN.shape[1] * hidden_MD.shape[1]))
                for start in range(0, len(hidden_MD), size):
                    chunk = slice(start, start + size)
                    products_PND = grad_MN[chunk, :, None] * wide_MD[chunk, None, :]
                    table_grad_VD.index_add_(
                        0, rows_MN[chunk].flatten(), products_PND.flatten(0, 1)
                    )
                table_grad_VD = table_grad_VD.to(table_VD.dtype)
        return hidden_grad_MD, table_grad_VD, None
