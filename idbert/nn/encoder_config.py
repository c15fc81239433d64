"""The config that is saved with an encoder's weights, and what it must hold."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, no_type_check

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from idbert.errors import ConfigError, suggestion
from idbert.nn.blocks import BlockSettings
from idbert.nn.fusion import FusionSettings, resolve_layers
from idbert.nn.residual import check_residual
from idbert.nn.time_bias import TimesRead, check_time_bias

EncoderKind = Literal["bert", "nezha"]
Norm = Literal["post", "pre"]
PositionOrigin = Literal["oldest", "newest"]
ResidualScores = Literal["none", "sum", "gated"]
Similarity = Literal["inner", "cosine"]
FeedForward = Literal["plain", "gated"]
LayerResidual = Literal["plain", "gated"]

BERT_MAX_LENGTH = 200
NEZHA_MAX_RELATIVE_POSITION = 64
LEAST_LEARNED_TEMPERATURE = 0.01
"""Which a learned one stays above, as CLIP's does (Radford et al. 2021, section 2.5)."""


@no_type_check  # `strict` checks the fields; jaxtyping would refuse those that transformers adds
@strict
class EncoderConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What is saved beside the weights; fields that BERT has too bear BERT's names.

    Raises:
        ConfigError: the fields do not describe an encoder that can be built.
    """

    model_type = "idbert"

    encoder_kind: EncoderKind = "bert"
    vocab_size: int = 30522
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 256
    max_position_embeddings: int | None = BERT_MAX_LENGTH
    """Rows of BERT's position table; None for NEZHA, which has none."""
    position_origin: PositionOrigin = "oldest"
    max_relative_position: int | None = None
    """NEZHA's clipping distance k; None for BERT."""
    type_vocab_size: int = 1
    hidden_act: str = "gelu"
    norm: Norm = "post"
    is_causal: bool = False
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    add_pooler: bool = False
    """Whether the encoder has BERT's pooler; set where the weights hold one."""

    residual_scores: ResidualScores = "none"
    """RealFormer: whether layers hand on their attention scores, and by a learned gate."""

    feed_forward: FeedForward = "plain"
    layer_residual: LayerResidual = "plain"

    time_bias: str = "none"
    time_buckets: int | None = None
    """Buckets of the time bias; None without one."""
    query_time: bool = False

    num_attributes: int = 0
    """Attributes of items whose vectors are added to the ids'; 0: none."""
    attributes_per_item: int = 0
    """The most that an item has."""

    fusion: str = "last"
    fusion_layers: list[int] | None = None
    fusion_width: int | None = None
    fusion_activation: str | None = None
    fusion_options: dict[str, Any] | None = None
    block: str = "none"
    block_width: int | None = None
    block_options: dict[str, Any] | None = None
    residual: str = "sum"
    residual_gate: bool = False
    head_transform: bool = True
    similarity: Similarity = "inner"
    temperature: float | int = 1.0
    """What similarities are divided by in the scores; where it is learned, its first value."""
    learned_temperature: bool = False
    shifts_popularity: bool = False
    """Whether scores have a shift of each item's popularity beside its learned bias."""
    loss: str = "full"
    loss_options: dict[str, Any] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self._check_positions()
        check_heads(self.hidden_size, self.num_attention_heads, self.encoder_kind)
        if self.hidden_act not in ACT2FN:
            raise ConfigError(
                f"There is no activation '{self.hidden_act}'."
                f"{suggestion(self.hidden_act, ACT2FN)} Choose from: {', '.join(sorted(ACT2FN))}."
            )
        self._check_structure()
        check_residual_scores(self.residual_scores, self.num_hidden_layers)
        check_temperature(self.temperature, self.learned_temperature)
        check_time_bias(self.time_bias, self.time_buckets, self.query_time)
        if self.needs_scores and self._attn_implementation is None:
            self._attn_implementation = "eager"

    def _check_structure(self) -> None:
        layers = self.fusion_layers
        FusionSettings(
            self.fusion,
            None if layers is None else tuple(layers),
            self.fusion_width,
            self.fusion_activation,
            self.fusion_options or {},
        )
        resolve_layers(layers, self.num_states)
        BlockSettings(self.block, self.block_width, self.block_options or {})
        check_residual(self.residual, self.residual_gate)

    def _check_positions(self) -> None:
        absolute, relative = self.max_position_embeddings, self.max_relative_position
        if self.encoder_kind == "bert" and (absolute is None or relative is not None):
            raise ConfigError(
                "A bert config needs max_position_embeddings and no max_relative_position, not "
                f"{absolute} and {relative}."
            )
        if self.encoder_kind == "nezha" and (absolute is not None or relative is None):
            raise ConfigError(
                "A nezha config needs max_relative_position and no max_position_embeddings, not "
                f"{relative} and {absolute}."
            )

    @property
    def num_states(self) -> int:
        """K: the embedding output and every layer."""
        return self.num_hidden_layers + 1

    @property
    def reads_times(self) -> TimesRead:
        """Which times a batch must hold."""
        if self.time_bias == "none":
            return "none"
        return "queries" if self.query_time else "events"

    @property
    def needs_scores(self) -> bool:
        """Whether attention scores must be at hand, which fused kernels never show."""
        return self.encoder_kind == "nezha" or self.residual_scores != "none"


