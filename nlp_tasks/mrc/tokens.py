"""Tokens of texts with their places: which characters each token stands for."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt32
from transformers import PreTrainedTokenizerBase

_CHUNK = 1000
"""Texts that the tokenizer gets at a time: what it returns is many times larger than the ids."""

_BLANKS = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


@dataclass(frozen=True, eq=False)
class PlacedTokens:
    """The tokens of all texts end to end; text n's are `offsets[n] : offsets[n + 1]`.

    Attributes:
        ids: of the tokens.
        offsets: N + 1 bounds, from 0 to T.
        starts_T: the first character of each token in its text, blanks before it left out.
        ends_T: the character behind its last, with the combining marks behind that; the same as its
            start for a token of blanks alone.
        text_offsets: N + 1 bounds of the texts' characters, all texts end to end.
        word_ids: the word that each token is in; None where nobody asked.
    """

    ids: Int32[np.ndarray, "T"]
    offsets: Int64[np.ndarray, "_"]
    starts_T: Int64[np.ndarray, "T"]
    ends_T: Int64[np.ndarray, "T"]
    text_offsets: Int64[np.ndarray, "_"]
    word_ids: Int32[np.ndarray, "T"] | None = None

    @property
    def lengths(self) -> Int64[np.ndarray, "_"]:
        """The number of tokens of each text."""
        return np.diff(self.offsets)

    @property
    def text_starts_T(self) -> Int64[np.ndarray, "T"]:
        """Where the text of each token begins among the characters of all texts."""
        return np.repeat(self.text_offsets[:-1], self.lengths)

    def with_words(self, word_of_character: Int32[np.ndarray, "_"]) -> "PlacedTokens":
        """Return the tokens with the words of their first characters.

        Args:
            word_of_character: a word's id for every character of all texts end to end.
        """
        places_T = np.minimum(self.text_starts_T + self.starts_T, len(word_of_character) - 1)
        words_T = word_of_character[places_T] if len(self.ids) else np.zeros(0, np.int32)
        return replace(self, word_ids=words_T)

    def tokens_between(
        self,
        texts: Int64[np.ndarray, "_"],
        starts: Int64[np.ndarray, "_"],
        ends: Int64[np.ndarray, "_"],
    ) -> tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
        """Return the first and the last token that has a character of a slice of a text.

        Tokens of blanks alone have none.

        Args:
            texts: which text each slice is of.
            starts: its first character in that text.
            ends: the character behind its last.

        Returns:
            Places in `ids`; the first is behind the last where no token stands for the slice.
        """
        base = self.text_offsets[texts]
        text_starts_T = self.text_starts_T
        tokens = np.flatnonzero(self.ends_T > self.starts_T)
        token_starts = (text_starts_T + self.starts_T)[tokens]
        token_ends = (text_starts_T + self.ends_T)[tokens]
        tokens = np.concatenate([[-1], tokens, [len(self.ids)]])
        first = tokens[np.searchsorted(token_ends, base + starts, side="right") + 1]
        last = tokens[np.searchsorted(token_starts, base + ends, side="left")]
        return first, last


def place_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> PlacedTokens:
    """Turn texts into tokens as `tokenizer(text, add_special_tokens=False)` does, with places.

    Places count characters as Python does, whatever the tokenizer has made of them: lower case,
    accents dropped, bytes. Some tokenizers count the blank before a word to it; it is left out.

    Args:
        texts: any strings.
        tokenizer: a fast one.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a tokenizer.json may bring both; `tokenizer(text)` undoes them too
    backend.no_padding()
    ids, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    spans = [np.empty((0, 2), np.int64)]
    for first in range(0, len(texts), _CHUNK):
        chunk = list(texts[first : first + _CHUNK])
        encodings = backend.encode_batch(chunk, add_special_tokens=False)
        lists = [encoding.ids for encoding in encodings]
        ids.append(np.fromiter(chain.from_iterable(lists), np.int32))
        lengths.append(np.fromiter(map(len, lists), np.int64, len(lists)))
        flat = chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))
        spans.append(np.fromiter(flat, np.int64).reshape(-1, 2))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    text_offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    placed = PlacedTokens(
        np.concatenate(ids),
        offsets,
        *np.ascontiguousarray(np.concatenate(spans).T),
        text_offsets,
    )
    return _mended(placed, texts)


def _mended(placed: PlacedTokens, texts: Sequence[str]) -> PlacedTokens:
    """Leave out blanks at the ends of tokens; add the combining marks behind them.

    A tokenizer that drops accents leaves a mark of its own behind the last letter in no token.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    if not len(codes):
        return placed
    places = np.arange(len(codes))
    is_blank = np.isin(codes, _BLANKS)
    # The nearest character that is no blank, from each one on and back from it.
    following = np.minimum.accumulate(np.where(is_blank, len(codes), places)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(is_blank, -1, places))
    base_T = placed.text_starts_T
    starts_T, ends_T = base_T + placed.starts_T, base_T + placed.ends_T
    starts_T = np.minimum(following[np.minimum(starts_T, len(codes) - 1)], ends_T)
    ends_T = np.maximum(preceding[np.maximum(ends_T - 1, 0)] + 1, starts_T)
    is_mark = np.append(_are_marks(codes), False)
    if is_mark.any():
        behind = np.minimum.accumulate(np.where(is_mark, len(codes), np.arange(len(is_mark)))[::-1])
        text_ends_T = np.repeat(placed.text_offsets[1:], placed.lengths)
        behind_T = np.minimum(behind[::-1][ends_T], text_ends_T)
        ends_T = np.where(ends_T > starts_T, behind_T, ends_T)
    return replace(placed, starts_T=starts_T - base_T, ends_T=ends_T - base_T)


def _are_marks(codes: UInt32[np.ndarray, "_"]) -> Bool[np.ndarray, "_"]:
    """Say of each character whether it is a mark on the one before it."""
    kinds, places = np.unique(codes, return_inverse=True)
    are_marks = np.array([unicodedata.category(chr(code))[0] == "M" for code in kinds])
    found: np.ndarray = are_marks[places]
    return found
