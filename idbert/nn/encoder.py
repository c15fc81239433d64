"""The encoder: BERT or NEZHA, bidirectional or causal, post-LN or pre-LN.

Modules nest, and parameters are named, as in transformers' BertModel, so that published weights
fit without a table of names. The only addition is `encoder.final_LayerNorm` of a pre-LN encoder.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from idbert.errors import ConfigError, ShapeError
from idbert.nn.asked import Asked
from idbert.nn.attention import (
    AttentionContext,
    SelfAttention,
    is_right_padded,
    visible_positions,
)
from idbert.nn.checkpoints import HUB_OPTIONS, read_encoder
from idbert.nn.embeddings import Embeddings
from idbert.nn.encoder_config import EncoderConfig, ResidualScores, check_attention
from idbert.nn.layers import LayerStack
from idbert.nn.progress_bars import without_progress_bars
from idbert.nn.relative import RelativePositions, relative_table
from idbert.nn.time_bias import check_timestamps, time_buckets


class IdbertPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Base of the encoder and of every model on it: initialisation, saving, checkpointing."""

    config_class = EncoderConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Embeddings", "Layer"]

    def __init__(self, config: EncoderConfig, *inputs: Any, **options: Any) -> None:
        # Chosen here, since transformers would take the fused kernel where nothing is chosen.
        if config.needs_scores and config._attn_implementation is None:
            config._attn_implementation = "eager"
        check_attention(config.encoder_kind, config._attn_implementation, config.residual_scores)
        super().__init__(config, *inputs, **options)

    def set_attn_implementation(
        self, attn_implementation: str | dict[str, Any], allow_all_kernels: bool = False
    ) -> None:
        """Refuse to change the attention of a model: its layers were built for it.

        Raises:
            ConfigError: it is to be another.
        """
        if attn_implementation != self.config._attn_implementation:
            raise ConfigError(
                f"the attention of a model is chosen when it is built ('"
                f"{self.config._attn_implementation}' here). Open it again with "
                f"attn_implementation={attn_implementation!r}."
            )

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Say so where a model of transformers holds one of ours, too."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as BERT; a table that is computed, not saved, is computed anew on loading."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, RelativePositions):
            init.copy_(module.table_PW, relative_table(module.max_distance, module.width))
        elif isinstance(module, SelfAttention) and module.score_gate is not None:
            init.zeros_(module.score_gate)


