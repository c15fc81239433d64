"""A learned mixture of mean and maximum."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from idbert.nn.parts import NoOptions
from idbert.nn.pooling.over_positions import max_over_positions, mean_over_positions
from idbert.nn.pooling.pooling import POOLINGS, Pooling


@POOLINGS.register("mix")
class MixPooling(Pooling):
    """w_1 * mean + w_2 * max, with learned weights.

    softmax: w = softmax(v), two numbers for all rows; starts as the plain average of the two.
    free: two numbers without softmax, 1/2 each at the start; their scale is learned too.
    dense: w = softmax over the two of u . pooled, so that each row sets its own weights, with one
    vector u for mean and maximum (a bias would cancel in the softmax).

    Source: Lee, Gallagher & Tu 2016, "Generalizing Pooling Functions": "mixed" and "gated"
    pooling, with the gate on what is pooled.

    Shapes:
        hidden_BLD -> pooled_BD.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Where the weights come from."""

        weights: Literal["softmax", "free", "dense"] = "softmax"
        """softmax (two weights that sum to one), free (two weights), dense (by row)."""

    def __init__(self, input_width: int, options: Options) -> None:
        super().__init__(input_width, options)
        self.form = options.weights
        if self.form == "dense":
            self.score = nn.Linear(input_width, 1, bias=False)
            nn.init.normal_(self.score.weight, std=0.02)
        else:
            self.mix_weights = nn.Parameter(torch.full((2,), 0.5))

    def pool(
        self, hidden_BLD: Float[Tensor, "B L D"], real_BL: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B D"]:
        """Return the weighted sum of mean and maximum of each sequence."""
        mean_BD = mean_over_positions(hidden_BLD, real_BL)
        max_BD = max_over_positions(hidden_BLD, real_BL)
        if self.form == "dense":
            scores_B2 = torch.cat([self.score(mean_BD), self.score(max_BD)], dim=-1)
            weight_B2 = scores_B2.softmax(dim=-1)
            return weight_B2[:, :1] * mean_BD + weight_B2[:, 1:] * max_BD
        is_softmax = self.form == "softmax"
        weights = self.mix_weights.softmax(dim=0) if is_softmax else self.mix_weights
        return weights[0] * mean_BD + weights[1] * max_BD
