"""Losses over the whole catalogue: which of all items stands at this position?

A loss is found by name; one more is a class and a registration:

    @LOSSES.register("focal")
    class FocalSoftmax(CatalogueLoss): ...
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from idbert.errors import ConfigError
from idbert.nn.parts import NoOptions, read_options
from idbert.nn.products import padded_rows, rounded_rows
from idbert.nn.registry import Registry

DEFAULT_CHUNK = 1024
"""Targets scored at a time: 14 MiB of float32 scores for 3,500 items, 195 MiB for 50,000."""

_NOBODYS = -100
"""Target of a row that is there for the size of a product alone."""


class CatalogueLoss(nn.Module):
    """Base of the losses over a catalogue; `forward` of the subclass computes them.

    Args:
        options: Of the class's own `Options`.

    Attributes:
        draws_rows: Whether it reads only the rows that it draws, and the targets.
        normalises_rows: Whether it can bring the rows that it reads to norm 1 itself, where
            `unit_rows` is set; any other loss is given a table of which all rows are.
        first_row: The rows below it are special tokens, and never negatives.
        sparse: Whether the gradient of the rows is to be sparse; only where `draws_rows`.
        unit_rows: Whether the rows that it reads are to be brought to norm 1; only where
            `normalises_rows`.
    """

    Options: ClassVar[type[NoOptions]] = NoOptions
    draws_rows: ClassVar[bool] = False
    normalises_rows: ClassVar[bool] = False

    def __init__(self, options: NoOptions) -> None:
        super().__init__()
        self.first_row, self.sparse, self.unit_rows = 0, False, False

    def fit(self, counts_V: Int64[Tensor, "V"]) -> None:
        """Learn, before training, how often each row occurs in it; most losses need not know."""

    def forward(
        self,
        hidden_MD: Float[Tensor, "M D"],
        weight_VD: Float[Tensor, "V D"],
        bias_V: Float[Tensor, "V"],
        targets_M: Int64[Tensor, "M"],
        weights_M: Float[Tensor, "M"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses; arguments as for `full_softmax_loss`."""
        raise NotImplementedError


LOSSES: Registry[type[CatalogueLoss]] = Registry("loss")


@dataclass(frozen=True)
class LossSettings:
    """The loss over the catalogue."""

    name: str = "chunked"
    """full (softmax, all scores at once), chunked (the same loss and gradients, faster and in a
    fraction of the memory), sampled (softmax over a sample, corrected for its distribution), gbce
    (binary, against negatives that a batch shares), bce (against each target's own)."""

    options: dict[str, Any] = field(default_factory=dict)
    """What the loss can be told. chunked: chunk_size, the targets scored at a time (1024). sampled:
    negatives (1024) and distribution (log_uniform; uniform, in_batch, mixed). gbce: negatives (256)
    and calibration (0.75). bce: negatives (1)."""

    def __post_init__(self) -> None:
        _options_of(self)


def build_loss(settings: LossSettings, *, first_row: int = 0) -> CatalogueLoss:
    """Return the loss that the settings name.

    Args:
        settings: Its name and options.
        first_row: The rows below it are special tokens, and never negatives.
    """
    loss = LOSSES[settings.name](_options_of(settings))
    loss.first_row = first_row
    return loss


def _options_of(settings: LossSettings) -> NoOptions:
    return read_options(f"loss '{settings.name}'", LOSSES[settings.name].Options, settings.options)


