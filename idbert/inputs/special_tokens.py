"""Where a tokenizer puts its special tokens: read off one probe, then laid out by index arithmetic.

Whatever the tokenizer's template is ([CLS] a [SEP] b [SEP], <s> a </s></s> b </s>), a sequence is
a few slices of flat arrays of tokens with special tokens before, between and after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8
from transformers import PreTrainedTokenizerBase

from idbert.errors import CheckpointError


@dataclass(frozen=True)
class Frame:
    """The special tokens around one text, or around a pair.

    Attributes:
        groups: their ids: before, (between,) after.
        group_types: their token types, likewise.
        text_types: the token type of each text.
    """

    groups: tuple[tuple[int, ...], ...]
    group_types: tuple[tuple[int, ...], ...]
    text_types: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of special tokens."""
        return sum(len(group) for group in self.groups)


@dataclass(frozen=True)
class SpecialTokens:
    """The frames of a tokenizer.

    Attributes:
        single: around one text.
        pair: around two.
    """

    single: Frame
    pair: Frame

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "SpecialTokens":
        """Read the frames off what the tokenizer makes of a text and of a pair.

        Raises:
            CheckpointError: it makes no token of any common letter.
        """
        for probe in ("a", "的", "1", "A"):
            if tokenizer(probe, add_special_tokens=False)["input_ids"]:
                return cls(_frame(tokenizer, [probe]), _frame(tokenizer, [probe, probe]))
        raise CheckpointError(
            f"the tokenizer {tokenizer.name_or_path!r} makes no token of 'a', '的' or '1'. "
            "Its vocabulary is empty or damaged; copy its folder again."
        )


def positions_of(
    starts: Int64[np.ndarray, "_"], lengths: Int64[np.ndarray, "_"]
) -> Int64[np.ndarray, "T"]:
    """Return the places of all slices end to end: starts[0], starts[0] + 1, ..., starts[1], ..."""
    stops = np.cumsum(lengths)
    places: np.ndarray = np.repeat(starts - (stops - lengths), lengths)
    places += np.arange(len(places))
    return places


class FramedSlices:
    """Sequences of slices of one flat array of tokens, with special tokens round them.

    Args:
        specials: of the tokenizer.
        num_tokens: T, the length of the flat array.
        starts: the slices of the first text of each sequence, then of the second: where each
            begins; several slices make up a text if it lost its middle. [sequences, slices]
        lengths: how many tokens each slice has; 0: it is not there.
        num_first: how many of the slices belong to the first text.
        is_pair: sequences with two texts.
    """

    def __init__(
        self,
        specials: SpecialTokens,
        num_tokens: int,
        starts: Int64[np.ndarray, "N _"],
        lengths: Int64[np.ndarray, "N _"],
        num_first: int,
        is_pair: Bool[np.ndarray, "N"],
    ) -> None:
        groups = [*specials.single.groups, *specials.pair.groups]
        types = [*specials.single.group_types, *specials.pair.group_types]
        self._ids = np.array([i for group in groups for i in group], np.int32)
        self._types = np.array([t for group in types for t in group], np.uint8)
        self._num_tokens = num_tokens

        sizes = np.array([len(group) for group in groups])
        places = num_tokens + np.cumsum(sizes) - sizes
        # before, between and after: group 0, none and 1 of the single frame, 2, 3 and 4 of the pair
        before, after = np.where(is_pair, 2, 0), np.where(is_pair, 4, 1)
        between_sizes = np.where(is_pair, sizes[3], 0)
        columns = [
            (places[before], sizes[before]),
            *zip(starts.T[:num_first], lengths.T[:num_first], strict=True),
            (np.full(len(is_pair), places[3]), between_sizes),
            *zip(starts.T[num_first:], lengths.T[num_first:], strict=True),
            (places[after], sizes[after]),
        ]
        all_starts = np.stack([column[0] for column in columns], axis=1)
        self._lengths = np.stack([column[1] for column in columns], axis=1)
        self._positions = positions_of(all_starts.ravel(), self._lengths.ravel())

        first = np.where(is_pair, specials.pair.text_types[0], specials.single.text_types[0])
        zeros = np.zeros(len(is_pair), np.int64)
        self._slice_types = np.stack(
            [zeros, *[first] * num_first, zeros]
            + [zeros + specials.pair.text_types[1]] * (starts.shape[1] - num_first)
            + [zeros],
            axis=1,
        )

    @property
    def lengths(self) -> Int64[np.ndarray, "N"]:
        """Tokens of each sequence, special tokens included."""
        total: np.ndarray = self._lengths.sum(axis=1)
        return total

    def ids(self, tokens_T: Int32[np.ndarray, "T"]) -> Int32[np.ndarray, "_"]:
        """Return the ids of all sequences end to end."""
        ids: np.ndarray = np.concatenate([tokens_T, self._ids])[self._positions]
        return ids

    def marks(self, marks_T: Bool[np.ndarray, "T"]) -> Bool[np.ndarray, "_"]:
        """Return marks of tokens as `ids` does the tokens; special tokens are marked."""
        all_marks = np.concatenate([marks_T, np.ones(len(self._ids), bool)])
        marks: np.ndarray = all_marks[self._positions]
        return marks

    def types(self) -> UInt8[np.ndarray, "_"]:
        """Return the token type of each position."""
        types = np.repeat(self._slice_types.ravel(), self._lengths.ravel()).astype(np.uint8)
        special = self._positions >= self._num_tokens
        types[special] = self._types[self._positions[special] - self._num_tokens]
        return types


def _frame(tokenizer: PreTrainedTokenizerBase, probe: Sequence[str]) -> Frame:
    """Read the frame off what the tokenizer makes of one text or two."""
    encoded = tokenizer(*probe)
    # The template's own types: a tokenizer.json alone does not say that they are to be given out.
    types = encoded.encodings[0].type_ids
    owners = encoded.sequence_ids()
    groups: list[tuple[int, ...]] = [()]
    group_types: list[tuple[int, ...]] = [()]
    text_types: list[int] = []
    tokens = zip(owners, encoded["input_ids"], types, strict=True)
    for owner, run in groupby(tokens, key=lambda token: token[0]):
        of_run = list(run)
        if owner is None:
            groups[-1] = tuple(token[1] for token in of_run)
            group_types[-1] = tuple(token[2] for token in of_run)
        else:
            text_types.append(of_run[0][2])
            groups.append(())
            group_types.append(())
    return Frame(tuple(groups), tuple(group_types), tuple(text_types))
