"""The transformer layers, post-LN or pre-LN; modules nest as in transformers' BertModel."""

from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from idbert.nn.asked import Asked
from idbert.nn.attention import AttentionContext, SelfAttention
from idbert.nn.dropout import Dropout
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.gated_layers import GatedIntermediate, ResidualGate


class LayerStack(nn.Module):
    """All layers, one after the other; BERT's `encoder`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            Layer(config, is_first=index == 0) for index in range(config.num_hidden_layers)
        )
        self.final_LayerNorm = _layer_norm(config) if config.norm == "pre" else None

    def forward(
        self,
        hidden_BLD: Float[Tensor, "B L D"],
        context: AttentionContext,
        keep_states: bool,
        asked: Asked | None = None,
    ) -> tuple[Float[Tensor, "_ _ D"], tuple[Float[Tensor, "B L D"], ...] | None]:
        """Return the last state and, if `keep_states`, all of them, the input first.

        With `asked` the last layer is computed at these positions alone, in the shape of `Asked`.
        """
        states_KBLD = []
        scores_BHLL: Tensor | None = None
        for index, layer in enumerate(self.layer):
            if keep_states:
                states_KBLD.append(hidden_BLD)
            here = asked if index == len(self.layer) - 1 else None
            hidden_BLD, scores_BHLL = layer(hidden_BLD, context, scores_BHLL, here)
        if self.final_LayerNorm is not None:
            hidden_BLD = self.final_LayerNorm(hidden_BLD)
        return hidden_BLD, (*states_KBLD, hidden_BLD) if keep_states else None


class Layer(GradientCheckpointingLayer):  # type: ignore[no-untyped-call]
    """One transformer layer: attention, then the feed-forward block, each on a residual stream.

    Args:
        config: The architecture.
        is_first: Whether no layer stands below.
    """

    def __init__(self, config: EncoderConfig, *, is_first: bool = True) -> None:
        super().__init__()
        self.attention = Attention(config, is_first=is_first)
        is_plain = config.feed_forward == "plain"
        self.intermediate = (Intermediate if is_plain else GatedIntermediate)(config)
        self.output = ResidualOutput(config, config.intermediate_size)

    def forward(
        self,
        hidden_BLD: Float[Tensor, "B L D"],
        context: AttentionContext,
        below_BHLL: Float[Tensor, "B H L L"] | None = None,
        asked: Asked | None = None,
    ) -> tuple[Float[Tensor, "_ _ D"], Float[Tensor, "B H L L"] | None]:
        """Return the next layer's input, and the attention scores that are handed to it.

        With `asked` at these positions alone; what they attend to is every position.
        """
        hidden_BLD, scores_BHLL = self.attention(hidden_BLD, context, below_BHLL, asked)
        inner_BLD = self.intermediate(self.output.block_input(hidden_BLD))
        output_BLD: Tensor = self.output(inner_BLD, hidden_BLD)
        return output_BLD, scores_BHLL


class Attention(nn.Module):
    """Self-attention and its residual sum; BERT's `attention`."""

    def __init__(self, config: EncoderConfig, *, is_first: bool = True) -> None:
        super().__init__()
        self.self = SelfAttention(config, is_first=is_first)
        self.output = ResidualOutput(config, config.hidden_size)

    def forward(
        self,
        hidden_BLD: Float[Tensor, "B L D"],
        context: AttentionContext,
        below_BHLL: Float[Tensor, "B H L L"] | None = None,
        asked: Asked | None = None,
    ) -> tuple[Float[Tensor, "_ _ D"], Float[Tensor, "B H L L"] | None]:
        """Return hidden_BLD with what was attended to added, and the scores that are handed on."""
        input_BLD = self.output.block_input(hidden_BLD)
        attended_BLD, scores_BHLL = self.self(input_BLD, context, below_BHLL, asked)
        passed_BLD = hidden_BLD if asked is None else asked.of(hidden_BLD)
        output_BLD: Tensor = self.output(attended_BLD, passed_BLD)
        return output_BLD, scores_BHLL


class Intermediate(nn.Module):
    """First half of the feed-forward block: dense layer and activation."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L _"]:
        """Return the widened states."""
        widened_BLX: Tensor = self.activation(self.dense(hidden_BLD))
        return widened_BLX


class ResidualOutput(nn.Module):
    """End of a block: dense layer, dropout, residual sum and LayerNorm.

    Post-LN normalises the sum. Pre-LN normalises the block's input instead, with the same
    parameters under the same name, and leaves the sum as it is. A gated residual scales what the
    block adds, see `ResidualGate`.

    Args:
        config: The architecture.
        input_size: Width of what the block hands in.
    """

    def __init__(self, config: EncoderConfig, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.LayerNorm = _layer_norm(config)
        self.is_pre_norm = config.norm == "pre"
        is_gated = config.layer_residual == "gated"
        self.gate = ResidualGate(config.hidden_size) if is_gated else None

    def block_input(self, hidden_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Return what the block is to read: normalised in pre-LN, as it is in post-LN."""
        input_BLD: Tensor = self.LayerNorm(hidden_BLD) if self.is_pre_norm else hidden_BLD
        return input_BLD

    def forward(
        self, inner_BLX: Float[Tensor, "B L _"], hidden_BLD: Float[Tensor, "B L D"]
    ) -> Float[Tensor, "B L D"]:
        """Return hidden_BLD with the block's output added."""
        added_BLD: Tensor = self.dropout(self.dense(inner_BLX))
        if self.gate is not None:
            added_BLD = self.gate(added_BLD, hidden_BLD)
        output_BLD = added_BLD + hidden_BLD
        if not self.is_pre_norm:
            output_BLD = self.LayerNorm(output_BLD)
        return output_BLD


def _layer_norm(config: EncoderConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