class Encoder(IdbertPreTrainedModel):  # type: ignore[no-untyped-call]
    """A BERT or NEZHA encoder of token or item ids.

    Args:
        config: The architecture; see `EncoderSettings.to_config`.

    Shapes:
        input_ids [B, L] -> last_hidden_state [B, L, D]; hidden_states: K of [B, L, D], the
        embedding output first; pooler_output [B, D] where the weights hold a pooler. In a pre-LN
        encoder the last state is the final LayerNorm's output, as in GPT-2.

    Raises:
        ConfigError: the attention named in the config cannot compute this kind of encoder.
    """

    config: EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack(config)
        self.pooler = Pooler(config) if config.add_pooler else None
        self.relative_positions = (
            None
            if config.max_relative_position is None
            else RelativePositions(
                config.max_relative_position, config.hidden_size // config.num_attention_heads
            )
        )
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder_or_name: str | Path,
        *,
        config: EncoderConfig | None = None,
        residual_scores: ResidualScores | None = None,
        **options: Any,
    ) -> "Encoder":
        """Open published BERT or NEZHA weights, or the encoder of a model saved by idbert.

        Args:
            folder_or_name: A folder in transformers' layout, whatever prefix its tensors bear; or
                a model's name on the Hugging Face hub.
            config: Replaces the config found with the weights.
            residual_scores: "gated" lets every layer learn to add the attention scores of those
                below; until it has, the encoder computes what it did. None: as in the config.
            options: transformers' own, e.g. `dtype`, `attn_implementation`, `revision`.

        Returns:
            The encoder, in evaluation mode, float32 unless `dtype` says otherwise.

        Raises:
            CheckpointError: there is no such model, it is of another kind, or tensors are missing
                or of the wrong shape.
            ConfigError: an option cannot act.
        """
        hub_options = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        checkpoint = read_encoder(folder_or_name, config, hub_options, residual_scores)
        checkpoint.check_fit(_tensor_shapes(cls, checkpoint.config))
        if "torch_dtype" in options:  # the older name, which transformers takes too
            options.setdefault("dtype", options.pop("torch_dtype"))
        options.setdefault("dtype", torch.float32)
        with without_progress_bars():
            encoder: Encoder = super().from_pretrained(
                None, config=checkpoint.config, state_dict=checkpoint.tensors, **options
            )
        return encoder

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embeddings, which item scores are tied to."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        assert isinstance(value, nn.Embedding)
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        *,
        attention_mask: Shaped[Tensor, "B L"] | None = None,
        token_type_ids: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "#B L"] | None = None,
        output_hidden_states: bool | None = None,
        queries: Int64[Tensor, "B Q"] | Asked | None = None,
        is_causal: bool | None = None,
        timestamps: Int64[Tensor, "B L"] | None = None,
        query_timestamps: Int64[Tensor, "B L"] | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            input_ids: Tokens or items.
            attention_mask: Not zero at real positions, zero at padding; None where all are real.
            token_type_ids: Segments or behaviours; all 0 if left out.
            position_ids: BERT's absolute positions; if left out, counted from where the config's
                `position_origin` says.
            output_hidden_states: Whether to return all states; None for what the config says.
            queries: Positions of each sequence at which the last state is wanted, [B, Q, D], or in
                the shape of `Asked`; None: all. The last layer is computed there alone where the
                encoder can do so; there is no pooler's output.
            is_causal: Whether a position sees only itself and those before it; None: as the
                config says. The weights know no direction.
            timestamps: Of each event, in seconds, where the config has a time bias.
            query_timestamps: The time of the item that each position is asked for, in seconds,
                where the time bias of a causal encoder reads it.

        Raises:
            ShapeError: the mask's shape is not that of input_ids, or a sequence is too long.
            ConfigError: position_ids are given to NEZHA, or times to an encoder without them.
        """
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        context = self._context(
            input_ids, attention_mask, timestamps, query_timestamps, is_causal=is_causal
        )
        if position_ids is None and self.config.position_origin == "newest":
            position_ids = positions_from_newest(input_ids, attention_mask)
        embedded_BLD = self.embeddings(
            input_ids, token_type_ids=token_type_ids, position_ids=position_ids
        )
        asked = Asked(queries) if isinstance(queries, Tensor) else queries
        in_layer = asked if self._can_ask else None
        last_BLD, states_KBLD = self.encoder(embedded_BLD, context, output_hidden_states, in_layer)
        if asked is not None and not self._can_ask:
            last_BLD = asked.of(last_BLD)
        pooler = None if asked is not None else self.pooler
        return BaseModelOutputWithPooling(
            last_hidden_state=last_BLD,
            pooler_output=None if pooler is None else pooler(last_BLD),
            hidden_states=states_KBLD,
        )

    @property
    def _can_ask(self) -> bool:
        """Say whether the last layer can be computed at some positions alone."""
        return self.config.residual_scores == "none"

    def _context(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        timestamps: Tensor | None = None,
        query_timestamps: Tensor | None = None,
        *,
        is_causal: bool | None = None,
    ) -> AttentionContext:
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ShapeError(
                f"attention_mask has shape {list(attention_mask.shape)}, input_ids "
                f"{list(input_ids.shape)}. Give one mask value for each id."
            )
        length = input_ids.shape[1]
        is_causal = self.config.is_causal if is_causal is None else is_causal
        # Behind right padding nothing real can look at padding, so the triangle alone will do, and
        # the fused kernel has it built in.
        kernel_is_causal = (
            is_causal
            and self.config._attn_implementation == "sdpa"
            and self.config.time_bias == "none"
            and (attention_mask is None or is_right_padded(attention_mask))
        )
        visible = (
            None
            if kernel_is_causal
            else visible_positions(
                attention_mask, length, is_causal=is_causal, device=input_ids.device
            )
        )
        distances = (
            None
            if self.relative_positions is None
            else self.relative_positions(length, is_causal=is_causal)
        )
        buckets_BLL = self._buckets(input_ids, timestamps, query_timestamps)
        return AttentionContext(visible, kernel_is_causal, distances, buckets_BLL)

    def _buckets(
        self, input_ids: Tensor, timestamps: Tensor | None, query_timestamps: Tensor | None
    ) -> Tensor | None:
        """Return the buckets of the time bias; None without one."""
        config = self.config
        check_timestamps(
            input_ids, timestamps, query_timestamps, config.reads_times, is_causal=config.is_causal
        )
        if timestamps is None or config.time_buckets is None:
            return None
        return time_buckets(timestamps, query_timestamps, config.time_buckets)


def positions_from_newest(
    input_ids: Int[Tensor, "B L"], attention_mask: Shaped[Tensor, "B L"] | None
) -> Int[Tensor, "#B L"]:
    """Return how many real positions follow each position; 0 at the last one and behind it."""
    if attention_mask is None:
        return torch.arange(input_ids.shape[1] - 1, -1, -1, device=input_ids.device)[None]
    from_here_BL = attention_mask.ne(0).flip(1).cumsum(1).flip(1)
    return (from_here_BL - 1).clip(min=0)


class Pooler(nn.Module):
    """BERT's summary of a sequence: dense layer and tanh on the first position."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B D"]:
        """Return one vector a sequence."""
        pooled_BD: Tensor = self.dense(hidden_BLD[:, 0]).tanh()
        return pooled_BD


def _tensor_shapes(model_class: type[Encoder], config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each tensor that a saved encoder holds, without building one."""
    with torch.device("meta"):
        state = model_class(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


AutoConfig.register("idbert", EncoderConfig)
AutoModel.register(EncoderConfig, Encoder)
