"""IDCNN: one stack of dilated convolutions, applied again and again."""

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from idbert.nn.blocks.block import BLOCKS, Block, zero_padding
from idbert.nn.blocks.checks import check_counts, check_dropout
from idbert.nn.blocks.convolution import SequenceConvolution
from idbert.nn.parts import NoOptions


@BLOCKS.register("idcnn")
class IDCNN(Block):
    """Iterated dilated convolutions: wide context from few parameters.

    h = conv_1(x); then, `iterations` times with the same weights: for each dilation d,
    h <- norm(relu(conv_d(h))). The norm is a LayerNorm over the width of one position (so that the
    length is free), and can be left out. Source: Strubell et al. 2017 (arXiv:1702.02098), which has
    no norm.

    Shapes:
        hidden_BLD -> [B, L, width].
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Options of the block."""

        dilations: tuple[int, ...] = (1, 1, 2)
        """Dilation of each convolution of the stack."""

        iterations: int = 4
        """How often the stack is applied."""

        kernel_width: int = 3
        """Positions that a convolution reads."""

        dropout: float | int = 0.0
        """Share of values dropped after each iteration."""

        layer_norm: bool = True
        """Whether a LayerNorm follows each convolution of the stack."""

        def __post_init__(self) -> None:
            check_counts(
                "block 'idcnn'",
                dilations=self.dilations,
                iterations=self.iterations,
                kernel_width=self.kernel_width,
            )
            check_dropout("block 'idcnn'", dropout=self.dropout)

    supports_causal = True

    def __init__(
        self, input_width: int, width: int | None, options: Options, *, is_causal: bool
    ) -> None:
        super().__init__(input_width, width, options, is_causal=is_causal)
        self.iterations = options.iterations
        self.first = SequenceConvolution(
            input_width, self.width, options.kernel_width, is_causal=is_causal
        )
        self.convolutions = nn.ModuleList(
            SequenceConvolution(
                self.width, self.width, options.kernel_width, dilation, is_causal=is_causal
            )
            for dilation in options.dilations
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(self.width) if options.layer_norm else nn.Identity()
            for _ in options.dilations
        )
        self.dropout = nn.Dropout(options.dropout)

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], attention_mask_BL: Shaped[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L _"]:
        """Return the states after the last iteration."""
        output_BLD = self.first(hidden_BLD, attention_mask_BL)
        for _ in range(self.iterations):
            for convolve, norm in zip(self.convolutions, self.norms, strict=True):
                output_BLD = norm(convolve(output_BLD, attention_mask_BL).relu())
            output_BLD = self.dropout(output_BLD)
        return zero_padding(output_BLD, attention_mask_BL)
