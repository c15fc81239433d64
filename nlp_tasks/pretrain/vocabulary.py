"""The vocabulary of a model that is trained from nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerFast

from idbert.errors import ConfigError
from idbert.inputs.tokenizers import MIN_VOCABULARY, train_tokenizer
from idbert.inputs.word_vocabulary import train_word_tokenizer


@dataclass(frozen=True)
class VocabularySettings:
    """How texts are cut into tokens."""

    kind: Literal["wordpiece", "bpe", "words"] = "wordpiece"
    """wordpiece: BERT's, every Chinese character is a token; bpe: on bytes as GPT-2's, no text is
    unknown to it, and frequent Chinese words become tokens; words: what stands between blanks is a
    token and never cut, as in texts whose words are numbers ('12 34 5')."""
    size: int = 8000
    """The most tokens, special tokens included."""
    lowercase: bool = True
    """Whether capital letters are read as small ones."""
    min_frequency: int = 2
    """How often two pieces must stand side by side in the texts to become one; of words: how often
    one must occur to be known."""

    def __post_init__(self) -> None:
        if self.size < MIN_VOCABULARY:
            raise ConfigError(f"size is {self.size}; it must be at least {MIN_VOCABULARY}.")
        if self.min_frequency < 1:
            raise ConfigError(f"min_frequency is {self.min_frequency}; it must be at least 1.")

    def train(self, texts: Sequence[str]) -> PreTrainedTokenizerFast:
        """Return a tokenizer with BERT's special tokens; the same texts give the same one."""
        if self.kind == "words":
            return train_word_tokenizer(
                texts, self.size, lowercase=self.lowercase, min_frequency=self.min_frequency
            )
        return train_tokenizer(
            texts,
            self.kind,
            self.size,
            lowercase=self.lowercase,
            min_frequency=self.min_frequency,
        )
