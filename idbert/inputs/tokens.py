"""Texts as flat arrays of tokens, without special tokens; the tokenizer is called in batches."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Bool, Int32, Int64
from transformers import PreTrainedTokenizerBase

from idbert.inputs.words import starts_of_words

TOKENIZERS = threading.RLock()
"""Held by whoever sets a tokenizer's truncation or padding, until it has encoded: other threads may
share it."""
_CHUNK = 1000
"""Texts that the tokenizer gets at a time: what it returns is many times larger than the ids."""


@dataclass(frozen=True, eq=False)
class FlatTokens:
    """The tokens of all texts end to end; text n's are `offsets[n] : offsets[n + 1]`.

    Attributes:
        ids: of the tokens.
        offsets: N + 1 bounds, from 0 to T.
        starts_word: whether a token begins a word; None if nobody asked.
    """

    ids: Int32[np.ndarray, "T"]
    offsets: Int64[np.ndarray, "_"]
    starts_word: Bool[np.ndarray, "T"] | None = None

    @property
    def lengths(self) -> Int64[np.ndarray, "N"]:
        """The number of tokens of each text."""
        return np.diff(self.offsets)


def tokenize(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, mark_words: bool = False
) -> FlatTokens:
    """Turn texts into tokens, as `tokenizer(text, add_special_tokens=False)` does.

    Args:
        texts: any strings, empty ones too.
        tokenizer: a fast one.
        mark_words: say which tokens begin a word (see `starts_of_words`).
    """
    backend = tokenizer.backend_tokenizer
    encode = backend.encode_batch if mark_words else backend.encode_batch_fast
    ids, lengths, marks = [np.empty(0, np.int32)], [np.empty(0, np.int64)], [np.empty(0, bool)]
    for first in range(0, len(texts), _CHUNK):
        chunk = list(texts[first : first + _CHUNK])
        with TOKENIZERS:
            # A tokenizer.json may bring both; `tokenizer(text)` undoes them too.
            backend.no_truncation()
            backend.no_padding()
            encodings = encode(chunk, add_special_tokens=False)
        lists = [encoding.ids for encoding in encodings]
        ids.append(np.fromiter(chain.from_iterable(lists), np.int32))
        lengths.append(np.fromiter(map(len, lists), np.int64, len(lists)))
        if mark_words:
            marks.append(starts_of_words(chunk, encodings))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    starts_word = np.concatenate(marks) if mark_words else None
    return FlatTokens(np.concatenate(ids), offsets, starts_word)
