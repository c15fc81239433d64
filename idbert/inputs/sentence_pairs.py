"""Pairs of text segments for next-sentence prediction, beside masked language modelling."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, Integer
from transformers import PreTrainedTokenizerBase

from idbert.errors import ConfigError, DataError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.key_sentences import split_sentences
from idbert.inputs.masking import draws, sequence_keys
from idbert.inputs.planned_loader import Batch, PlannedData
from idbert.inputs.special_tokens import FramedSlices, SpecialTokens
from idbert.inputs.text_batches import padded
from idbert.inputs.tokens import FlatTokens, tokenize
from idbert.inputs.word_masking import WordMasker, WordMaskingSettings

logger = logging.getLogger(__name__)

_FOLLOWERS = 2
"""The purpose of the draws that choose second segments."""
_TRIES = 4
"""Draws of a segment out of another document, before the true one is shown after all."""
_LEAST_REACH, _MOST_REACH, _REACH_SHARE = 8, 64, 32
"""A drawn segment is among so many of the next shorter and longer ones than the true one (a 32nd of
all, from 8 to 64): as long, so that the length does not tell them apart."""


@dataclass(frozen=True, eq=False)
class Segments:
    """Runs of whole sentences of some documents, each at most half a sequence long.

    Attributes:
        tokens: of all sentences.
        starts_U: where each segment begins in them.
        lengths_U: its tokens.
        documents_U: which document it is from; ascending.
        max_length: positions of a pair of segments, special tokens included.
    """

    tokens: FlatTokens
    starts_U: Int64[np.ndarray, "U"]
    lengths_U: Int64[np.ndarray, "U"]
    documents_U: Int64[np.ndarray, "U"]
    max_length: int

    @classmethod
    def of(
        cls,
        documents: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        mark_words: bool = False,
    ) -> "Segments":
        """Cut documents into segments of whole sentences.

        A document that is shorter than a sequence is cut near its middle; a sentence longer than
        half a sequence loses its end. Documents of one sentence are left out, counted.

        Raises:
            ConfigError: no room for two segments beside the special tokens.
            DataError: fewer than two documents have two sentences.
        """
        half = (max_length - SpecialTokens.of(tokenizer).pair.size) // 2
        if half < 1:
            raise ConfigError(f"max_length {max_length} has no room for two segments of text.")
        sentences_of = [split_sentences(document) for document in documents]
        tokens = tokenize(
            [sentence for sentences in sentences_of for sentence in sentences],
            tokenizer,
            mark_words=mark_words,
        )
        starts, lengths, owners = [], [], []
        first = num_short = 0
        for owner, sentences in enumerate(sentences_of):
            stop = first + len(sentences)
            sizes = tokens.lengths[first:stop].tolist()
            packed = _packed(sizes, min(half, -(-sum(sizes) // 2)))
            if len(packed) < 2:
                num_short, packed = num_short + 1, []
            for begin, size in packed:
                starts.append(int(tokens.offsets[first + begin]))
                lengths.append(min(size, half))
                owners.append(owner)
            first = stop
        if len(set(owners)) < 2:
            raise DataError(
                f"{len(set(owners))} of {len(documents)} documents have two sentences or more; "
                "next-sentence prediction needs at least two. Train without it."
            )
        logger.info(
            "%d documents in %d segments; left out: %d documents of one sentence",
            len(documents),
            len(starts),
            num_short,
        )
        return cls(tokens, np.array(starts), np.array(lengths), np.array(owners), max_length)


class SentencePairData(PlannedData):
    """Pairs of segments of which every other one does not belong together, with masked tokens.

    In the half of the pairs, drawn anew every epoch, the second segment is one of another document,
    about as long. `next_sentence_labels` is 0 where the second follows the first, else 1.

    Args:
        segments: of the documents; with `mark_words` if words or n-grams are hidden.
        tokenizer: that made them.
        masking: which tokens are hidden and by what.
        seed: of the run.
        num_token_types: that the encoder has; below 2, batches have no token_type_ids.

    Raises:
        ConfigError: whole words are to be hidden, and the segments do not tell where one begins.
        CheckpointError: the tokenizer has no mask token.

    Source: Devlin et al. 2019 (BERT), section 3.1.
    """

    def __init__(
        self,
        segments: Segments,
        tokenizer: PreTrainedTokenizerBase,
        masking: WordMaskingSettings,
        *,
        seed: int,
        num_token_types: int = 2,
    ) -> None:
        self.segments = segments
        self._masker = WordMasker(tokenizer, masking, seed=seed)
        if self._masker.needs_words and segments.tokens.starts_word is None:
            raise ConfigError(
                f"to mask by the {masking.unit}, the segments must say where words begin. "
                "Make them with mark_words=True."
            )
        self._specials = SpecialTokens.of(tokenizer)
        self._pad_id, self._seed = int(tokenizer.pad_token_id), seed
        self._has_types = num_token_types > 1 and max(self._specials.pair.text_types) > 0
        self._firsts_N = _first_of_pairs(segments.documents_U)

        num_segments = len(segments.lengths_U)
        self._by_length = np.argsort(segments.lengths_U, kind="stable")
        places_U = np.empty(num_segments, np.int64)
        places_U[self._by_length] = np.arange(num_segments)
        reach = min(max(num_segments // _REACH_SHARE, _LEAST_REACH), _MOST_REACH)
        self._num_near = min(num_segments, 2 * reach + 1)
        self._first_near_U = (places_U - reach).clip(0, num_segments - self._num_near)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._firsts_N)

    @property
    def token_ids(self) -> Integer[np.ndarray, "T"]:
        """All tokens of the segments, end to end."""
        return self.segments.tokens.ids

    @property
    def input_lengths(self) -> Int64[np.ndarray, "N"]:
        """Positions that each pair needs in a batch, whichever second segment is drawn."""
        lengths_U = self.segments.lengths_U
        longest_U = lengths_U[self._by_length[self._first_near_U + self._num_near - 1]]
        firsts_N = self._firsts_N
        lengths_N: np.ndarray = (
            self._specials.pair.size + lengths_U[firsts_N] + longest_U[firsts_N + 1]
        )
        return lengths_N

    def __getitems__(self, planned: PlannedBatch) -> Batch:
        """Build one batch: that of masked texts, and next_sentence_labels."""
        segments = self.segments
        firsts_B = self._firsts_N[planned.sequences]
        seconds_B = self._seconds(planned, firsts_B)
        pairs = np.stack([firsts_B, seconds_B], axis=1)
        framed = FramedSlices(
            self._specials,
            len(segments.tokens.ids),
            segments.starts_U[pairs],
            segments.lengths_U[pairs],
            1,
            np.ones(len(pairs), bool),
        )
        lengths_B = framed.lengths
        starts_B = np.cumsum(lengths_B) - lengths_B
        starts_word_BL = None
        if segments.tokens.starts_word is not None and self._masker.needs_words:
            marks = framed.marks(segments.tokens.starts_word)
            starts_word_BL = padded(marks, starts_B, lengths_B, 1).astype(bool)
        shown_BL, labels_BL = self._masker.mask(
            padded(framed.ids(segments.tokens.ids), starts_B, lengths_B, self._pad_id),
            lengths_B,
            planned.sequences,
            starts_word_BL,
            epoch=planned.epoch,
        )
        is_real_BL = np.arange(shown_BL.shape[1]) < lengths_B[:, None]
        batch = {
            "input_ids": torch.from_numpy(shown_BL),
            "attention_mask": torch.from_numpy(is_real_BL.astype(np.int64)),
            "labels": torch.from_numpy(labels_BL),
            "next_sentence_labels": torch.from_numpy((seconds_B != firsts_B + 1).astype(np.int64)),
        }
        if self._has_types:
            types_BL = padded(framed.types(), starts_B, lengths_B, 0)
            batch["token_type_ids"] = torch.from_numpy(types_BL)
        return batch

    def _seconds(
        self, planned: PlannedBatch, firsts_B: Int64[np.ndarray, "B"]
    ) -> Int64[np.ndarray, "B"]:
        """Return the second segment of each pair: the true one, or one of another document."""
        key_B = sequence_keys(self._seed, planned.epoch, planned.sequences)
        share_BT = draws(key_B, _FOLLOWERS, 1 + _TRIES)
        near_BT = (share_BT[:, 1:] * self._num_near).astype(np.int64)
        drawn_BT = self._by_length[self._first_near_U[firsts_B + 1][:, None] + near_BT]
        documents_U = self.segments.documents_U
        is_other_BT = documents_U[drawn_BT] != documents_U[firsts_B][:, None]
        other_B = drawn_BT[np.arange(len(drawn_BT)), is_other_BT.argmax(axis=1)]
        swapped_B = (share_BT[:, 0] < 0.5) & is_other_BT.any(axis=1)
        return np.where(swapped_B, other_B, firsts_B + 1)


def _packed(sizes: list[int], budget: int) -> list[tuple[int, int]]:
    """Put sentences together, in order, while they fit; return the first and the size of each run.

    A sentence above the budget is a run of its own.
    """
    packed: list[tuple[int, int]] = []
    for place, size in enumerate(sizes):
        if packed and packed[-1][1] + size <= budget:
            packed[-1] = (packed[-1][0], packed[-1][1] + size)
        elif size:
            packed.append((place, size))
    return packed


def _first_of_pairs(documents_U: Int64[np.ndarray, "U"]) -> Int64[np.ndarray, "N"]:
    """Return the segments that begin a pair: 0, 2, 4, ... of each document.

    Of an odd number, the last two make a pair too, so that every segment is in one.
    """
    sizes = np.bincount(documents_U)
    sizes_U = sizes[documents_U]
    places_U = np.arange(len(documents_U)) - (np.cumsum(sizes) - sizes)[documents_U]
    even_U = (places_U % 2 == 0) & (places_U + 1 < sizes_U)
    last_U = (places_U == sizes_U - 2) & (sizes_U % 2 == 1)
    firsts_N: np.ndarray = np.flatnonzero(even_U | last_U)
    return firsts_N
