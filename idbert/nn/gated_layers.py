"""Gates inside a transformer layer: of the feed-forward block, and of the residual sums."""

from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from idbert.nn.encoder_config import EncoderConfig


class GatedIntermediate(nn.Module):
    """First half of a gated feed-forward block: x -> a(Gx + c) * (Wx + b), of the inner width I.

    With the activation a = silu this is SwiGLU, with gelu GEGLU, with sigmoid GLU. W bears the name
    of the plain block's only matrix, and G stands beside it: with the way back, the block has
    3 D I + 2 I + D parameters, where the plain one has 2 D I + I + D.
    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6, with biases.

    Shapes:
        hidden_BLD -> [B, L, I].
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L _"]:
        """Return the widened states, each component let through as far as its gate opens."""
        widened_BLX: Tensor = self.activation(self.gate(hidden_BLD)) * self.dense(hidden_BLD)
        return widened_BLX


class ResidualGate(nn.Module):
    """What a block adds to its residual stream x, scaled in each component: f * sigmoid(Gx + c).

    The gate reads the stream as it is, without a LayerNorm; it starts about half open.
    Source: Borisyuk et al. 2025, "From Features to Transformers: Redefining Ranking for Scalable
    Impact" (LiGR), which puts it into pre-LN layers: x + f(LN(x)) * sigmoid(Gx).

    Shapes:
        added_BLD, stream_BLD -> gated_BLD.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(
        self, added_BLD: Float[Tensor, "B L D"], stream_BLD: Float[Tensor, "B L D"]
    ) -> Float[Tensor, "B L D"]:
        """Return what is left to add."""
        gated_BLD: Tensor = added_BLD * self.dense(stream_BLD).sigmoid()
        return gated_BLD
