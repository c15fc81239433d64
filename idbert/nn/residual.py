"""The residual wrapper: a path past a block, of any widths.

A block f behind a trained encoder starts from random weights, and alone it hides what the encoder
already knows. A path round it hands the encoder's states on beside it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from idbert.errors import ConfigError, suggestion
from idbert.nn.blocks import Block

ResidualMode = Literal["none", "sum", "projected", "concat"]
RESIDUAL_MODES: tuple[str, ...] = get_args(ResidualMode)


@dataclass(frozen=True)
class ResidualSettings:
    """How a block's output is joined with its input."""

    name: ResidualMode = "sum"
    """sum: x + f(x), of equal widths; projected: Wx + f(x), of any widths; concat: [x; f(x)], side
    by side; none: f(x) alone."""

    gate: bool = False
    """Whether f(x) is scaled by a learned gate, different for every position and component."""

    def __post_init__(self) -> None:
        check_residual(self.name, self.gate)


class ResidualWrapper(nn.Module):
    """A block, and a path past it.

    With x the input and f(x) the block's output, and W learned, without a bias:

        none: f(x)    sum: x + f(x)    projected: Wx + f(x)    concat: [x; f(x)]

    With a gate f(x) is replaced by g * f(x), g = sigmoid(G [x; f(x)] + b), in each component.
    Sources: He et al. 2016 (sum, projected); Srivastava et al. 2015, "Highway Networks" (the gate).

    Args:
        block: f.
        input_width: Width of x.
        mode: One of RESIDUAL_MODES.
        gate: Whether f(x) is gated.

    Shapes:
        hidden_BLD -> [B, L, width].

    Raises:
        ConfigError: the widths do not fit the mode, or the gate cannot act.
    """

    def __init__(
        self, block: Block, input_width: int, mode: str = "sum", gate: bool = False
    ) -> None:
        super().__init__()
        check_residual(mode, gate)
        if mode == "sum" and block.width != input_width:
            raise ConfigError(
                f"x + f(x) needs equal widths, and {type(block).__name__} makes {block.width} out "
                f"of {input_width}. Set the residual to projected or concat, or leave the block's "
                "width out."
            )
        self.block = block
        self.mode = mode
        self.width = block.width + (input_width if mode == "concat" else 0)
        """Width of the result."""
        self.projection = (
            nn.Linear(input_width, block.width, bias=False) if mode == "projected" else None
        )
        self.gate = nn.Linear(input_width + block.width, block.width) if gate else None

    def forward(
        self,
        hidden_BLD: Float[Tensor, "B L D"],
        attention_mask_BL: Shaped[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B L _"]:
        """Return input and block output, joined.

        Args:
            hidden_BLD: x.
            attention_mask_BL: Not zero at real positions; None where all are real.
        """
        output_BLX: Tensor = self.block(hidden_BLD, attention_mask_BL)
        if self.gate is not None:
            both_BLX = torch.cat([hidden_BLD, output_BLX], dim=-1)
            output_BLX = self.gate(both_BLX).sigmoid() * output_BLX
        if self.mode == "none":
            return output_BLX
        if self.mode == "concat":
            return torch.cat([hidden_BLD, output_BLX], dim=-1)
        past_BLX: Tensor = hidden_BLD if self.projection is None else self.projection(hidden_BLD)
        return past_BLX + output_BLX


def check_residual(mode: str, gate: bool) -> None:
    """Check that the mode exists and that a gate can act in it.

    Raises:
        ConfigError: it does not, or cannot.
    """
    if mode not in RESIDUAL_MODES:
        raise ConfigError(
            f"There is no residual '{mode}'.{suggestion(mode, RESIDUAL_MODES)} "
            f"Choose from: {', '.join(RESIDUAL_MODES)}."
        )
    if mode == "none" and gate:
        raise ConfigError(
            "The residual gate weighs a block against the path past it, and residual 'none' has "
            "no such path. Leave the gate out, or choose sum, projected or concat."
        )
