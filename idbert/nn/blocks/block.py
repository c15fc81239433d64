"""A block: a module that reads the states of a sequence and gives one vector a position.

Blocks stand behind the encoder, round which a residual wrapper may be laid. They are found by name;
one more is a class and a registration:

    @BLOCKS.register("dense")
    class Dense(Block):
        supports_causal = True

        def __init__(self, input_width, width, options, *, is_causal):
            super().__init__(input_width, width, options, is_causal=is_causal)
            self.dense = nn.Linear(self.input_width, self.width)

        def forward(self, hidden_BLD, attention_mask_BL):
            return self.dense(zero_padding(hidden_BLD, attention_mask_BL))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.parts import NoOptions, read_options
from idbert.nn.registry import Registry

NO_BLOCK = "none"
"""The name that stands for no block at all."""


@dataclass(frozen=True)
class BlockSettings:
    """Which block stands behind the encoder."""

    name: str = NO_BLOCK
    """none, bilstm, bigru, lstm, gru, transformer, textcnn, idcnn, dgcnn, rtransformer or tener;
    or a block registered from outside."""

    width: int | None = None
    """Width of the vectors that the block gives. Default: the width that it reads."""

    options: dict[str, Any] = field(default_factory=dict)
    """Further options of the block, such as {"num_layers": 2}."""

    def __post_init__(self) -> None:
        check_width(self.name, self.width)
        if self.name != NO_BLOCK:
            read_block_options(self.name, self.options)
        elif self.width is not None or self.options:
            raise ConfigError(
                "A block's width and options cannot act without a block. "
                "Name a block, or leave them out."
            )


class Block(nn.Module):
    """Base of all blocks.

    What a real position receives never depends on padding, neither on how much there is nor on
    the values in it, nor on the other rows of the batch; at padding the output is zero.

    Args:
        input_width: D, the width of the states that the block reads.
        width: Width of the vectors that it gives; None for `input_width`.
        options: An object of the class's `Options`.
        is_causal: Whether a position may read only itself and those before it.

    Shapes:
        hidden_BLD -> [B, L, width].

    Raises:
        ConfigError: a width is not positive.
    """

    Options: ClassVar[type[NoOptions]] = NoOptions
    """The block's options; a frozen dataclass in a subclass."""

    supports_causal: ClassVar[bool] = False
    """False for a block that looks ahead whatever it is told: a causal model refuses it."""

    def __init__(
        self, input_width: int, width: int | None, options: NoOptions, *, is_causal: bool
    ) -> None:
        super().__init__()
        check_width(type(self).__name__, input_width)
        check_width(type(self).__name__, width)
        self.input_width = input_width
        self.width = width or input_width
        self.options = options
        self.is_causal = is_causal

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], attention_mask_BL: Shaped[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L _"]:
        """Return one vector of the block's width for each position.

        Args:
            hidden_BLD: The states of a sequence.
            attention_mask_BL: Not zero at real positions; None where all are real.
        """
        raise NotImplementedError


BLOCKS: Registry[type[Block]] = Registry("block")


def build_block(
    name: str,
    input_width: int,
    width: int | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    is_causal: bool = False,
) -> Block:
    """Build the block registered as `name`; arguments as for `Block`, options as plain values.

    Raises:
        ConfigError: no block has this name, the options or widths do not fit it, or it looks ahead
            and `is_causal` is set.
    """
    block = BLOCKS[name]
    if is_causal and not block.supports_causal:
        causal = ", ".join(other for other in BLOCKS if BLOCKS[other].supports_causal)
        raise ConfigError(
            f"The block '{name}' reads later positions, which a causal model must not see. "
            f"Choose one that can look back only: {causal}."
        )
    return block(input_width, width, read_block_options(name, options), is_causal=is_causal)


def read_block_options(name: str, options: Mapping[str, Any] | None) -> NoOptions:
    """Turn plain values into the options of the block registered as `name`.

    Raises:
        ConfigError: no block has this name, or an option is unknown, of the wrong type or out of
            range.
    """
    return read_options(f"block '{name}'", BLOCKS[name].Options, options)


def check_width(name: str, width: int | None) -> None:
    """Check that a width is None or positive.

    Raises:
        ConfigError: it is neither.
    """
    if width is not None and width < 1:
        raise ConfigError(f"The block '{name}' must have a width of at least 1, not {width}.")


def zero_padding(
    hidden_BLD: Float[Tensor, "B L D"], attention_mask_BL: Shaped[Tensor, "B L"] | None
) -> Float[Tensor, "B L D"]:
    """Return the states with zeros at padding, whatever stood there, not-a-number included."""
    if attention_mask_BL is None:
        return hidden_BLD
    return hidden_BLD.masked_fill(~attention_mask_BL.bool()[:, :, None], 0.0)
