"""The strongest answers of convolutions."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.parts import NoOptions
from idbert.nn.pooling.over_positions import max_over_positions
from idbert.nn.pooling.pooling import POOLINGS, Pooling


@POOLINGS.register("textcnn")
class TextCnnPooling(Pooling):
    """max_i relu(W_k [h_i-(k-1)//2 ; ... ; h_i+k//2] + b_k), for each window width k, side by side.

    Positions beyond either end of a sequence count as zeros, so that a sequence shorter than the
    widest window has an answer too.

    Source: Kim 2014, "Convolutional Neural Networks for Sentence Classification", there without
    the windows that reach beyond the ends.

    Shapes:
        hidden_BLD -> pooled [B, channels * number of widths].
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """The convolutions."""

        kernel_sizes: tuple[int, ...] = (3, 4, 5)
        """Positions that a convolution sees at a time, one number a convolution."""

        channels: int = 100
        """Answers of each convolution."""

        def __post_init__(self) -> None:
            if not self.kernel_sizes or min(self.kernel_sizes) < 1:
                raise ConfigError(
                    f"kernel_sizes of the textcnn pooling are {self.kernel_sizes}; give one or "
                    "more numbers of at least 1."
                )
            if len(set(self.kernel_sizes)) < len(self.kernel_sizes):
                raise ConfigError(
                    f"kernel_sizes of the textcnn pooling are {self.kernel_sizes}: one stands "
                    "there twice. Name each once, and raise channels instead."
                )
            if self.channels < 1:
                raise ConfigError(
                    f"channels of the textcnn pooling is {self.channels}; it must be at least 1."
                )

    def __init__(self, input_width: int, options: Options) -> None:
        super().__init__(input_width, options)
        self.kernel_sizes = options.kernel_sizes
        self.width = options.channels * len(options.kernel_sizes)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(input_width, options.channels, size) for size in options.kernel_sizes
        )

    def pool(
        self, hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B _"]:
        """Return the strongest answer of each convolution in each sequence."""
        hidden_BDL = hidden_BLD.transpose(1, 2)
        pooled = []
        for size, convolution in zip(self.kernel_sizes, self.convolutions, strict=True):
            answers_BDL = convolution(F.pad(hidden_BDL, ((size - 1) // 2, size // 2))).relu()
            pooled.append(max_over_positions(answers_BDL.transpose(1, 2), real_BL))
        return torch.cat(pooled, dim=-1)
