"""An encoder of words: its settings, and the config that is saved with it."""

from dataclasses import dataclass
from typing import no_type_check

from huggingface_hub.dataclasses import strict

from idbert.errors import ConfigError
from idbert.nn.config import EncoderSettings
from idbert.nn.encoder_config import EncoderConfig, PositionOrigin
from idbert.nn.time_bias import TimeBiasSettings

WORD_MAX_LENGTH = 512
SEGMENTS = 2


@no_type_check  # `strict` checks the fields; jaxtyping would refuse those that transformers adds
@strict
class WordConfig(EncoderConfig):  # type: ignore[no-untyped-call]
    """The encoder's config, and the heads that stand on it."""

    model_type = "idbert_words"

    next_sentence: bool = False
    """Whether there is BERT's next-sentence head."""


@dataclass(frozen=True)
class WordEncoderSettings(EncoderSettings):
    """The architecture of an encoder of words that is trained from nothing.

    Raises:
        ConfigError: a value is out of range, or a setting cannot act beside the others.
    """

    hidden_size: int = 128
    """Width of the hidden states and of the word vectors."""

    max_length: int | None = None
    """Most positions a sequence may have; bert only, 512 by default. NEZHA has no such limit."""

    position_origin: PositionOrigin | None = None
    """Where positions are counted from; bert only. oldest (the default): 0, 1, 2, ... as in BERT;
    newest: backwards from the last token."""

    head_transform: bool | None = None
    """Dense layer, activation and LayerNorm below the scores of the words, as in BERT's masked-word
    head. Default: yes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time_bias != TimeBiasSettings():
            raise ConfigError("time_bias cannot act on words, which have no times. Leave it out.")

    def to_config(
        self, *, vocab_size: int, is_causal: bool = False, type_vocab_size: int = SEGMENTS
    ) -> EncoderConfig:
        """Return the config of an encoder with these settings; arguments as in the base."""
        config = super().to_config(
            vocab_size=vocab_size, is_causal=is_causal, type_vocab_size=type_vocab_size
        )
        if self.kind == "bert":
            config.position_origin = self.position_origin or "oldest"
            config.max_position_embeddings = self.max_length or WORD_MAX_LENGTH
        return config
