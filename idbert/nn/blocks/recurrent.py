"""LSTM and GRU blocks, in both directions or one."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.blocks.block import BLOCKS, Block, zero_padding
from idbert.nn.blocks.checks import check_counts, check_divisible, check_dropout
from idbert.nn.parts import NoOptions


@dataclass(frozen=True)
class RecurrentOptions(NoOptions):
    """Options of the recurrent blocks."""

    num_layers: int = 1
    """Layers; each reads all directions of the one below."""

    dropout: float | int = 0.0
    """Share of values dropped between two layers."""

    layer_norm: bool = False
    """Whether a LayerNorm stands at the end."""

    def __post_init__(self) -> None:
        check_counts("recurrent block", num_layers=self.num_layers)
        check_dropout("recurrent block", dropout=self.dropout)
        if self.dropout and self.num_layers == 1:
            raise ConfigError(
                f"The recurrent block drops values between layers, so dropout={self.dropout} "
                "cannot act on one layer. Leave it out, or set num_layers."
            )


class RecurrentBlock(Block):
    """Base of the recurrent blocks: directions of layers of cells.

    Each direction reads the real positions of a row in its own order, from the first or from the
    last, with padding put behind them, wherever it stood: no state passes from padding to a real
    position. That equals running over packed sequences, and took a third of their time for LSTMs
    and two thirds for GRUs on a CPU (32 x 128 positions, width 384).

    Raises:
        ConfigError: the width cannot be divided among the directions.
    """

    Options = RecurrentOptions
    cell: ClassVar[type[nn.LSTM] | type[nn.GRU]]
    backward_flags: ClassVar[tuple[bool, ...]]
    """For each direction, whether it reads from the last position to the first."""

    def __init__(
        self, input_width: int, width: int | None, options: RecurrentOptions, *, is_causal: bool
    ) -> None:
        super().__init__(input_width, width, options, is_causal=is_causal)
        num_directions = len(self.backward_flags)
        check_divisible("recurrent block", self.width, num_directions, "directions")
        self.layers = nn.ModuleList(
            nn.ModuleList(
                self.cell(
                    self.width if layer else input_width,
                    self.width // num_directions,
                    batch_first=True,
                )
                for _ in range(num_directions)
            )
            for layer in range(options.num_layers)
        )
        self.dropout = nn.Dropout(options.dropout)
        self.norm = nn.LayerNorm(self.width) if options.layer_norm else nn.Identity()

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], attention_mask_BL: Shaped[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L _"]:
        """Return the states of all directions of the last layer, side by side."""
        if attention_mask_BL is None:
            real_BL = torch.ones(hidden_BLD.shape[:2], dtype=torch.bool, device=hidden_BLD.device)
        else:
            real_BL = attention_mask_BL.bool()
        orders = [reading_order(real_BL, backward=flag) for flag in self.backward_flags]
        output_BLD = zero_padding(hidden_BLD, real_BL)
        for number, directions in enumerate(self.layers):
            if number:
                output_BLD = self.dropout(output_BLD)
            assert isinstance(directions, nn.ModuleList)
            outputs = [
                read_in_order(cell, output_BLD, order_BL)
                for cell, order_BL in zip(directions, orders, strict=True)
            ]
            output_BLD = torch.cat(outputs, dim=-1)
        return zero_padding(self.norm(output_BLD), real_BL)


@BLOCKS.register("bilstm")
class BiLSTM(RecurrentBlock):
    """A bidirectional LSTM; half of the width for each direction.

    i, f, o = sigmoid(W x_t + U h + b); g = tanh(W' x_t + U' h + b'); c <- f c + i g;
    h <- o tanh(c). Source: Graves and Schmidhuber 2005.

    Shapes:
        hidden_BLD -> [B, L, width].

    Raises:
        ConfigError: the width is odd.
    """

    cell = nn.LSTM
    backward_flags = (False, True)


@BLOCKS.register("bigru")
class BiGRU(RecurrentBlock):
    """A bidirectional GRU; half of the width for each direction.

    r, z = sigmoid(W x_t + U h + b); n = tanh(W' x_t + b' + r (U' h + b'')); h <- (1 - z) n + z h.
    Source: Cho et al. 2014 (arXiv:1406.1078), as torch computes it.

    Shapes:
        hidden_BLD -> [B, L, width].

    Raises:
        ConfigError: the width is odd.
    """

    cell = nn.GRU
    backward_flags = (False, True)


@BLOCKS.register("lstm")
class ForwardLSTM(RecurrentBlock):
    """An LSTM that reads forward only; see `BiLSTM`.

    Shapes:
        hidden_BLD -> [B, L, width].
    """

    cell = nn.LSTM
    backward_flags = (False,)
    supports_causal = True


@BLOCKS.register("gru")
class ForwardGRU(RecurrentBlock):
    """A GRU that reads forward only; see `BiGRU`.

    Shapes:
        hidden_BLD -> [B, L, width].
    """

    cell = nn.GRU
    backward_flags = (False,)
    supports_causal = True


def reading_order(real_BL: Bool[Tensor, "B L"], *, backward: bool) -> Int64[Tensor, "B L"]:
    """Return the positions of each row as they are read: real ones in order, then padding."""
    length = real_BL.shape[1]
    position_L = torch.arange(length, device=real_BL.device)
    key_L = -position_L if backward else position_L
    return torch.where(real_BL, key_L, length).argsort(dim=1, stable=True)


def read_in_order(
    cell: nn.Module, hidden_BLD: Float[Tensor, "B L D"], order_BL: Int64[Tensor, "B L"]
) -> Float[Tensor, "B L _"]:
    """Run a recurrent module over the positions in an order; give its states in their own."""
    ordered_BLD = hidden_BLD.gather(1, order_BL[:, :, None].expand_as(hidden_BLD))
    if isinstance(cell, nn.LSTM) and _lacks_narrow_lstm(ordered_BLD):
        with torch.autocast("cpu", enabled=False):
            states_BLD: Tensor = cell(ordered_BLD.float())[0]
    else:
        states_BLD = cell(ordered_BLD)[0]
    back_BL = order_BL.argsort(dim=1)
    return states_BLD.gather(1, back_BL[:, :, None].expand_as(states_BLD))


def _lacks_narrow_lstm(hidden_BLD: Tensor) -> bool:
    """Say whether autocast would ask for an LSTM in bfloat16 that the processor does not have."""
    return (
        hidden_BLD.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.backends.cpu.get_cpu_capability() != "AVX512"
    )
