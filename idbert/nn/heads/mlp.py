"""A multilayer perceptron."""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.heads.head import HEADS, Head, build_activation
from idbert.nn.heads.options import LayersOptions, check_least


@HEADS.register("mlp")
class MlpHead(Head):
    """Dense layers with an activation between them, and a linear layer on top.

    Shapes:
        pooled_BD -> logits_BC.
    """

    @dataclass(frozen=True)
    class Options(LayersOptions):
        """The hidden layers."""

        hidden_sizes: tuple[int, ...] | None = None
        """Width of each hidden layer, from below. Default: one of the input's width."""

        def __post_init__(self) -> None:
            super().__post_init__()
            check_least("hidden_sizes", 1, *(self.hidden_sizes or ()))
            if self.hidden_sizes == ():
                raise ConfigError(
                    "hidden_sizes of the head 'mlp' is empty. Give one width or more, or choose "
                    "the head 'linear'."
                )

    def __init__(self, input_width: int, num_outputs: int, options: Options) -> None:
        super().__init__(input_width, num_outputs, options)
        widths = (input_width, *(options.hidden_sizes or (input_width,)))
        self.layers = nn.ModuleList(nn.Linear(below, above) for below, above in pairwise(widths))
        self.activation = build_activation(options.activation)
        self.dropout = nn.Dropout(options.inner_dropout)
        self.output = nn.Linear(widths[-1], num_outputs)

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the logits of each row."""
        hidden = pooled_BD
        for layer in self.layers:
            hidden = self.dropout(self.activation(layer(hidden)))
        logits_BC: Tensor = self.output(hidden)
        return logits_BC
