"""Losses over the whole catalogue: which of all items stands at this position?

A loss is found by name; one more is a class and a registration:

    @LOSSES.register("focal")
    class FocalSoftmax(CatalogueLoss): ...
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.losses.softmax import (
    accumulator,
    chunked_softmax_loss,
    even_size_of,
    full_softmax_loss,
    product_dtype,
    usual_chunk,
)
from idbert.nn.parts import NoOptions, read_options
from idbert.nn.registry import Registry

__all__ = [
    "LOSSES",
    "CatalogueLoss",
    "ChunkedSoftmax",
    "FullSoftmax",
    "LossSettings",
    "accumulator",
    "build_loss",
    "check_negatives",
    "chunked_softmax_loss",
    "even_size_of",
    "full_softmax_loss",
    "product_dtype",
    "take",
    "unit_vectors",
    "usual_chunk",
]


class CatalogueLoss(nn.Module):
    """Base of the losses over a catalogue; `forward` of the subclass computes them.

    Args:
        options: Of the class's own `Options`.

    Attributes:
        options: As given.
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
        self.options = options
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
    fraction of the memory), sampled (softmax over a sample, corrected for its
    distribution), gbce (binary and calibrated, against negatives of each target's own), bce (the
    same, plain)."""

    options: dict[str, Any] = field(default_factory=dict)
    """What the loss can be told. full, chunked: label_smoothing, the share of a target that is
    spread evenly over all items (0); the other losses never see all items. chunked: chunk_size, the
    targets scored at a time (what a CPU's caches hold, 64 to 1024; else 1024). sampled: negatives
    (1024), shared (true; false: each target has its own) and distribution (log_uniform; uniform,
    popularity with its power of 0.75, in_batch, mixed). gbce: negatives (256) and calibration
    (0.75). bce: negatives (1)."""

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


def check_negatives(settings: LossSettings, num_items: int) -> None:
    """Check that a loss is not told to draw more negatives than there are items.

    They would be right, since they are drawn with replacement and counted as often as they come;
    but each step would cost more than one over all items, which is exact. A number that nobody has
    given is left alone, so that a trial on few items runs.

    Raises:
        ConfigError: it is.
    """
    negatives = settings.options.get("negatives")
    if negatives is not None and negatives > num_items:
        raise ConfigError(
            f"loss '{settings.name}': negatives is {negatives:,}, and the catalogue has "
            f"{num_items:,} items. Draw at most as many, or choose the loss chunked, which "
            "compares with all items exactly and costs less."
        )


def _options_of(settings: LossSettings) -> NoOptions:
    return read_options(f"loss '{settings.name}'", LOSSES[settings.name].Options, settings.options)


@dataclass(frozen=True)
class SmoothingOptions(NoOptions):
    """How sure a target is; see `full_softmax_loss`."""

    label_smoothing: float = 0.0
    """Share of a target that is spread evenly over all items, from 0 to below 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"label_smoothing is {self.label_smoothing}; it must be from 0 to below 1."
            )


@LOSSES.register("full")
class FullSoftmax(CatalogueLoss):
    """All scores at once; see `full_softmax_loss`."""

    Options = SmoothingOptions

    def __init__(self, options: SmoothingOptions) -> None:
        super().__init__(options)
        self._smoothing = options.label_smoothing

    def forward(
        self,
        hidden_MD: Float[Tensor, "M D"],
        weight_VD: Float[Tensor, "V D"],
        bias_V: Float[Tensor, "V"],
        targets_M: Int64[Tensor, "M"],
        weights_M: Float[Tensor, "M"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses."""
        return full_softmax_loss(
            hidden_MD,
            weight_VD,
            bias_V,
            targets_M,
            weights_M,
            label_smoothing=self._smoothing,
            first_row=self.first_row,
        )


@LOSSES.register("chunked")
class ChunkedSoftmax(CatalogueLoss):
    """A chunk of the targets at a time; see `chunked_softmax_loss`."""

    @dataclass(frozen=True)
    class Options(SmoothingOptions):
        """How sure a target is, and how many are scored at a time, at most."""

        chunk_size: int | None = None
        """Default: on a CPU what the cores' caches hold, 64 to 1,024; else 1,024."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.chunk_size is not None and self.chunk_size < 1:
                raise ConfigError(f"chunk_size is {self.chunk_size}; it must be at least 1.")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.chunk_size, self._smoothing = options.chunk_size, options.label_smoothing

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
            hidden_MD,
            weight_VD,
            bias_V,
            targets_M,
            weights_M,
            chunk_size=self.chunk_size,
            label_smoothing=self._smoothing,
            first_row=self.first_row,
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
    unit: Tensor = wide / norm.masked_fill(norm == 0, torch.inf)
    return unit.to(vectors.dtype)
