"""What a new vocabulary begins with: vectors of a pretrained encoder, by frequency rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64
from transformers import PreTrainedTokenizerBase

from idbert.errors import ConfigError
from idbert.inputs.tokenizers import ROLES
from idbert.inputs.word_vocabulary import token_counts
from idbert.nn.frequency_start import align_by_rank
from nlp_tasks.pretrain.corpus import CorpusSettings


@dataclass(frozen=True)
class VectorSource:
    """Where vectors come from. A base of its own, so that these settings stand before others."""

    model: str | None = None
    """A folder with a BERT or NEZHA, its name on the Hugging Face hub, or a run of nlp_pretrain or
    nlp_cls. The r-th most frequent id takes the vector of its r-th most frequent token. null: all
    vectors are drawn."""
    reference: str | None = None
    """Text in the language of that model, by which its tokens are ranked: a jsonl, csv, tsv or
    parquet file, or a text file, or a pattern of several such as 'texts/*.jsonl'."""
    reference_columns: tuple[str, ...] = ("text",)
    """The columns of the reference that hold texts."""

    def __post_init__(self) -> None:
        for name in ("reference", "reference_columns"):
            if self.model is None and getattr(self, name) != getattr(VectorSource, name):
                raise ConfigError(
                    f"{name} cannot act without the model whose tokens it ranks. Name one with "
                    "start.model, or leave it out."
                )
        if self.reference is None and self.reference_columns != VectorSource.reference_columns:
            raise ConfigError("reference_columns cannot act without a reference. Name one.")
        CorpusSettings(text_columns=self.reference_columns)  # refuses columns that cannot be

    @property
    def is_ranked(self) -> bool:
        """Whether vectors are taken by rank."""
        return self.model is not None

    def check_reference(self) -> None:
        """Refuse a model whose tokens cannot be ranked.

        Raises:
            ConfigError: there is no reference.
        """
        if self.is_ranked and self.reference is None:
            raise ConfigError(
                f"start.model is {self.model}, and nothing says which of its tokens are frequent. "
                "Give a file of texts in its language with start.reference."
            )

    def read_reference(self) -> list[str]:
        """Return the texts of the reference.

        Raises:
            ConfigError: columns are named of a file that has none.
            DataError: there is no such file, it cannot be read, or holds no text.
        """
        assert self.reference is not None
        return CorpusSettings(text_columns=self.reference_columns).read(self.reference)


@dataclass(frozen=True)
class WordStart(VectorSource):
    """What a vocabulary that is made of the texts begins with."""

    words: Literal["rank", "random"] = "rank"
    """rank: vectors of words are taken by frequency rank; random: only the layers are taken, and
    the vectors are drawn like those of the model."""
    layers: int | None = None
    """How many of the model's lowest layers come along; 0: none, and architecture says what stands
    on the vectors. Default: all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("words", "layers"):
            if self.model is None and getattr(self, name) != getattr(WordStart, name):
                raise ConfigError(
                    f"{name} cannot act without a model to start from. Name one with start.model, "
                    "or leave it out."
                )
        if self.layers is not None and self.layers < 0:
            raise ConfigError(f"layers is {self.layers}; it must be at least 0.")
        if self.words == "random":
            if self.layers == 0:
                raise ConfigError(
                    "with words 'random' and 0 layers nothing is taken from start.model. Leave it "
                    "out, or take one of them."
                )
            if self.reference is not None:
                raise ConfigError(
                    "reference ranks tokens, and words is 'random'. Leave one of them out."
                )
        self.check_reference()

    @property
    def is_ranked(self) -> bool:
        """Whether vectors are taken by rank."""
        return super().is_ranked and self.words == "rank"

    @property
    def takes_layers(self) -> bool:
        """Whether the encoder's shape is that of the model."""
        return self.model is not None and self.layers != 0


@dataclass(frozen=True)
class ItemStart(VectorSource):
    """What the items of a catalogue begin with."""

    layers: int = 0
    """How many of the model's lowest layers come along, into an encoder of the same shape."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 0:
            raise ConfigError(f"layers is {self.layers}; it must be at least 0.")
        if self.layers and self.model is None:
            raise ConfigError(
                "layers cannot act without a model to start from. Name one with start.model, or "
                "leave it out."
            )
        self.check_reference()


def rows_by_rank(
    start: VectorSource,
    counts_V: Int64[np.ndarray, "V"],
    specials: dict[str, int],
    source: PreTrainedTokenizerBase,
) -> Int64[np.ndarray, "V"]:
    """Return the row of the pretrained table that each row starts from, NO_ROW for none.

    Special tokens start from those with the same role.

    Args:
        start: whether, and by which text, the pretrained tokens are ranked.
        counts_V: how often each row occurs.
        specials: rows of special tokens by their role: pad, unk, cls, sep, mask.
        source: the pretrained model's tokenizer.
    """
    special_rows = {
        row: theirs
        for role, row in specials.items()
        if (theirs := getattr(source, f"{role}_token_id")) is not None
    }
    if not start.is_ranked:
        return align_by_rank(np.zeros_like(counts_V), np.zeros(len(source), np.int64), special_rows)
    return align_by_rank(counts_V, token_counts(start.read_reference(), source), special_rows)


def word_rows(
    start: VectorSource,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    source: PreTrainedTokenizerBase,
) -> Int64[np.ndarray, "V"]:
    """Return `rows_by_rank` of a tokenizer's tokens.

    Args:
        start: as there.
        texts: those that the new tokens are counted in.
        tokenizer: of the new vocabulary.
        source: the pretrained model's tokenizer.
    """
    specials = {role: int(getattr(tokenizer, f"{role}_token_id")) for role in ROLES}
    counts_V = token_counts(texts, tokenizer, num_rows=len(tokenizer))
    return rows_by_rank(start, counts_V, specials, source)
