"""A weighted mean whose weights each position scores for itself."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.parts import NoOptions
from idbert.nn.pooling.pooling import POOLINGS, Pooling


@POOLINGS.register("attention")
class AttentionPooling(Pooling):
    """sum_i softmax over i of (v . tanh(W h_i + b)) * h_i, over the real positions.

    Source: Yang et al. 2016, "Hierarchical Attention Networks", equations 5 to 7.

    Shapes:
        hidden_BLD -> pooled_BD.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """The width of the scores' hidden layer."""

        hidden_size: int | None = None
        """Rows of W. Default: the width of the vectors."""

        def __post_init__(self) -> None:
            if self.hidden_size is not None and self.hidden_size < 1:
                raise ConfigError(
                    f"hidden_size of the attention pooling is {self.hidden_size}; it must be at "
                    "least 1."
                )

    def __init__(self, input_width: int, options: Options) -> None:
        super().__init__(input_width, options)
        hidden_size = options.hidden_size or input_width
        self.dense = nn.Linear(input_width, hidden_size)
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def pool(
        self, hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B D"]:
        """Return the weighted mean of each sequence."""
        score_BL: Tensor = self.score(self.dense(hidden_BLD).tanh()).squeeze(-1)
        score_BL = score_BL.masked_fill(~real_BL, torch.finfo(score_BL.dtype).min)
        weight_BL = score_BL.softmax(dim=1)
        return torch.einsum("bl,bld->bd", weight_BL.to(hidden_BLD.dtype), hidden_BLD)
