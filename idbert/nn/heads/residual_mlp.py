"""A multilayer perceptron with shortcuts."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from idbert.nn.heads.head import HEADS, Head, build_activation
from idbert.nn.heads.options import LayersOptions, check_least


class ResidualLayer(nn.Module):
    """x + dropout(W_2 activation(W_1 LayerNorm(x) + b_1) + b_2).

    Args:
        width: D, the width of x.
        hidden_size: Rows of W_1.
        activation: Its name in transformers.
        dropout: Share dropped of what is added.
    """

    def __init__(self, width: int, hidden_size: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, hidden_size)
        self.activation = build_activation(activation)
        self.outer = nn.Linear(hidden_size, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return the sum of the input and what the layer makes of it."""
        change_BD: Tensor = self.outer(self.activation(self.inner(self.norm(x_BD))))
        sum_BD: Tensor = x_BD + self.dropout(change_BD)
        return sum_BD


@HEADS.register("residual_mlp")
class ResidualMlpHead(Head):
    """Dense layers that each add to the pooled vector, then LayerNorm and a linear layer.

    h_{n+1} = h_n + W_2 activation(W_1 LayerNorm(h_n) + b_1) + b_2.

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", the pre-activation form,
    with dense layers.

    Shapes:
        pooled_BD -> logits_BC.
    """

    @dataclass(frozen=True)
    class Options(LayersOptions):
        """The residual layers."""

        num_layers: int = 2
        """Residual layers."""

        hidden_size: int | None = None
        """Width inside each of them. Default: the input's width."""

        def __post_init__(self) -> None:
            super().__post_init__()
            check_least("num_layers", 1, self.num_layers)
            check_least("hidden_size", 1, self.hidden_size)

    def __init__(self, input_width: int, num_outputs: int, options: Options) -> None:
        super().__init__(input_width, num_outputs, options)
        self.layers = nn.Sequential(
            *(
                ResidualLayer(
                    input_width,
                    options.hidden_size or input_width,
                    options.activation,
                    options.inner_dropout,
                )
                for _ in range(options.num_layers)
            )
        )
        self.norm = nn.LayerNorm(input_width)
        self.output = nn.Linear(input_width, num_outputs)

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the logits of each row."""
        logits_BC: Tensor = self.output(self.norm(self.layers(pooled_BD)))
        return logits_BC
