"""Texts on their way to batches: tokens, cut to length, laid out with special tokens, kept flat."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8
from transformers import PreTrainedTokenizerBase

from idbert.errors import ConfigError, DataError
from idbert.inputs.key_sentences import key_sentences
from idbert.inputs.special_tokens import FramedSlices, SpecialTokens
from idbert.inputs.text_checks import check_texts, count_unknown
from idbert.inputs.tokens import FlatTokens, tokenize
from idbert.inputs.truncation import kept_ends, shared_budgets, windows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextSettings:
    """How long a text may be, and what of a longer one is read."""

    max_length: int = 128
    """Positions of a sequence, special tokens included."""
    truncation: Literal["head", "tail", "head_tail", "key_sentences", "windows"] = "head"
    """What is kept of a text that is longer: its head, its tail, both, the sentences that say most
    (TextRank), or all of it in windows whose scores are averaged. Of a pair, the longer text is cut
    first."""
    head_tokens: int | None = None
    """Tokens of the head with "head_tail", the rest is tail; null: a quarter of max_length, which
    is 128 and 382 of 512. The texts of a pair keep the same share."""
    split_head_tail: bool = False
    """With "head_tail": head and tail of a long text become a pair, with the separator between."""
    window_stride: int | None = None
    """Tokens from the start of a window to the next, with "windows"; null: half a window."""

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least 1.")
        for name, truncation in (
            ("head_tokens", "head_tail"),
            ("split_head_tail", "head_tail"),
            ("window_stride", "windows"),
        ):
            value = getattr(self, name)
            if value not in (None, False) and self.truncation != truncation:
                raise ConfigError(
                    f"{name} only acts with truncation '{truncation}', not with "
                    f"'{self.truncation}'. Leave it out, or change the truncation."
                )
        for name in ("head_tokens", "window_stride"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < self.max_length:
                raise ConfigError(
                    f"{name} is {value}; it must be from 1 to below max_length {self.max_length}."
                )


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Sequences of tokens end to end; sequence n's are `offsets[n] : offsets[n + 1]`.

    Attributes:
        ids: with the special tokens.
        offsets: N + 1 bounds, from 0 to T.
        rows_N: the text that a sequence belongs to; ascending, no text left out.
        num_texts: how many texts there are; fewer than N where windows made several of one.
        type_ids: token types; None: all are 0.
        starts_word: whether a token begins a word; special tokens do. None if nobody asked.
        num_truncated: texts of which tokens were left out, or that needed several windows.
        num_unknown: texts in which the tokenizer knows no token at all.
    """

    ids: Int32[np.ndarray, "T"]
    offsets: Int64[np.ndarray, "_"]
    rows_N: Int64[np.ndarray, "N"]
    num_texts: int
    type_ids: UInt8[np.ndarray, "T"] | None = None
    starts_word: Bool[np.ndarray, "T"] | None = None
    num_truncated: int = 0
    num_unknown: int = 0

    def __len__(self) -> int:
        """Return N, the number of sequences."""
        return len(self.rows_N)

    @property
    def lengths(self) -> Int64[np.ndarray, "N"]:
        """The number of tokens of each sequence, special tokens included."""
        return np.diff(self.offsets)


def encode_texts(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    settings: TextSettings = TextSettings(),  # noqa: B008 (frozen)
    pairs: Sequence[str] | None = None,
    *,
    allow_empty: bool = False,
    mark_words: bool = False,
    num_token_types: int = 2,
) -> EncodedTexts:
    """Turn texts, or pairs of texts, into sequences of token ids.

    Special tokens stand where the tokenizer itself puts them; with truncation "head" the ids are
    those of `tokenizer(text, pair, truncation=True, max_length=max_length)`.

    Args:
        texts: one a row.
        tokenizer: a fast one, as `open_tokenizer` returns it.
        settings: length and truncation.
        pairs: the second text of each row.
        allow_empty: an empty text becomes a sequence of special tokens instead of an error.
        mark_words: keep which tokens begin a word, for whole-word masking; costs a run of jieba
            over Chinese texts.
        num_token_types: that the encoder has (its config's type_vocab_size); where it has fewer
            than the tokenizer makes, none are kept.

    Raises:
        ConfigError: windows or split_head_tail with pairs, or no room beside the special tokens.
        DataError: a text is empty or no text at all, or there is another number of pairs.
    """
    _check(texts, pairs, settings)
    for part in _parts(texts, pairs):
        check_texts(part, allow_empty=allow_empty)
    specials = SpecialTokens.of(tokenizer)
    budget = _budget(specials, settings, is_pair=pairs is not None)
    parts = [tokenize(part, tokenizer, mark_words=mark_words) for part in _parts(texts, pairs)]
    num_unknown = count_unknown(_parts(texts, pairs), parts, tokenizer.unk_token_id)
    pool = _Pool(parts, specials, settings, budget)
    if settings.truncation == "key_sentences":
        pool.shorten(_parts(texts, pairs), tokenizer, mark_words=mark_words)
    framed, rows_N = pool.framed()

    lengths_N = framed.lengths
    types = framed.types()
    encoded = EncodedTexts(
        ids=framed.ids(pool.ids),
        offsets=np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int64),
        rows_N=rows_N,
        num_texts=len(texts),
        type_ids=types if 0 < types.max(initial=0) < num_token_types else None,
        starts_word=None if pool.starts_word is None else framed.marks(pool.starts_word),
        num_truncated=pool.num_truncated,
        num_unknown=num_unknown,
    )
    logger.info(
        "%d texts in %d sequences of %.1f tokens in the mean; %d texts are longer than "
        "%d positions (%s)",
        len(texts),
        len(encoded),
        lengths_N.mean() if len(encoded) else 0,
        encoded.num_truncated,
        settings.max_length,
        settings.truncation,
    )
    return encoded


