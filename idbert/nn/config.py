"""The settings of an encoder, and the config that is saved with its weights.

`EncoderSettings` is what a user writes; `EncoderConfig` is what transformers saves and loads.
The one becomes the other in `EncoderSettings.to_config`, and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, no_type_check

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from idbert.errors import ConfigError, suggestion
from idbert.nn.fusion import FusionSettings, resolve_layers

EncoderKind = Literal["bert", "nezha"]
Norm = Literal["post", "pre"]
PositionOrigin = Literal["oldest", "newest"]
AttentionName = Literal["auto", "sdpa", "eager"]

BERT_MAX_LENGTH = 200
NEZHA_MAX_RELATIVE_POSITION = 64


@dataclass(frozen=True)
class EncoderSettings:
    """The architecture of the encoder and of the head that stands on it.

    Raises:
        ConfigError: a value is out of range, or a setting cannot act beside the others.
    """

    kind: EncoderKind = "bert"
    """bert: learned absolute positions; nezha: relative positions, sequences of any length."""

    hidden_size: int = 64
    """Width of the hidden states and of the item vectors."""

    num_layers: int = 2
    """Transformer layers."""

    num_heads: int = 2
    """Attention heads in a layer; they share hidden_size evenly."""

    intermediate_size: int | None = None
    """Width inside the feed-forward blocks. Default: 4 * hidden_size."""

    max_length: int | None = None
    """Most positions a sequence may have; bert only, 200 by default. NEZHA has no such limit."""

    position_origin: PositionOrigin | None = None
    """Where positions are counted from; bert only. newest (the default): backwards, so that the
    item asked for has position 0 however long its history; oldest: 0, 1, 2, ... as in BERT."""

    max_relative_position: int | None = None
    """Distance from which on NEZHA tells no difference; nezha only, 64 by default."""

    activation: str = "gelu"
    """Activation inside the feed-forward blocks, by its name in transformers."""

    norm: Norm = "post"
    """post: LayerNorm after each residual sum, as BERT; pre: before each block and at the top."""

    hidden_dropout: float = 0.1
    """Dropout on the embeddings and on the output of each block."""

    attention_dropout: float = 0.0
    """Dropout on attention probabilities. Above 0 it leaves the fast kernel."""

    attention: AttentionName = "auto"
    """sdpa: fused kernels; eager: plain matrix products. auto: sdpa for bert, eager for nezha."""

    fusion: FusionSettings = FusionSettings()
    """How the layers' hidden states are joined below the scores."""

    head_transform: bool | None = None
    """Dense layer, activation and LayerNorm below the item scores, as in BERT's masked-word head.
    Default: with a bidirectional encoder yes, with a causal one no."""

    initializer_range: float = 0.02
    """Standard deviation of the normal distribution that weights are drawn from."""

    layer_norm_eps: float = 1e-12
    """Added to the variance in LayerNorm."""

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, get_args(EncoderKind))
        _check_choice("norm", self.norm, get_args(Norm))
        _check_choice("attention", self.attention, get_args(AttentionName))
        for name in ("hidden_size", "num_layers", "num_heads"):
            _check_at_least_one(name, getattr(self, name))
        for name in ("intermediate_size", "max_length", "max_relative_position"):
            if getattr(self, name) is not None:
                _check_at_least_one(name, getattr(self, name))
        for name in ("hidden_dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; choose from 0 to below 1.")
        for name in ("initializer_range", "layer_norm_eps"):
            if not getattr(self, name) > 0.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.kind == "nezha" and self.max_length is not None:
            raise ConfigError(
                f"max_length={self.max_length} cannot act: NEZHA has no position embeddings to "
                "limit. Leave it out, and shorten the sequences themselves."
            )
        if self.kind == "nezha" and self.position_origin is not None:
            raise ConfigError(
                f"position_origin='{self.position_origin}' cannot act: NEZHA's positions are "
                "relative. Leave it out."
            )
        if self.kind == "bert" and self.max_relative_position is not None:
            raise ConfigError(
                f"max_relative_position={self.max_relative_position} cannot act: BERT's positions "
                "are absolute. Leave it out, or set kind='nezha'."
            )
        if self.attention != "auto":
            check_attention(self.kind, self.attention)
        # The rest is checked where a loaded config is checked too.
        self.to_config(vocab_size=1, is_causal=False)

    def to_config(
        self, *, vocab_size: int, is_causal: bool, type_vocab_size: int = 1
    ) -> "EncoderConfig":
        """Return the config of an encoder with these settings.

        Args:
            vocab_size: V, rows of the vocabulary, special tokens included.
            is_causal: Whether a position sees only itself and those before it.
            type_vocab_size: Number of segments or behaviours.
        """
        is_bert = self.kind == "bert"
        attention = self.attention
        if attention == "auto":
            attention = "sdpa" if is_bert else "eager"
        config = EncoderConfig(
            encoder_kind=self.kind,
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            intermediate_size=self.intermediate_size or 4 * self.hidden_size,
            max_position_embeddings=(self.max_length or BERT_MAX_LENGTH) if is_bert else None,
            max_relative_position=(
                None if is_bert else self.max_relative_position or NEZHA_MAX_RELATIVE_POSITION
            ),
            position_origin=(self.position_origin or "newest") if is_bert else "oldest",
            type_vocab_size=type_vocab_size,
            hidden_act=self.activation,
            norm=self.norm,
            is_causal=is_causal,
            hidden_dropout_prob=self.hidden_dropout,
            attention_probs_dropout_prob=self.attention_dropout,
            fusion=self.fusion.name,
            fusion_layers=None if self.fusion.layers is None else list(self.fusion.layers),
            head_transform=not is_causal if self.head_transform is None else self.head_transform,
            initializer_range=self.initializer_range,
            layer_norm_eps=self.layer_norm_eps,
        )
        config._attn_implementation = attention
        return config


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

    fusion: str = "last"
    fusion_layers: list[int] | None = None
    head_transform: bool = True
    loss: str = "full"
    loss_chunk_size: int | None = None
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
        check_fusion(self.fusion, self.fusion_layers, self.num_states)
        if self.encoder_kind == "nezha" and self._attn_implementation is None:
            self._attn_implementation = "eager"

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


def check_fusion(name: str, layers: Sequence[int] | None, num_states: int) -> None:
    """Check that the fusion exists and that its layers exist in an encoder of `num_states` states.

    Raises:
        ConfigError: it does not, or its layers cannot act.
    """
    FusionSettings(name, None if layers is None else tuple(layers))
    resolve_layers(layers, num_states)


def check_attention(kind: EncoderKind, attention: str | None) -> None:
    """Check that `attention` can compute this kind of encoder.

    Raises:
        ConfigError: it cannot.
    """
    if attention is not None:
        _check_choice("attention", attention, ("sdpa", "eager"))
    if kind == "nezha" and attention == "sdpa":
        raise ConfigError(
            "NEZHA's value term cannot be computed by fused attention; set attention='eager'."
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            f"{name} is '{value}'.{suggestion(value, choices)} Choose from: {', '.join(choices)}."
        )


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be at least 1.")
