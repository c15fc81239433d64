"""Masked tokens of texts: the code that masks items, told what a word is."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64
from transformers import PreTrainedTokenizerBase

from idbert.errors import CheckpointError, ConfigError
from idbert.inputs.masking import check_shares, draws, mask_ids, sequence_keys

_UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")
_NGRAMS = 1
"""The purpose of the draws that cut a text into n-grams."""


@dataclass(frozen=True)
class WordMaskingSettings:
    """Which tokens a model must restore, and what it sees instead of them."""

    probability: float | int = 0.15
    """Chance of every token to be a target. A sequence without any gets one, drawn at random."""
    mask_share: float | int = 0.8
    """Share of the targets that are replaced by the mask."""
    random_share: float | int = 0.1
    """Share of the targets that are replaced by a random token; the rest stays visible."""
    unit: Literal["token", "word", "ngram"] = "token"
    """What is a target as a whole: a token, a word (cut by jieba in Chinese), or up to ngram_max
    words in a row."""
    ngram_max: int | None = None
    """Words of the longest n-gram; n words are 1/n as frequent as one; null: 3."""

    def __post_init__(self) -> None:
        check_shares(self, "probability", "mask_share", "random_share")
        if self.ngram_max is not None:
            if self.unit != "ngram":
                raise ConfigError(
                    f"ngram_max only acts with unit 'ngram', not with '{self.unit}'. Leave it out."
                )
            if self.ngram_max < 1:
                raise ConfigError(f"ngram_max is {self.ngram_max}; it must be at least 1.")


class WordMasker:
    """Hides tokens of texts; special and [unused] tokens are neither hidden nor drawn.

    Args:
        tokenizer: of the texts; says which tokens are special.
        settings: the shares and the unit.
        seed: of the run.

    Raises:
        CheckpointError: the tokenizer has no mask token, or nothing but special tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: WordMaskingSettings, *, seed: int
    ) -> None:
        if tokenizer.mask_token_id is None:
            raise CheckpointError(
                f"the tokenizer {tokenizer.name_or_path!r} has no mask token, which masked "
                "language modelling needs. Choose a checkpoint that was trained with one."
            )
        self._settings, self._seed, self._mask_id = settings, seed, int(tokenizer.mask_token_id)
        self._maskable_V = maskable_tokens(tokenizer)
        self._random_ids = np.flatnonzero(self._maskable_V)
        if len(self._random_ids) == 0:
            raise CheckpointError(
                f"the tokenizer {tokenizer.name_or_path!r} has nothing but special tokens."
            )

    @property
    def needs_words(self) -> bool:
        """Whether tokens must say if they begin a word (`encode_texts(mark_words=True)`)."""
        return self._settings.unit != "token"

    def mask(
        self,
        input_ids_BL: Int64[np.ndarray, "B L"],
        lengths_B: Int64[np.ndarray, "B"],
        sequence_numbers_B: Int64[np.ndarray, "B"],
        starts_word_BL: Bool[np.ndarray, "B L"] | None,
        *,
        epoch: int,
    ) -> tuple[Int64[np.ndarray, "B L"], Int64[np.ndarray, "B L"]]:
        """Hide some tokens of every sequence and return what must be restored.

        Args:
            input_ids_BL: token ids, padded on the right; left as they are.
            lengths_B: real positions of each sequence.
            sequence_numbers_B: what identifies a sequence from epoch to epoch.
            starts_word_BL: whether a word begins; special tokens do. Needed if `needs_words`.
            epoch: a new one draws new masks.

        Returns:
            The ids that the model sees, and the labels: the true id at targets, IGNORED elsewhere.

        Source: Devlin et al. 2019 (BERT), section 3.1; Cui et al. 2021 (whole words of Chinese);
            Lan et al. 2020 (ALBERT), section 3.1, for the length of n-grams.
        """
        places_L = np.arange(input_ids_BL.shape[1])
        maskable_BL = self._maskable_V[input_ids_BL] & (places_L < lengths_B[:, None])
        key_B = sequence_keys(self._seed, epoch, sequence_numbers_B)
        groups_BL = None
        if self.needs_words:
            assert starts_word_BL is not None
            # What cannot be masked stands alone: no word or n-gram reaches across it.
            alone_BL = ~maskable_BL
            alone_BL[:, 1:] |= ~maskable_BL[:, :-1]
            alone_BL[:, :1] = True
            starts_BL = starts_word_BL | alone_BL
            if self._settings.unit == "ngram":
                ngram_max = self._settings.ngram_max or 3
                starts_BL = _starts_of_ngrams(starts_BL, key_B, ngram_max) | alone_BL
            groups_BL = np.maximum.accumulate(np.where(starts_BL, places_L, 0), axis=1)
        return mask_ids(
            input_ids_BL,
            maskable_BL,
            key_B,
            settings=self._settings,
            mask_id=self._mask_id,
            random_id=self._random_id,
            groups_BL=groups_BL,
        )

    def _random_id(self, shares_M: Float64[np.ndarray, "M"]) -> Int64[np.ndarray, "M"]:
        ids_M: np.ndarray = self._random_ids[(shares_M * len(self._random_ids)).astype(np.int64)]
        return ids_M


def maskable_tokens(tokenizer: PreTrainedTokenizerBase) -> Bool[np.ndarray, "V"]:
    """Return for each id whether it is a token of the language: not special, not [unused]."""
    maskable_V = np.zeros(max(tokenizer.get_vocab().values()) + 1, bool)
    for token, row in tokenizer.get_vocab().items():
        maskable_V[row] = not _UNUSED.fullmatch(token)
    maskable_V[tokenizer.all_special_ids] = False
    return maskable_V


def _starts_of_ngrams(
    starts_BL: Bool[np.ndarray, "B L"], key_B: UInt64[np.ndarray, "B"], ngram_max: int
) -> Bool[np.ndarray, "B L"]:
    """Cut the words of each row into n-grams of drawn lengths; say where one begins.

    Word w draws the number n of words up to the next n-gram, should one begin with w. Which do is
    found by doubling: the words reached from the first in up to 1, 2, 4, 8, ... such steps.
    """
    num_words = int(starts_BL.sum(axis=1).max())
    chances = 1 / np.arange(1, ngram_max + 1)
    sizes_BW = 1 + np.searchsorted(
        np.cumsum(chances)[:-1] / chances.sum(), draws(key_B, _NGRAMS, num_words), side="right"
    )
    end = num_words  # one more place, where every chain ends
    step_BW = np.full((len(key_B), num_words + 1), end)
    step_BW[:, :-1] = np.minimum(np.arange(num_words) + sizes_BW, end)
    reached_BW = np.zeros_like(step_BW, dtype=bool)
    reached_BW[:, 0] = True
    rows_B = np.arange(len(key_B))[:, None]
    for _ in range(num_words.bit_length()):
        reached = reached_BW.nonzero()
        reached_BW[reached[0], step_BW[reached]] = True
        step_BW = step_BW[rows_B, step_BW]
    words_BL = np.cumsum(starts_BL, axis=1) - 1
    begins: np.ndarray = starts_BL & reached_BW[rows_B, words_BL]
    return begins