class _Pool:
    """The tokens of all texts in one flat array, and the slice of it that stands for each text."""

    def __init__(
        self,
        parts: list[FlatTokens],
        specials: SpecialTokens,
        settings: TextSettings,
        budget: int,
    ) -> None:
        self._specials, self._settings, self._budget = specials, settings, budget
        self.ids = np.concatenate([part.ids for part in parts])
        marks = [part.starts_word for part in parts if part.starts_word is not None]
        self.starts_word = np.concatenate(marks) if marks else None
        base = np.cumsum([0, *(len(part.ids) for part in parts)])
        self._starts = [part.offsets[:-1] + first for part, first in zip(parts, base, strict=False)]
        self._lengths = [part.lengths for part in parts]
        self._budgets = self._share_out()
        self._too_long = [n > most for n, most in zip(self._lengths, self._budgets, strict=True)]
        self.num_truncated = int(np.logical_or.reduce(self._too_long).sum())

    def shorten(
        self, parts: list[Sequence[str]], tokenizer: PreTrainedTokenizerBase, *, mark_words: bool
    ) -> None:
        """Replace the texts that are too long by their key sentences."""
        for place, texts in enumerate(parts):
            rows = np.flatnonzero(self._too_long[place])
            shortened = key_sentences(
                [texts[row] for row in rows.tolist()],
                self._budgets[place][rows].tolist(),
                lambda sentences: tokenize(sentences, tokenizer).lengths.tolist(),
            )
            tokens = tokenize(shortened, tokenizer, mark_words=mark_words)
            self._starts[place][rows] = len(self.ids) + tokens.offsets[:-1]
            self._lengths[place][rows] = tokens.lengths
            self.ids = np.concatenate([self.ids, tokens.ids])
            if self.starts_word is not None and tokens.starts_word is not None:
                self.starts_word = np.concatenate([self.starts_word, tokens.starts_word])

    def framed(self) -> tuple[FramedSlices, Int64[np.ndarray, "N"]]:
        """Return the sequences within their budgets, and the text that each belongs to."""
        settings = self._settings
        rows_N = np.arange(len(self._lengths[0]))
        is_pair = np.full(len(rows_N), len(self._lengths) == 2)
        if settings.truncation == "windows":
            stride = settings.window_stride or (self._budget + 1) // 2
            rows_N, shifts, sizes = windows(self._lengths[0], self._budget, stride)
            starts, lengths, num_first = [self._starts[0][rows_N] + shifts], [sizes], 1
            is_pair = is_pair[rows_N]
        else:
            starts, lengths, num_first = [], [], 2
            for starts_N, lengths_N, budgets_N in zip(
                self._starts, self._lengths, self._budgets, strict=True
            ):
                head_N, tail_N = kept_ends(
                    lengths_N, budgets_N, settings.truncation, self._head_share()
                )
                starts += [starts_N, starts_N + lengths_N - tail_N]
                lengths += [head_N, tail_N]
            if settings.split_head_tail:
                num_first, is_pair = 1, lengths[1] > 0
        framed = FramedSlices(
            self._specials,
            len(self.ids),
            np.stack(starts, axis=1),
            np.stack(lengths, axis=1),
            num_first,
            is_pair,
        )
        return framed, rows_N

    def _share_out(self) -> list[Int64[np.ndarray, "N"]]:
        """Return the most tokens that each text may keep."""
        if len(self._lengths) == 2:
            first_N, second_N = self._lengths
            return list(shared_budgets(first_N, second_N, self._budget))
        alone = self._settings.max_length - self._specials.single.size
        # With split_head_tail the budget is that of a pair, which a text that fits does not become.
        return [np.where(self._lengths[0] > alone, self._budget, alone)]

    def _head_share(self) -> float:
        head_tokens = self._settings.head_tokens or max(1, self._settings.max_length // 4)
        return min(1.0, head_tokens / self._budget)  # the default may be all of a short text


def _parts(texts: Sequence[str], pairs: Sequence[str] | None) -> list[Sequence[str]]:
    return [texts] if pairs is None else [texts, pairs]


def _check(texts: Sequence[str], pairs: Sequence[str] | None, settings: TextSettings) -> None:
    """Refuse settings that cannot act on pairs, and pairs that are none."""
    if pairs is None:
        return
    for name, value in (
        ("truncation 'windows'", settings.truncation == "windows"),
        ("split_head_tail", settings.split_head_tail),
    ):
        if value:
            raise ConfigError(
                f"{name} is for single texts; these are pairs. "
                "Choose truncation 'head', 'tail', 'head_tail' or 'key_sentences'."
            )
    if len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts and {len(pairs)} second texts make no pairs.")


def _budget(specials: SpecialTokens, settings: TextSettings, *, is_pair: bool) -> int:
    """Return the tokens beside the special ones: of a text, or of both texts of a pair."""
    num_texts = 2 if is_pair or settings.split_head_tail else 1
    frame = specials.single if num_texts == 1 else specials.pair
    budget = settings.max_length - frame.size
    if budget < num_texts:
        raise ConfigError(
            f"max_length {settings.max_length} leaves {max(0, budget)} tokens for the text beside "
            f"{frame.size} special tokens; it must be at least {frame.size + num_texts}."
        )
    for name, most, why in (
        ("head_tokens", budget - 1, "nothing would be left for the tail"),
        ("window_stride", budget, "tokens between the windows would be in none"),
    ):
        value = getattr(settings, name)
        if value is not None and value > most:
            raise ConfigError(
                f"{name} is {value}, and max_length {settings.max_length} has room for {budget} "
                f"tokens beside the special ones: {why}. Make it at most {most}."
            )
    return budget
