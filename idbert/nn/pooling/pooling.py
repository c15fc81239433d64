"""The base of all poolings, their table and their settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from idbert.errors import ConfigError, ShapeError
from idbert.nn.parts import NoOptions, read_options
from idbert.nn.registry import Registry


class Pooling(nn.Module):
    """Base of all poolings: the vectors of a sequence become one; padding is never read.

    A subclass sets `width` where it is not the input's, and computes `pool`, which receives
    zeros at padded positions. A sequence without a real position pools to zeros.

    Args:
        input_width: D, the width of the vectors.
        options: An instance of the class's `Options`.

    Shapes:
        hidden_BLD, attention_mask_BL -> pooled [B, width], dtype kept.

    Raises:
        ConfigError: input_width is below 1.
        ShapeError: the vectors have another width than input_width.
    """

    Options: ClassVar[type[NoOptions]] = NoOptions
    """What the pooling can be told; a frozen dataclass."""

    width: int
    """Width of the pooled vector."""

    def __init__(self, input_width: int, options: NoOptions) -> None:
        super().__init__()
        if input_width < 1:
            raise ConfigError(f"A pooling reads vectors of width 1 or more, not {input_width}.")
        self.input_width = input_width
        self.width = input_width

    def forward(
        self,
        hidden_BLD: Float[Tensor, "B L D"],
        attention_mask_BL: Shaped[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B _"]:
        """Return one vector a sequence.

        Args:
            hidden_BLD: The vectors; what stands at padding does not matter.
            attention_mask_BL: Not 0 where a position is real; None where all are.
        """
        if hidden_BLD.shape[-1] != self.input_width:
            raise ShapeError(
                f"{type(self).__name__} was built for vectors of width {self.input_width} and "
                f"received width {hidden_BLD.shape[-1]}."
            )
        if attention_mask_BL is None:
            real_BL = torch.ones(hidden_BLD.shape[:2], dtype=torch.bool, device=hidden_BLD.device)
            return self.pool(hidden_BLD, real_BL)
        real_BL = attention_mask_BL != 0
        return self.pool(hidden_BLD.masked_fill(~real_BL[..., None], 0.0), real_BL)

    def pool(
        self, hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B _"]:
        """Return one vector a sequence; `hidden_BLD` is 0 where `real_BL` is False."""
        raise NotImplementedError


POOLINGS: Registry[type[Pooling]] = Registry("pooling")


@dataclass(frozen=True)
class PoolingSettings:
    """How the vectors of a sequence become one vector."""

    name: str = "mean"
    """cls (the first position), pooler (BERT's: a dense layer and tanh on the first position),
    mean, max, min, mean_max (both, side by side), mix (a learned mixture of the two), attention,
    textcnn (the strongest answer of convolutions over 3, 4 and 5 positions)."""

    options: dict[str, Any] = field(default_factory=dict)
    """What the pooling itself can be told, by name."""

    def __post_init__(self) -> None:
        read_pooling_options(self.name, self.options)


def read_pooling_options(name: str, options: Mapping[str, Any] | None) -> NoOptions:
    """Return the options of the pooling `name`.

    Raises:
        ConfigError: no pooling has this name, or it has no such options.
    """
    return read_options(f"pooling '{name}'", POOLINGS[name].Options, options)


def build_pooling(name: str, input_width: int, options: Mapping[str, Any] | None = None) -> Pooling:
    """Build the pooling registered as `name`.

    Args:
        name: Its name in `POOLINGS`.
        input_width: D, the width of the vectors.
        options: Its options, as plain values.

    Raises:
        ConfigError: no pooling has this name, or the options do not fit it.
    """
    return POOLINGS[name](input_width, read_pooling_options(name, options))
