"""Words: cut by jieba where a text is Chinese, at blanks and punctuation elsewhere."""

import re
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

import jieba
import numpy as np
from jaxtyping import Bool, Int64, UInt32

_CHINESE_BLOCKS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
"""The blocks that BERT's tokenizer takes for Chinese characters, the small ones merged."""
_CHINESE = re.compile(
    "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _CHINESE_BLOCKS) + "]"
)
_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"\w+|\s+|[^\w\s]+")


def is_chinese(text: str) -> bool:
    """Say whether a text holds a Chinese character."""
    return _CHINESE.search(text) is not None


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without blanks and punctuation."""
    pieces = _cutter().lcut(text) if is_chinese(text) else [text]
    return [word for piece in pieces for word in _WORD.findall(piece.lower())]


def pieces_of(text: str) -> list[str]:
    """Return a text cut into words, blanks and punctuation; joined they are the text again."""
    pieces: list[str] = _cutter().lcut(text) if is_chinese(text) else _PIECE.findall(text)
    return pieces


def starts_of_words(texts: Sequence[str], encodings: Sequence[Any]) -> Bool[np.ndarray, "T"]:
    """Say of every token whether a word begins with it.

    A token that begins with a Chinese character begins a word where jieba does; any other where
    the tokenizer's own words begin, and behind a Chinese character. A token at the very place of
    the one before it (the bytes of one character, a blank of its own) never does.

    Args:
        texts: that were encoded.
        encodings: of the tokenizers library, one a text, without special tokens.

    Returns:
        The marks of all tokens end to end.
    """
    lengths_N = np.fromiter((len(encoding) for encoding in encodings), np.int64, len(encodings))
    first_N = np.cumsum(lengths_N) - lengths_N
    if not lengths_N.sum():
        return np.zeros(0, bool)
    spans_T = np.array(list(chain.from_iterable(e.offsets for e in encodings)), np.int64)
    words = chain.from_iterable(e.word_ids for e in encodings)
    # An added token has no word, which as NaN differs from every neighbour.
    words_T = np.array(list(words), np.float64)

    codes, boundaries = _characters(texts)
    chinese = np.zeros(len(codes), bool)
    for first, last in _CHINESE_BLOCKS:
        chinese |= (codes >= first) & (codes <= last)
    sizes_N = np.fromiter(map(len, texts), np.int64, len(texts))
    base_T = np.repeat(np.cumsum(sizes_N) - sizes_N, lengths_N)
    places_T = np.minimum(base_T + spans_T[:, 0], len(codes) - 1)
    last_T = np.maximum(base_T + spans_T[:, 1] - 1, 0)

    new_word_T = np.concatenate([[True], words_T[1:] != words_T[:-1]])
    behind_chinese_T = np.concatenate([[False], chinese[last_T[:-1]]])
    starts_T = np.where(chinese[places_T], boundaries[places_T], new_word_T | behind_chinese_T)
    starts_T[1:] &= places_T[1:] != places_T[:-1]
    starts_T[first_N[lengths_N > 0]] = True
    marks: np.ndarray = starts_T
    return marks


def _characters(
    texts: Sequence[str],
) -> tuple[UInt32[np.ndarray, "_"], Bool[np.ndarray, "_"]]:
    """Return the code of every character of all texts, and whether jieba begins a word there."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    boundaries = np.zeros(len(codes), bool)
    base = 0
    for text in texts:
        if is_chinese(text):
            boundaries[base + _starts(text)] = True
        base += len(text)
    return codes, boundaries


def _starts(text: str) -> Int64[np.ndarray, "_"]:
    sizes = np.fromiter(map(len, _cutter().cut(text)), np.int64)
    return np.cumsum(sizes) - sizes


@cache
def _cutter() -> jieba.Tokenizer:
    """Return a jieba tokenizer of our own; its dictionary is read at first use, in a second."""
    return _Cutter()


class _Cutter(jieba.Tokenizer):  # type: ignore[misc]
    """jieba without its cache: a marshal file in the common /tmp, which anybody could have put."""

    def initialize(self, dictionary: None = None) -> None:
        """Read the dictionary that jieba brings."""
        with self.lock:
            self.FREQ, self.total = self.gen_pfdict(self.get_dict_file())
            self.initialized = True
