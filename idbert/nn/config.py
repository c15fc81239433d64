"""The settings of an encoder: what a user writes.

`EncoderSettings` becomes the config that is saved with the weights in `EncoderSettings.to_config`,
and nowhere else.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from idbert.errors import ConfigError
from idbert.nn.encoder_config import (
    BERT_MAX_LENGTH,
    NEZHA_MAX_RELATIVE_POSITION,
    EncoderConfig,
    EncoderKind,
    FeedForward,
    LayerResidual,
    Norm,
    PositionOrigin,
    ResidualScores,
    Similarity,
    check_attention,
    check_choice,
)
from idbert.nn.structure import StructureSettings
from idbert.nn.time_bias import TimeBiasSettings

__all__ = [
    "BERT_MAX_LENGTH",
    "NEZHA_MAX_RELATIVE_POSITION",
    "EncoderConfig",
    "EncoderSettings",
    "LayerSettings",
    "check_attention",
]

AttentionName = Literal["auto", "sdpa", "eager"]

TEMPERATURES: dict[Similarity, float] = {"inner": 1.0, "cosine": 0.05}
"""Of each similarity, where none is given."""


@dataclass(frozen=True)
class LayerSettings:
    """The transformer layers; a base of its own, so that these settings stand before the others."""

    kind: EncoderKind = "bert"
    """bert: learned absolute positions; nezha: relative positions, sequences of any length."""

    hidden_size: int = 64
    """Width of the hidden states and of the item vectors."""

    num_layers: int = 2
    """Transformer layers."""

    num_heads: int = 2
    """Attention heads in a layer; they share hidden_size evenly."""

    intermediate_size: int | None = None
    """Width inside the feed-forward blocks. Default: 4 * hidden_size; of gated ones two thirds of
    that, rounded up to a multiple of 8, so that both have about as many parameters."""

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
    """sdpa: fused kernels; eager: plain matrix products, for NEZHA on a CPU some heads at a time.
    auto: sdpa where it can be."""

    residual_scores: ResidualScores = "none"
    """RealFormer: every layer adds the attention scores of those below it to its own. sum: as they
    are; gated: times one learned number a layer, 0 at the start. Both leave the fast kernel."""

    feed_forward: FeedForward = "plain"
    """plain: W2 a(W1 x), as BERT; gated: W2 (a(G x) * W1 x), which with the activation silu is
    SwiGLU and with gelu GEGLU. A third matrix, of the inner width too."""

    layer_residual: LayerResidual = "plain"
    """plain: what a block adds is added as it is, as in BERT; gated: times sigmoid(G x) of the
    residual stream x, as in LiGR, which has norm pre and feed_forward gated with silu."""


@dataclass(frozen=True)
class EncoderSettings(StructureSettings, LayerSettings):
    """The architecture: the encoder, what stands on it, and the head of item scores.

    Raises:
        ConfigError: a value is out of range, or a setting cannot act beside the others.
    """

    time_bias: TimeBiasSettings = field(default_factory=TimeBiasSettings)
    """How attention knows of the time between events; for items only."""

    head_transform: bool | None = None
    """Dense layer, activation and LayerNorm below the item scores, as in BERT's masked-word head.
    Default: with a bidirectional encoder yes, with a causal one no."""

    similarity: Similarity = "inner"
    """What an item's score grows with: inner, the inner product of the head's and the item's
    vector; cosine, that of the two at norm 1. score = similarity / temperature + item bias."""

    temperature: float | None = None
    """The lower, the sharper the softmax. Default: 1, and 0.05 with similarity=cosine, as in HSTU,
    since a softmax over numbers from -1 to 1 cannot become sharp."""

    learned_temperature: bool = False
    """Whether the temperature is trained, from that value on, as in CLIP; it stays above 0.01."""

    initializer_range: float = 0.02
    """Standard deviation of the normal distribution that weights are drawn from."""

    layer_norm_eps: float = 1e-12
    """Added to the variance in LayerNorm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("kind", self.kind, get_args(EncoderKind))
        check_choice("norm", self.norm, get_args(Norm))
        check_choice("residual_scores", self.residual_scores, get_args(ResidualScores))
        check_choice("feed_forward", self.feed_forward, get_args(FeedForward))
        check_choice("layer_residual", self.layer_residual, get_args(LayerResidual))
        check_choice("attention", self.attention, get_args(AttentionName))
        check_choice("similarity", self.similarity, get_args(Similarity))
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
            check_attention(self.kind, self.attention, self.residual_scores)
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
            attention = "sdpa" if is_bert and self.residual_scores == "none" else "eager"
        config = EncoderConfig(
            encoder_kind=self.kind,
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            intermediate_size=self.intermediate_size or self._usual_inner_width(),
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
            residual_scores=self.residual_scores,
            feed_forward=self.feed_forward,
            layer_residual=self.layer_residual,
            time_bias=self.time_bias.name,
            time_buckets=self.time_bias.num_buckets,
            query_time=self.time_bias.query_time,
            head_transform=not is_causal if self.head_transform is None else self.head_transform,
            similarity=self.similarity,
            temperature=(
                TEMPERATURES[self.similarity] if self.temperature is None else self.temperature
            ),
            learned_temperature=self.learned_temperature,
            initializer_range=self.initializer_range,
            layer_norm_eps=self.layer_norm_eps,
        )
        config._attn_implementation = attention
        self.apply_to(config)
        return config

    def _usual_inner_width(self) -> int:
        """Return the inner width by which the blocks have 8 D^2 weights, gated or not."""
        is_plain = self.feed_forward == "plain"
        return 4 * self.hidden_size if is_plain else 8 * -(-self.hidden_size // 3)


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be at least 1.")
