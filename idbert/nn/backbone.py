"""The backbone of every model: encoder, then layer fusion, then a block with a path past it."""

from typing import Any

from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.asked import Asked
from idbert.nn.blocks.block import NO_BLOCK, read_block_options
from idbert.nn.checkpoints import TOKEN_TABLE
from idbert.nn.encoder import Encoder, IdbertPreTrainedModel
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.fusion.layer_fusion import read_fusion_options
from idbert.nn.relative import RelativePositions
from idbert.nn.structure import build_structure

SHAPELESS = (
    "num_attention_heads",
    "hidden_act",
    "position_origin",
    "max_relative_position",
    "residual_scores",
    "query_time",
    "fusion",
    "fusion_layers",
    "fusion_activation",
    "block",
    "residual",
)
"""Fields of the config that change what the weights mean without changing any tensor's shape."""


class Backbone(nn.Module):
    """Encode a batch, join the layers, read them with a block: one vector a position.

    Args:
        config: The architecture; see `EncoderSettings.to_config`.

    Shapes:
        input_ids [B, L] -> [B, L, width].

    Raises:
        ConfigError: the parts do not fit one another, or a block looks ahead in a causal model.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.fusion, self.block = build_structure(config)
        self.width = self.fusion.width if self.block is None else self.block.width
        """Width of the vectors that come out."""

    @property
    def leaves_layers_unread(self) -> bool:
        """Whether no layer from some one on reaches the fusion, so that it gets no gradient."""
        fusion = self.fusion
        return fusion.needs_all_states and fusion.layers[-1] < fusion.num_states - 1

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "#B L"] | None = None,
        queries: Int64[Tensor, "B Q"] | Asked | None = None,
        is_causal: bool | None = None,
        timestamps: Int64[Tensor, "B L"] | None = None,
        query_timestamps: Int64[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "_ _ _"]:
        """Return the states that heads and poolings read; arguments as for `Encoder.forward`.

        With `queries`, at these positions alone, [B, Q, width], or [1, P, width] where `Asked` says
        so: the same vectors, for less work where no fusion or block reads others.
        """
        inputs: dict[str, Any] = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "is_causal": is_causal,
            "timestamps": timestamps,
            "query_timestamps": query_timestamps,
        }
        if queries is not None and self.block is None and not self.fusion.needs_all_states:
            encoded = self.encoder(input_ids, queries=queries, output_hidden_states=False, **inputs)
            asked_BQX: Tensor = self.fusion((encoded.last_hidden_state,))
            return asked_BQX
        output_BLX, _ = self.forward_with_last(input_ids, **inputs)
        if queries is None:
            return output_BLX
        asked = queries if isinstance(queries, Asked) else Asked(queries)
        return asked.of(output_BLX)

    def forward_with_last(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "#B L"] | None = None,
        is_causal: bool | None = None,
        timestamps: Int64[Tensor, "B L"] | None = None,
        query_timestamps: Int64[Tensor, "B L"] | None = None,
    ) -> tuple[Float[Tensor, "B L _"], Float[Tensor, "B L D"]]:
        """Return what `forward` does and the encoder's last state, from one pass.

        The last state is what an auxiliary loss reads, so that the encoder learns directly too.
        """
        encoded = self.encoder(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            timestamps=timestamps,
            query_timestamps=query_timestamps,
            output_hidden_states=self.fusion.needs_all_states,
            is_causal=is_causal,
        )
        last_BLD: Tensor = encoded.last_hidden_state
        output_BLX: Tensor = self.fusion(encoded.hidden_states or (last_BLD,))
        if self.block is not None:
            output_BLX = self.block(output_BLX, attention_mask)
        return output_BLX, last_BLD

    def hidden_states(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "#B L"] | None = None,
        timestamps: Int64[Tensor, "B L"] | None = None,
        query_timestamps: Int64[Tensor, "B L"] | None = None,
    ) -> tuple[Float[Tensor, "B L D"], ...]:
        """Return the K states before fusion: the embedding output and every layer."""
        states_KBLD: tuple[Tensor, ...] = self.encoder(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            timestamps=timestamps,
            query_timestamps=query_timestamps,
            output_hidden_states=True,
        ).hidden_states
        return states_KBLD


def check_same_architecture(theirs: Backbone, ours: Backbone, *, same_rows: bool = True) -> None:
    """Check that one backbone's weights mean the same in the other; causal or not is left open.

    Args:
        theirs: One.
        ours: The other.
        same_rows: Whether their tables of embeddings must have as many rows.

    Raises:
        ConfigError: tensors are of other shapes, or settings differ that no shape tells.
    """
    shapes = [
        {
            name: list(
                tensor.shape if same_rows or not name.endswith(TOKEN_TABLE) else tensor[0].shape
            )
            for name, tensor in backbone.state_dict().items()
        }
        for backbone in (theirs, ours)
    ]
    settings = [_shapeless(backbone.encoder.config) for backbone in (theirs, ours)]
    for what, (there, here) in (("settings", settings), ("tensors", shapes)):
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


def _shapeless(config: EncoderConfig) -> dict[str, Any]:
    """Return what no shape tells; options with their defaults, since naming one changes nothing."""
    settings = {name: getattr(config, name) for name in SHAPELESS}
    settings["fusion_options"] = read_fusion_options(config.fusion, config.fusion_options)
    if config.block != NO_BLOCK:
        settings["block_options"] = read_block_options(config.block, config.block_options)
    return settings


class BackbonePreTrainedModel(IdbertPreTrainedModel):  # type: ignore[no-untyped-call]
    """Base of the models on a backbone. A subclass ends its `__init__` with `post_init`.

    Args:
        config: The architecture, and the fields of what stands on it.
    """

    base_model_prefix = "backbone"
    accepts_loss_kwargs = True  # tells Trainer that `num_items_in_batch` is honoured

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(config)

    def post_init(self) -> None:
        """Initialise the weights, as the last step of `__init__`.

        Layers of all parts are initialised as BERT's; one that sets `_is_hf_initialized` keeps what
        it has.

        Raises:
            ConfigError: a part holds numbers that would not be saved with the model.
        """
        for part in self.modules():
            unsaved = part._non_persistent_buffers_set
            if unsaved and not isinstance(part, RelativePositions):
                raise ConfigError(
                    f"{type(part).__name__} keeps '{min(unsaved)}' as a buffer that is not saved, "
                    "and a model that is opened would hold anything there. Register it with "
                    "persistent=True."
                )
        super().post_init()  # type: ignore[no-untyped-call]

    @property
    def max_length(self) -> int | None:
        """Most positions of a sequence; None where there is no limit (NEZHA)."""
        limit: int | None = self.config.max_position_embeddings
        return limit

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the embeddings of the tokens, or of the item ids."""
        return self.backbone.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of the tokens, or of the item ids."""
        self.backbone.encoder.set_input_embeddings(value)
