"""Questions about contexts: read from a file, every answer checked against its context."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from idbert.errors import DataError
from idbert.inputs.text_checks import is_unicode
from nlp_tasks.mrc.answers import AnswerSettings, nearest_occurrence
from nlp_tasks.mrc.layouts import READABLE, RawQuestion, raw_questions
from nlp_tasks.tables import show

logger = logging.getLogger(__name__)

SHOWN = 5
"""Questions that an error names."""


@dataclass(frozen=True)
class Question:
    """A question about a context.

    Attributes:
        id: its name, of which there is no second in the file.
        text: the question.
        context: the text that is read for its answer.
        answers: what is accepted as its answer; none: the context does not answer it.
        starts: the character of the context at which each answer begins.
    """

    id: str
    text: str
    context: str
    answers: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()

    @property
    def has_answer(self) -> bool:
        """Whether the context answers it."""
        return bool(self.answers)


@dataclass(frozen=True, eq=False)
class Questions(Sequence[Question]):
    """The questions of a file, checked.

    Attributes:
        rows: the questions in the file's order.
        source: what errors call the file.
        num_repaired: answers that stood at another place than the file says.
        num_dropped: questions left out because none of their answers is in the context.
    """

    rows: list[Question]
    source: str
    num_repaired: int = 0
    num_dropped: int = 0

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        """Return one question by its place, or a list of them by a slice."""
        return self.rows[place]

    def __iter__(self) -> Iterator[Question]:
        """Yield the questions in their order."""
        return iter(self.rows)

    @property
    def texts(self) -> list[str]:
        """The questions' texts."""
        return [question.text for question in self.rows]

    @property
    def contexts(self) -> list[str]:
        """The context of each question; one context may stand there several times."""
        return [question.context for question in self.rows]

    @property
    def num_unanswerable(self) -> int:
        """Questions that their context does not answer."""
        return sum(not question.has_answer for question in self.rows)

    def take(self, places: Integer[np.ndarray, "_"] | Sequence[int]) -> "Questions":
        """Return the questions at the given places, in that order."""
        return Questions([self.rows[place] for place in places], self.source)


def read_questions(
    source: str | Path,
    settings: AnswerSettings = AnswerSettings(),  # noqa: B008 (frozen)
    *,
    with_contexts: bool = True,
) -> Questions:
    """Read a file of questions, and check every answer against its context.

    Args:
        source: a .json file in the layout of SQuAD, DRCD or CMRC2018; or .jsonl or .parquet with a
            paragraph or a question a row.
        settings: what is done about answers that are not where the file says.
        with_contexts: whether every question must have a context. Else contexts may be missing;
            such a question keeps its answers and has no starts.

    Raises:
        DataError: the file cannot be read or holds no question; a question or context is empty, an
            id stands twice, a question that cannot be answered has an answer; or an answer is not
            where it should be, and the settings refuse that.
    """
    path = Path(source).expanduser()
    raws = _numbered(raw_questions(path))
    if settings.empty_questions == "drop":
        num_read = len(raws)
        raws = [raw for raw in raws if not isinstance(raw.text, str) or raw.text.strip()]
        if len(raws) < num_read:
            logger.warning("%s: %d questions without a text left out", path, num_read - len(raws))
    if not raws:
        raise DataError(f"{path} holds no questions. What can be read: {READABLE}.")
    _check(raws, str(path), with_contexts)
    questions = _Locator(str(path), settings).located(raws)
    logger.info(
        "%s: %d questions about %d contexts, %d without an answer",
        path,
        len(questions),
        len(set(questions.contexts)),
        questions.num_unanswerable,
    )
    if questions.num_repaired or questions.num_dropped:
        logger.warning(
            "%s: %d answers were not at their offset and were found elsewhere; %d questions are "
            "left out, since no answer of theirs is in the context",
            path,
            questions.num_repaired,
            questions.num_dropped,
        )
    return questions


def hold_out_contexts(
    questions: Questions, share: float, *, seed: int
) -> tuple[Questions, Questions]:
    """Split questions by their contexts, so that no context stands on both sides.

    Args:
        questions: about several contexts.
        share: of the questions that is held out, about.
        seed: decides which contexts.

    Returns:
        The kept and the held out questions, each in their order.

    Raises:
        DataError: nothing would be left on one of the sides.
    """
    numbers = {context: number for number, context in enumerate(dict.fromkeys(questions.contexts))}
    context_N = np.array([numbers[question.context] for question in questions.rows])
    sizes = np.bincount(context_N)
    order = np.random.default_rng(seed).permutation(len(sizes))
    held_out = order[np.cumsum(sizes[order]) <= max(1, round(share * len(questions)))]
    if not len(held_out):
        held_out = order[:1]
    if len(held_out) == len(sizes):
        raise DataError(
            f"{questions.source} has questions about {len(sizes)} context, of which none can be "
            "held out. Give a dev file, or set dev_share to 0."
        )
    is_held_out_N = np.isin(context_N, held_out)
    return (
        questions.take(np.flatnonzero(~is_held_out_N)),
        questions.take(np.flatnonzero(is_held_out_N)),
    )


