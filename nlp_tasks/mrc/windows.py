"""Questions with their contexts as windows of tokens, each token's place in the context kept.

A window is laid out as the tokenizer lays out a pair, [CLS] question [SEP] context [SEP]. Contexts
that are too long are cut into several that overlap. Position 0 stands for "no answer here".
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64
from transformers import PreTrainedTokenizerBase

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.special_tokens import FramedSlices, SpecialTokens, positions_of
from idbert.inputs.text import EncodedTexts
from nlp_tasks.mrc.formats import Question
from nlp_tasks.mrc.tokens import PlacedTokens

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowSettings:
    """How a question and its context become windows of tokens."""

    max_length: int = 384
    """Positions of a window: the question, a part of the context and the special tokens."""
    stride: int = 128
    """Tokens of the context from the start of a window to the next. What windows have in common is
    read in both."""
    max_question_length: int = 64
    """Tokens of a question."""
    long_questions: Literal["cut", "refuse"] = "cut"
    """Questions that are longer. cut: their end is left out, and how many is counted; refuse: an
    error names them."""

    def __post_init__(self) -> None:
        for name in ("max_length", "stride", "max_question_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.long_questions not in ("cut", "refuse"):
            raise ConfigError(f"long_questions is '{self.long_questions}'; choose cut or refuse.")

    def check_room(self, num_special: int) -> None:
        """Check that beside the longest question there is room for a stride of the context.

        Args:
            num_special: the special tokens of a pair.

        Raises:
            ConfigError: there is not, so that tokens between the windows would be in none.
        """
        room = self.max_length - num_special - self.max_question_length
        if self.stride > room:
            raise ConfigError(
                f"stride is {self.stride}, and max_length {self.max_length} leaves room for "
                f"{max(0, room)} tokens of the context beside a question of max_question_length "
                f"{self.max_question_length} and {num_special} special tokens: some tokens would "
                "be in no window. Raise max_length, or lower one of the others."
            )


@dataclass(frozen=True, eq=False)
class ContextWindows:
    """The windows of questions, in the questions' order.

    Attributes:
        encoded: their tokens; `rows_N` is the question of each.
        contexts: the tokens of the contexts, each context once.
        context_starts_N: the position at which the part of the context begins.
        first_tokens_N: which token of `contexts` stands there.
        context_sizes_N: tokens of that part.
        word_ids: the word that each token is in; None for a model that reads none.
        num_cut: questions of which the end is left out.
    """

    encoded: EncodedTexts
    contexts: PlacedTokens
    context_starts_N: Int64[np.ndarray, "N"]
    first_tokens_N: Int64[np.ndarray, "N"]
    context_sizes_N: Int64[np.ndarray, "N"]
    word_ids: Int32[np.ndarray, "T"] | None = None
    num_cut: int = 0

    def __len__(self) -> int:
        """Return N, the number of windows."""
        return len(self.encoded)

    @property
    def num_questions(self) -> int:
        """How many questions there are; fewer than windows where some contexts are long."""
        return self.encoded.num_texts

    @property
    def context_positions_T(self) -> Int64[np.ndarray, "_"]:
        """The places of all context tokens of all windows in `encoded.ids`."""
        return positions_of(self.encoded.offsets[:-1] + self.context_starts_N, self.context_sizes_N)

    @property
    def can_hold_answer_T(self) -> Bool[np.ndarray, "T"]:
        """Where an answer may begin or end: position 0, and tokens of the context with a text."""
        can_T = np.zeros(len(self.encoded.ids), bool)
        has_text_T = self.contexts.ends_T > self.contexts.starts_T
        tokens = positions_of(self.first_tokens_N, self.context_sizes_N)
        can_T[self.context_positions_T] = has_text_T[tokens]
        can_T[self.encoded.offsets[:-1]] = True
        return can_T

    def characters(
        self, windows: Int64[np.ndarray, "_"], positions: Int64[np.ndarray, "_"]
    ) -> tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
        """Return where the tokens at positions of windows begin and end in their context."""
        tokens = self.first_tokens_N[windows] + positions - self.context_starts_N[windows]
        return self.contexts.starts_T[tokens], self.contexts.ends_T[tokens]


def make_windows(
    questions: PlacedTokens,
    contexts: PlacedTokens,
    context_of_question: Int64[np.ndarray, "_"],
    tokenizer: PreTrainedTokenizerBase,
    settings: WindowSettings,
    *,
    num_token_types: int = 2,
) -> ContextWindows:
    """Lay out questions beside their contexts.

    Args:
        questions: their tokens.
        contexts: the tokens of the contexts, each once.
        context_of_question: which context belongs to each question.
        tokenizer: that made the tokens.
        settings: length and stride.
        num_token_types: that the model tells apart; with fewer than the tokenizer makes, none are
            kept.

    Raises:
        CheckpointError: the tokenizer puts nothing before a text.
        ConfigError: beside the longest question there is no room for a stride.
        DataError: a question is too long, and the settings refuse that.
    """
    specials = SpecialTokens.of(tokenizer)
    before, between, after = (len(group) for group in specials.pair.groups)
    if not before:
        raise CheckpointError(
            f"the tokenizer {tokenizer.name_or_path!r} puts no token before a text that could "
            "stand for 'no answer'. Give a model like BERT, whose texts begin with [CLS]."
        )
    settings.check_room(before + between + after)
    num_cut = check_questions(questions, settings)
    question_sizes_Q = np.minimum(questions.lengths, settings.max_question_length)

    room_Q = settings.max_length - before - between - after - question_sizes_Q
    sizes_Q = contexts.lengths[context_of_question]
    stride = settings.stride
    num_windows_Q = 1 + np.maximum(0, -(-(sizes_Q - room_Q) // stride))
    rows_N = np.repeat(np.arange(len(sizes_Q)), num_windows_Q)
    number_N = np.arange(len(rows_N)) - np.repeat(
        np.cumsum(num_windows_Q) - num_windows_Q, num_windows_Q
    )
    context_sizes_N = np.minimum(room_Q[rows_N], sizes_Q[rows_N] - number_N * stride)
    first_tokens_N = contexts.offsets[context_of_question[rows_N]] + number_N * stride
    question_starts_N, question_sizes_N = questions.offsets[rows_N], question_sizes_Q[rows_N]

    framed = FramedSlices(
        specials,
        len(questions.ids) + len(contexts.ids),
        np.stack([question_starts_N, len(questions.ids) + first_tokens_N], axis=1),
        np.stack([question_sizes_N, context_sizes_N], axis=1),
        1,
        np.ones(len(rows_N), bool),
    )
    offsets = np.concatenate([[0], np.cumsum(framed.lengths)]).astype(np.int64)
    types = framed.types()
    context_starts_N = before + question_sizes_N + between
    word_ids = None
    if questions.word_ids is not None and contexts.word_ids is not None:
        word_ids = np.zeros(offsets[-1], np.int32)
        word_ids[positions_of(offsets[:-1] + before, question_sizes_N)] = questions.word_ids[
            positions_of(question_starts_N, question_sizes_N)
        ]
        word_ids[positions_of(offsets[:-1] + context_starts_N, context_sizes_N)] = (
            contexts.word_ids[positions_of(first_tokens_N, context_sizes_N)]
        )
    encoded = EncodedTexts(
        ids=framed.ids(np.concatenate([questions.ids, contexts.ids])),
        offsets=offsets,
        rows_N=rows_N,
        num_texts=len(sizes_Q),
        type_ids=types if 0 < types.max(initial=0) < num_token_types else None,
        num_truncated=int((num_windows_Q > 1).sum()),
    )
    logger.info(
        "%d questions in %d windows of %.1f tokens in the mean; the contexts of %d need several",
        len(sizes_Q),
        len(rows_N),
        framed.lengths.mean() if len(rows_N) else 0,
        encoded.num_truncated,
    )
    return ContextWindows(
        encoded, contexts, context_starts_N, first_tokens_N, context_sizes_N, word_ids, num_cut
    )


def answer_positions(
    windows: ContextWindows,
    questions: Sequence[Question],
    context_of_question: Int64[np.ndarray, "_"],
) -> Int64[np.ndarray, "N 2"]:
    """Return the first and last position of each window's answer; (0, 0) where there is none.

    A question's first answer counts. Where it does not lie wholly in a window, that window has
    none; how many answers are in no window as a whole is logged. Tokens that reach beyond the
    answer's characters belong to it.

    Args:
        windows: of the questions.
        questions: with their answers.
        context_of_question: which of `windows.contexts` belongs to each.
    """
    given_Q = np.array([question.has_answer for question in questions], bool)
    starts_Q = np.array([q.starts[0] if q.has_answer else 0 for q in questions], np.int64)
    sizes_Q = np.array([len(q.answers[0]) if q.has_answer else 0 for q in questions], np.int64)
    first_Q, last_Q = windows.contexts.tokens_between(
        context_of_question, starts_Q, starts_Q + sizes_Q
    )
    has_tokens_Q = first_Q <= last_Q

    rows_N = windows.encoded.rows_N
    begins_N = windows.first_tokens_N
    holds_N = (
        (given_Q & has_tokens_Q)[rows_N]
        & (first_Q[rows_N] >= begins_N)
        & (last_Q[rows_N] < begins_N + windows.context_sizes_N)
    )
    is_lost_Q = given_Q & (np.bincount(rows_N, holds_N, minlength=len(given_Q)) == 0)
    if is_lost_Q.any():
        logger.warning(
            "%d of %d answers are in no window as a whole, and their questions count as without "
            "one: question %s. Lower stride, or raise max_length",
            is_lost_Q.sum(),
            given_Q.sum(),
            _named(np.flatnonzero(is_lost_Q).tolist()),
        )
    shift_N = windows.context_starts_N - begins_N
    positions_N2 = np.stack([first_Q[rows_N] + shift_N, last_Q[rows_N] + shift_N], axis=1)
    return np.where(holds_N[:, None], positions_N2, 0)


def check_questions(questions: PlacedTokens, settings: WindowSettings) -> int:
    """Return how many questions are too long.

    Raises:
        DataError: there are some, and the settings refuse them.
    """
    rows = np.flatnonzero(questions.lengths > settings.max_question_length).tolist()
    if not rows:
        return 0
    what = (
        f"{len(rows)} of {len(questions.lengths)} questions are longer than max_question_length "
        f"{settings.max_question_length}: number {_named(rows)}"
    )
    if settings.long_questions == "refuse":
        raise DataError(f"{what}. Shorten them, or set long_questions to cut.")
    logger.warning("%s; their ends are left out", what)
    return len(rows)


def _named(rows: list[int]) -> str:
    """Return the first numbers, from 1, of some rows."""
    return ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
