"""Answers: where the given ones stand in their contexts, and what a found one is."""

from dataclasses import dataclass
from typing import Literal

from idbert.errors import ConfigError


@dataclass(frozen=True)
class AnswerSettings:
    """What is done about answers that are not where the file says, and about empty questions."""

    offsets: Literal["repair", "refuse"] = "repair"
    """Answers that do not stand at their offset, or end beyond the context. repair: the nearest
    occurrence is taken, and how often is counted; refuse: an error names them."""

    absent: Literal["refuse", "drop"] = "refuse"
    """Answers that stand nowhere in their context. refuse: an error names them; drop: they are left
    out, and with its last answer the question, and how many is counted."""

    empty_questions: Literal["refuse", "drop"] = "refuse"
    """Questions without a text. refuse: an error names them; drop: they are left out."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("offsets", ("repair", "refuse")),
            ("absent", ("refuse", "drop")),
            ("empty_questions", ("refuse", "drop")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{name} is '{getattr(self, name)}'; choose {' or '.join(choices)}."
                )


@dataclass(frozen=True)
class Answer:
    """A span of a context, as the answer to a question; or an empty one: there is no answer.

    Attributes:
        text: of the context, from start to end.
        start: its first character in the context; 0 where there is no answer.
        end: the character behind its last; 0 where there is no answer.
        score: logit of the start and of the end, added, and the log probability of has-answer
            where a head tells it; comparable among the spans of a question, whichever windows they
            stand in. Of no answer: the logits of position 0.
        probability: of this very span in the window where it stands.
        has_answer: probability that the context holds an answer at all.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float
    has_answer: float


def nearest_occurrence(text: str, context: str, start: int | None) -> int | None:
    """Return where a text stands in a context: at `start`, or as near to it as it does.

    Args:
        text: what is looked for; not empty.
        context: where.
        start: the character at which it should stand; None: unknown, and the first is taken.

    Returns:
        The place; of two that are equally near the earlier one; None where there is none.
    """
    if start is None:
        first = context.find(text)
        return None if first < 0 else first
    start = min(max(start, 0), len(context))
    before = context.rfind(text, 0, start + len(text))
    behind = context.find(text, start)
    if before < 0 or behind < 0:
        found = max(before, behind)
        return None if found < 0 else found
    return before if start - before <= behind - start else behind