def full_softmax_loss(
    hidden_MD: Float[Tensor, "M D"],
    weight_VD: Float[Tensor, "V D"],
    bias_V: Float[Tensor, "V"],
    targets_M: Int64[Tensor, "M"],
    weights_M: Float[Tensor, "M"] | None = None,
) -> Float[Tensor, ""]:
    """Sum the cross-entropies of the targets under a softmax over all V rows.

    loss = sum_m weights_m * -log softmax(hidden_m @ weight.T + bias)[targets_m]

    Args:
        hidden_MD: Vectors at the positions with a target.
        weight_VD: Vectors of the vocabulary rows.
        bias_V: Bias of the vocabulary rows.
        targets_M: The right row at each position.
        weights_M: How much each target counts; None: all 1.

    Returns:
        The sum, float32 or wider whatever the inputs; 0 for M = 0. Divide it by the number of
        targets of the whole (accumulated) batch.
    """
    rows_PD = padded_rows(hidden_MD)
    targets_P = F.pad(targets_M, (0, len(rows_PD) - len(targets_M)), value=_NOBODYS)
    scores_PV = F.linear(rows_PD, weight_VD, bias_V)
    scores_PV = scores_PV.to(accumulator(scores_PV.dtype))
    losses_P = F.cross_entropy(scores_PV, targets_P, ignore_index=_NOBODYS, reduction="none")
    loss_M = losses_P[: len(targets_M)]
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
    chunk_size: int = DEFAULT_CHUNK,
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
        chunk_size: Most targets scored at a time; the chunks are of even size.

    Source: the fused linear cross-entropy of Hsu et al., "Liger Kernel" (2024), in plain torch.
    """
    loss: Tensor = _ChunkedSoftmax.apply(  # type: ignore[no-untyped-call]
        hidden_MD, weight_VD, bias_V, targets_M, weights_M, chunk_size, torch.is_grad_enabled()
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
        with_gradients: bool,
    ) -> Tensor:
        device = hidden_MD.device.type
        wide, product = accumulator(hidden_MD.dtype), product_dtype(hidden_MD)
        with torch.autocast(device, enabled=False):
            narrow_VD, wide_bias_V = weight_VD.to(product), bias_V.to(wide)
            loss = hidden_MD.new_zeros((), dtype=wide)
            if with_gradients:
                hidden_grad_MD = torch.empty_like(hidden_MD)
                weight_grad_VD = torch.zeros_like(weight_VD, dtype=wide)
                bias_grad_V = torch.zeros_like(bias_V, dtype=wide)
            even_size = even_size_of(len(targets_M), chunk_size)
            for start in range(0, len(targets_M), even_size):
                chunk = slice(start, start + even_size)
                target_M1 = targets_M[chunk, None]
                count = len(target_M1)
                chunk_PD = padded_rows(hidden_MD[chunk], even_size).to(product)
                scores_PV = (chunk_PD @ narrow_VD.T).to(wide).add_(wide_bias_V)
                of_target_M1 = scores_PV[:count].gather(1, target_M1)
                # softmax in place: the scores become their exponentials, then the gradient
                largest_P1 = scores_PV.amax(1, keepdim=True)
                total_P1 = scores_PV.sub_(largest_P1).exp_().sum(1, keepdim=True)
                loss_M1 = (total_P1.log() + largest_P1)[:count] - of_target_M1
                weight_M1 = torch.ones_like(loss_M1)
                if weights_M is not None:
                    weight_M1 = weights_M[chunk, None].to(wide)
                loss += (loss_M1 * weight_M1).sum()
                if with_gradients:
                    # d loss / d scores = weight * (softmax - one at the target)
                    scale_P1 = torch.zeros_like(total_P1)
                    scale_P1[:count] = weight_M1 / total_P1[:count]
                    grad_PV = scores_PV.mul_(scale_P1)
                    grad_PV[:count].scatter_add_(1, target_M1, -weight_M1)
                    bias_grad_V += grad_PV.sum(0)
                    narrow_PV = grad_PV.to(product)
                    hidden_grad_MD[chunk] = (narrow_PV @ narrow_VD)[:count]
                    weight_grad_VD += narrow_PV.T @ chunk_PD
        if with_gradients:
            ctx.save_for_backward(
                hidden_grad_MD, weight_grad_VD.to(weight_VD.dtype), bias_grad_V.to(bias_V.dtype)
            )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad_MD, weight_grad_VD, bias_grad_V = ctx.saved_tensors
        gradients = (hidden_grad_MD * grad, weight_grad_VD * grad, bias_grad_V * grad)
        return (*gradients, None, None, None, None)


def even_size_of(count: int, most: int) -> int:
    """Return the size of as few chunks as have no more than `most`: as even as they can be.

    Inside `fast_products` it is rounded up to one of few, and the last chunk may be padded to it.
    """
    num_chunks = max(1, math.ceil(count / most))
    return max(1, min(most, rounded_rows(math.ceil(count / num_chunks))))


@LOSSES.register("full")
class FullSoftmax(CatalogueLoss):
    """All scores at once; see `full_softmax_loss`."""

    def forward(
        self,
        hidden_MD: Float[Tensor, "M D"],
        weight_VD: Float[Tensor, "V D"],
        bias_V: Float[Tensor, "V"],
        targets_M: Int64[Tensor, "M"],
        weights_M: Float[Tensor, "M"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses."""
        return full_softmax_loss(hidden_MD, weight_VD, bias_V, targets_M, weights_M)


@LOSSES.register("chunked")
class ChunkedSoftmax(CatalogueLoss):
    """A chunk of the targets at a time; see `chunked_softmax_loss`."""

    @dataclass(frozen=True)
    class Options(NoOptions):
        """How many targets are scored at a time, at most."""

        chunk_size: int = DEFAULT_CHUNK

        def __post_init__(self) -> None:
            if self.chunk_size < 1:
                raise ConfigError(f"chunk_size is {self.chunk_size}; it must be at least 1.")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.chunk_size = options.chunk_size

    def forward(
        self,
        hidden_MD: Float[Tensor, "M D"],
        weight_VD: Float[Tensor, "V D"],
        bias_V: Float[Tensor, "V"],
        targets_M: Int64[Tensor, "M"],
        weights_M: Float[Tensor, "M"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses."""
        return chunked_softmax_loss(
            hidden_MD, weight_VD, bias_V, targets_M, weights_M, chunk_size=self.chunk_size
        )


def take(table: Tensor, rows: Tensor, *, sparse: bool, unit: bool = False) -> Tensor:
    """Return rows of a table [V, D], or entries of a vector [V].

    Args:
        table: The table or the vector.
        rows: Which of them.
        sparse: Whether the gradient is a sparse tensor.
        unit: Whether rows of a table are brought to norm 1. It is done to what was taken, so that a
            gradient through it stays sparse.
    """
    if table.ndim == 2:
        taken = F.embedding(rows, table, sparse=sparse)
        return unit_vectors(taken) if unit else taken
    return torch.gather(table, 0, rows.flatten(), sparse_grad=sparse).view(rows.shape)


def unit_vectors(vectors: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    """Return vectors at norm 1; zeros stay zeros, and get no gradient.

    The gradient of a short vector is long. That of the padding's row, which is zero, would be
    endless, and the clipping of gradients would leave nothing of all others.
    """
    wide = vectors.to(accumulator(vectors.dtype))
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide / norm.masked_fill(norm == 0, torch.inf)).to(vectors.dtype)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of softmax and sums: float32, or wider if the input is."""
    return torch.promote_types(dtype, torch.float32)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: autocast's where it is on, else the input's."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
