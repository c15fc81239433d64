"""A convolution over positions that never reads padding, and the block of several widths."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from idbert.errors import ConfigError
from idbert.nn.blocks.block import BLOCKS, Block, zero_padding
from idbert.nn.blocks.checks import check_counts, check_dropout
from idbert.nn.parts import NoOptions


class SequenceConvolution(nn.Module):
    """A convolution that keeps the length; padding and what lies outside count as zero.

    out_t = b + sum_k W_k x_(t + (k - o) d), for k from 0 to K - 1, with dilation d and o the
    positions before t: (K - 1) // 2 of them, or all K - 1 in a causal convolution.

    Padding is made zero here, at every layer: a layer before has written its bias there, and a
    dilated convolution would carry it far into the row.

    Args:
        input_width: D, the width of the states.
        width: Width of the result.
        kernel_width: K, positions that one position reads.
        dilation: d, the step from one of them to the next.
        is_causal: Whether the positions read are t and those before it.

    Shapes:
        hidden_BLD -> [B, L, width].
    """

    def __init__(
        self, input_width: int, width: int, kernel_width: int, dilation: int = 1, *, is_causal: bool
    ) -> None:
        super().__init__()
        before = kernel_width - 1 if is_causal else (kernel_width - 1) // 2
        self.margins = (before * dilation, (kernel_width - 1 - before) * dilation)
        self.convolution = nn.Conv1d(input_width, width, kernel_width, dilation=dilation)

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], attention_mask_BL: Shaped[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L _"]:
        """Return the convolved states; at padding they mean nothing."""
        real_BDL = zero_padding(hidden_BLD, attention_mask_BL).transpose(1, 2)
        convolved_BDL: Tensor = self.convolution(functional.pad(real_BDL, self.margins))
        return convolved_BDL.transpose(1, 2)


@BLOCKS.register("textcnn")
class TextCNN(Block):
    """Convolutions of several widths side by side, one vector a position.

    out_t = [relu(conv_k(x))_t for each kernel width k]. The width is divided among them as evenly
    as it can be, the first taking what is left over. Source: Kim 2014 (arXiv:1408.5882), without
    its maximum over time.

    Shapes:
        hidden_BLD -> [B, L, width].

    Raises:
        ConfigError: the width is less than the number of kernel widths.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Options of the block."""

        kernel_widths: tuple[int, ...] = (3, 4, 5)
        """Positions that each convolution reads."""

        dropout: float | int = 0.0
        """Share of values dropped at the end."""

        def __post_init__(self) -> None:
            check_counts("block 'textcnn'", kernel_widths=self.kernel_widths)
            check_dropout("block 'textcnn'", dropout=self.dropout)

    supports_causal = True

    def __init__(
        self, input_width: int, width: int | None, options: Options, *, is_causal: bool
    ) -> None:
        super().__init__(input_width, width, options, is_causal=is_causal)
        share, left_over = divmod(self.width, len(options.kernel_widths))
        if not share:
            raise ConfigError(
                f"The block 'textcnn' divides its width among {len(options.kernel_widths)} kernel "
                f"widths, and {self.width} is too small. Choose a greater width."
            )
        self.convolutions = nn.ModuleList(
            SequenceConvolution(
                input_width, share + (number < left_over), kernel_width, is_causal=is_causal
            )
            for number, kernel_width in enumerate(options.kernel_widths)
        )
        self.dropout = nn.Dropout(options.dropout)

    def forward(
        self, hidden_BLD: Float[Tensor, "B L D"], attention_mask_BL: Shaped[Tensor, "B L"] | None
    ) -> Float[Tensor, "B L _"]:
        """Return what the convolutions found at each position, side by side."""
        found = [convolve(hidden_BLD, attention_mask_BL) for convolve in self.convolutions]
        return zero_padding(self.dropout(torch.cat(found, dim=-1).relu()), attention_mask_BL)
