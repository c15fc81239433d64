"""The backbone of every model: encoder, then layer fusion."""

from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.config import EncoderConfig
from idbert.nn.encoder import Encoder
from idbert.nn.fusion import build_fusion

SHAPELESS = (
    "num_attention_heads",
    "hidden_act",
    "position_origin",
    "max_relative_position",
    "fusion",
    "fusion_layers",
)
"""Fields of the config that change what the weights mean without changing any tensor's shape."""


class Backbone(nn.Module):
    """Encode a batch and join the layers: one vector a position.

    Args:
        config: The architecture; see `EncoderSettings.to_config`.

    Shapes:
        input_ids [B, L] -> fused_BLD.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.fusion = build_fusion(
            config.fusion, config.num_states, config.hidden_size, config.fusion_layers
        )

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "#B L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Return the fused states; arguments as for `Encoder.forward`."""
        encoded = self.encoder(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            output_hidden_states=self.fusion.needs_all_states,
        )
        fused_BLD: Tensor = self.fusion(encoded.hidden_states or (encoded.last_hidden_state,))
        return fused_BLD

    def hidden_states(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "#B L"] | None = None,
    ) -> tuple[Float[Tensor, "B L D"], ...]:
        """Return the K states before fusion: the embedding output and every layer."""
        states_KBLD: tuple[Tensor, ...] = self.encoder(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            output_hidden_states=True,
        ).hidden_states
        return states_KBLD


def check_same_architecture(theirs: Backbone, ours: Backbone) -> None:
    """Check that one backbone's weights mean the same in the other; causal or not is left open.

    Raises:
        ConfigError: tensors are of other shapes, or settings differ that no shape tells.
    """
    shapes = [
        {name: list(tensor.shape) for name, tensor in backbone.state_dict().items()}
        for backbone in (theirs, ours)
    ]
    settings = [
        {name: getattr(backbone.encoder.config, name) for name in SHAPELESS}
        for backbone in (theirs, ours)
    ]
    for what, (there, here) in (("tensors", shapes), ("settings", settings)):
        differing = [
            f"{name} {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
            for name in sorted(there.keys() | here.keys())
            if (name in there, there.get(name)) != (name in here, here.get(name))
        ]
        if differing:
            raise ConfigError(
                f"The pretrained backbone is another: {len(differing)} {what} differ, such as "
                f"{'; '.join(differing[:3])}. Give both models the same settings."
            )
