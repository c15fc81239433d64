"""A multilayer perceptron whose layers read all before them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from idbert.nn.heads.head import HEADS, Head, build_activation
from idbert.nn.heads.options import LayersOptions, check_least


@HEADS.register("dense_mlp")
class DenseMlpHead(Head):
    """h_n = activation(W_n [x ; h_1 ; ... ; h_{n-1}] + b_n); logits = V [x ; h_1 ; ... ; h_N] + c.

    Source: Huang et al. 2017, "Densely Connected Convolutional Networks", with dense layers.

    Shapes:
        pooled_BD -> logits_BC.
    """

    @dataclass(frozen=True)
    class Options(LayersOptions):
        """The layers."""

        num_layers: int = 2
        """Layers."""

        growth: int = 64
        """Width that each layer adds to what the next ones read."""

        def __post_init__(self) -> None:
            super().__post_init__()
            check_least("num_layers", 1, self.num_layers)
            check_least("growth", 1, self.growth)

    def __init__(self, input_width: int, num_outputs: int, options: Options) -> None:
        super().__init__(input_width, num_outputs, options)
        self.layers = nn.ModuleList(
            nn.Linear(input_width + n * options.growth, options.growth)
            for n in range(options.num_layers)
        )
        self.activation = build_activation(options.activation)
        self.dropout = nn.Dropout(options.inner_dropout)
        self.output = nn.Linear(input_width + options.num_layers * options.growth, num_outputs)

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the logits of each row."""
        hidden = pooled_BD
        for layer in self.layers:
            hidden = torch.cat([hidden, self.dropout(self.activation(layer(hidden)))], dim=-1)
        logits_BC: Tensor = self.output(hidden)
        return logits_BC
