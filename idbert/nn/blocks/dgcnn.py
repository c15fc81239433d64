"""DGCNN: dilated convolutions, each gated against what it read."""

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from idbert.nn.blocks.block import BLOCKS, Block, zero_padding
from idbert.nn.blocks.checks import check_counts, check_dropout
from idbert.nn.blocks.convolution import SequenceConvolution
from idbert.nn.parts import NoOptions


@BLOCKS.register("dgcnn")
class DGCNN(Block):
    """Dilated gated convolutions.

    For each dilation d: c, s = conv_d(h); g = sigmoid(s); h <- (1 - g) h + g c. Where the widths
    differ, h is first projected: h = W x + b. Source: Su 2018, "DGCNN: a reading comprehension
    model based on CNN" (kexue.fm/archives/5409), the gated convolution with residual.

    Shapes:
        hidden_BLD -> [B, L, width].
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Options of the block."""

        dilations: tuple[int, ...] = (1, 2, 5)
        """Dilation of each convolution."""

        kernel_width: int = 3
        """Positions that a convolution reads."""

        gate_dropout: float | int = 0.1
        """Share of the gates' scores s that are dropped (to 0: the gate stands half open)."""

        def __post_init__(self) -> None:
            check_counts("block 'dgcnn'", dilations=self.dilations, kernel_width=self.kernel_width)
            check_dropout("block 'dgcnn'", gate_dropout=self.gate_dropout)

    supports_causal = True

    def __init__(
        self, input_width: int, width: int | None, options: Options, *, is_causal: bool
    ) -> None:
        super().__init__(input_width, width, options, is_causal=is_causal)
        self.projection = (
            nn.Identity() if self.width == input_width else nn.Linear(input_width, self.width)
        )
        self.convolutions = nn.ModuleList(
            SequenceConvolution(
                self.width, 2 * self.width, options.kernel_width, dilation, is_causal=is_causal
            )
            for dilation in options.dilations
        )
        self.gate_dropout = nn.Dropout(options.gate_dropout)

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], attention_mask_BL: Shaped[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L _"]:
        """Return the states behind the last gate."""
        output_BLD = self.projection(zero_padding(hidden_BLD, attention_mask_BL))
        for convolve in self.convolutions:
            new_BLD, score_BLD = convolve(output_BLD, attention_mask_BL).chunk(2, dim=-1)
            gate_BLD = self.gate_dropout(score_BLD).sigmoid()
            output_BLD = (1 - gate_BLD) * output_BLD + gate_BLD * new_BLD
        return zero_padding(output_BLD, attention_mask_BL)