class _Locator:
    """Puts every answer at its place in the context, and counts what was wrong."""

    def __init__(self, source: str, settings: AnswerSettings) -> None:
        self._source, self._settings = source, settings
        self._misplaced: list[str] = []
        self._absent: list[str] = []
        self._num_dropped = 0

    def located(self, raws: list[RawQuestion]) -> Questions:
        rows = [question for raw in raws if (question := self._question(raw)) is not None]
        advice = "Correct them, or set"
        if self._misplaced and self._settings.offsets == "refuse":
            raise DataError(
                f"{self._source}: {len(self._misplaced)} answers are not at their offset: "
                f"{_first(self._misplaced)}. {advice} offsets to repair, which takes the nearest "
                "occurrence."
            )
        if self._absent and self._settings.absent == "refuse":
            raise DataError(
                f"{self._source}: {len(self._absent)} answers are not in their context: "
                f"{_first(self._absent)}. {advice} absent to drop, which leaves them out."
            )
        if not rows:
            raise DataError(f"{self._source}: no question is left; no answer is in its context.")
        return Questions(rows, self._source, len(self._misplaced), self._num_dropped)

    def _question(self, raw: RawQuestion) -> Question | None:
        if not raw.context:
            return Question(raw.id, raw.text, "", tuple(text for text, _ in raw.answers))
        placed = [self._placed(raw, *answer) for answer in raw.answers]
        kept = [answer for answer in placed if answer is not None]
        if raw.answers and not kept:
            self._num_dropped += 1
            return None
        answers, starts = zip(*kept, strict=True) if kept else ((), ())
        return Question(raw.id, raw.text, raw.context, tuple(answers), tuple(starts))

    def _placed(self, raw: RawQuestion, text: str, start: int | None) -> tuple[str, int] | None:
        if start is not None and start >= 0 and raw.context.startswith(text, start):
            return text, start
        for wanted in dict.fromkeys((text, text.strip())):
            place = nearest_occurrence(wanted, raw.context, start)
            if place is not None:
                if start is not None:
                    self._misplaced.append(self._where(raw, text, start))
                return wanted, place
        self._absent.append(f"{show(text)} (question {raw.id})")
        return None

    def _where(self, raw: RawQuestion, text: str, start: int) -> str:
        if not 0 <= start < len(raw.context):
            there = f"beyond the {len(raw.context)} characters of the context"
        elif start + len(text) > len(raw.context):
            there = f"and so ends beyond the {len(raw.context)} characters of the context"
        else:
            there = f"where there is {show(raw.context[start : start + len(text)])}"
        return f"{show(text)} at {start}, {there} (question {raw.id})"


def _numbered(raws: Iterator[RawQuestion]) -> list[RawQuestion]:
    """Give a name to each question that has none: its number."""
    numbered = list(raws)
    for number, raw in enumerate(numbered, 1):
        raw.id = f"question-{number}" if raw.id is None else str(raw.id)
    return numbered


def _check(raws: list[RawQuestion], source: str, with_contexts: bool) -> None:
    """Refuse what is no question; all are counted and the first five named."""

    def refuse(wrong: list[str], what: str, advice: str) -> None:
        if wrong:
            raise DataError(f"{source}: {len(wrong)} {what}: {_first(wrong)}. {advice}")

    def is_text(value: Any) -> bool:
        return isinstance(value, str) and bool(value.strip())

    refuse(
        [raw.id for raw in raws if not is_text(raw.text)],
        "questions have no text",
        "Fill them in, or set empty_questions to drop, which leaves them out.",
    )
    for raw in raws:
        if raw.context is None and not with_contexts:
            raw.context = ""
    refuse(
        [
            raw.id
            for raw in raws
            if not is_text(raw.context) and (with_contexts or raw.context != "")
        ],
        "questions have no context to be read, or an empty one",
        "Fill them in, or leave them out.",
    )
    refuse(
        [
            raw.id
            for raw in raws
            if any(
                not is_text(text) or not (start is None or type(start) is int)
                for text, start in raw.answers
            )
        ],
        "questions have an answer that is empty or no text, or an offset that is no whole number",
        "Correct them; a question without an answer has an empty list.",
    )
    refuse(
        [raw.id for raw in raws if not all(map(is_unicode, _texts_of(raw)))],
        "questions hold half a character, a lone surrogate",
        "Mend what wrote the file, or leave them out.",
    )
    refuse(
        [raw.id for raw in raws if raw.is_impossible and raw.answers],
        "questions are marked is_impossible and have an answer",
        "Remove the mark or the answers.",
    )
    seen: set[str] = set()
    twice = [raw.id for raw in raws if raw.id in seen or seen.add(raw.id)]  # type: ignore[func-returns-value]
    refuse(twice, "questions have the id of an earlier one", "Give each its own.")


def _texts_of(raw: RawQuestion) -> list[str]:
    return [raw.id, raw.text, raw.context, *(text for text, _ in raw.answers)]


def _first(names: list[str]) -> str:
    return "; ".join(names[:SHOWN]) + ("; ..." if len(names) > SHOWN else "")