def check_heads(hidden_size: int, num_heads: int, kind: EncoderKind) -> None:
    """Check that the heads share the width evenly, and evenly in pairs for NEZHA.

    Raises:
        ConfigError: they do not.
    """
    if hidden_size % num_heads:
        raise ConfigError(
            f"hidden_size {hidden_size} cannot be shared evenly by {num_heads} heads. "
            f"Choose a multiple of {num_heads}."
        )
    if kind == "nezha" and (hidden_size // num_heads) % 2:
        raise ConfigError(
            f"hidden_size {hidden_size} and {num_heads} heads make heads of width "
            f"{hidden_size // num_heads}. NEZHA's sines and cosines come in pairs: choose an even "
            "width."
        )


def check_residual_scores(residual_scores: str, num_layers: int) -> None:
    """Check that there is a layer to hand the scores of another to.

    Raises:
        ConfigError: there is none.
    """
    if residual_scores != "none" and num_layers < 2:
        raise ConfigError(
            f"residual_scores='{residual_scores}' hands scores from layer to layer and cannot act "
            f"in an encoder of {num_layers}. Leave it out, or build more layers."
        )


def check_temperature(temperature: float | int, is_learned: bool) -> None:
    """Check that scores can be divided by it.

    Raises:
        ConfigError: they cannot, or it would be outside what a learned one may become.
    """
    if not temperature > 0 or math.isinf(temperature):
        raise ConfigError(f"temperature is {temperature}; it must be above 0.")
    if is_learned and temperature <= LEAST_LEARNED_TEMPERATURE:
        raise ConfigError(
            f"temperature is {temperature}; a learned one stays above "
            f"{LEAST_LEARNED_TEMPERATURE}, and must start there."
        )


def check_attention(
    kind: EncoderKind, attention: str | None, residual_scores: ResidualScores = "none"
) -> None:
    """Check that `attention` can compute this kind of encoder.

    Raises:
        ConfigError: it cannot.
    """
    if attention is not None:
        check_choice("attention", attention, ("sdpa", "eager"))
    if kind == "nezha" and attention == "sdpa":
        raise ConfigError(
            "NEZHA's value term cannot be computed by fused attention; set attention='eager'."
        )
    if residual_scores != "none" and attention == "sdpa":
        raise ConfigError(
            f"Fused attention shows no scores that residual_scores='{residual_scores}' could hand "
            "on; set attention='eager'."
        )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check that a setting has one of its values.

    Raises:
        ConfigError: it has not; the text names the nearest and all.
    """
    if value not in choices:
        raise ConfigError(
            f"{name} is '{value}'.{suggestion(value, choices)} Choose from: {', '.join(choices)}."
        )


def plain_options(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return options as JSON will hold them: lists for tuples, None for none at all."""
    plain = {
        name: list(value) if isinstance(value, tuple) else value for name, value in options.items()
    }
    return plain or None
