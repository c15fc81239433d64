"""How good a reader is on questions: while it is trained, and at its end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_tasks.mrc.answers import Answer
from nlp_tasks.mrc.decoding import DecodingSettings, answers_of, find_spans
from nlp_tasks.mrc.formats import Questions
from nlp_tasks.mrc.metrics import (
    EXACT_MATCH,
    F1,
    Language,
    ReadingScores,
    best_threshold,
    score_answers,
    with_threshold,
)
from nlp_tasks.mrc.reader import Reader
from nlp_tasks.mrc.reading import QuestionReader

METRICS = (F1, EXACT_MATCH, "loss")
"""What `validation_of` always reports, the usual one first."""


def validation_of(
    model: Any,
    reading: QuestionReader,
    questions: Questions | None,
    decoding: DecodingSettings,
    language: Language,
) -> Callable[[], dict[str, float]] | None:
    """Return what evaluates the model, as it is at the time, on the same questions again and again.

    Where some questions have no answer and no threshold is set, the best one is searched each time.

    Args:
        model: The model in training.
        reading: How questions become windows.
        questions: The validation questions; None: there is nothing to evaluate on.
        decoding: Which spans can be answers.
        language: By which answers are compared.
    """
    if questions is None:
        return None
    windows = reading.windows(questions.texts, questions.contexts)
    positions_N2 = reading.positions(windows, questions)

    def evaluate() -> dict[str, float]:
        found = find_spans(
            model, windows, decoding, pad_id=reading.pad_id, positions_N2=positions_N2
        )
        scores = score_answers(found.best_texts(questions.contexts), questions.rows, language)
        if decoding.threshold is not None:
            scores = with_threshold(scores, found.margins_Q, decoding.threshold)
        elif questions.num_unanswerable:
            _, scores = best_threshold(found.margins_Q, scores)
        assert found.losses_N is not None
        return scores.means() | {"loss": float(found.losses_N.mean())}

    return evaluate


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The answers of a reader to the questions of a part.

    Attributes:
        questions: of the part.
        answers: the best to each; an empty one where there is said to be none.
        margins_Q: by how much an answer is more likely than none.
        scores: how good they are.
    """

    questions: Questions
    answers: list[Answer]
    margins_Q: np.ndarray
    scores: ReadingScores


def find_threshold(reader: Reader, questions: Questions, language: Language) -> float | None:
    """Return the best threshold for "no answer"; None where every question has an answer."""
    if not questions.num_unanswerable:
        return None
    found = reader.find(reader.reading.windows(questions.texts, questions.contexts))
    scores = score_answers(found.best_texts(questions.contexts), questions.rows, language)
    threshold, _ = best_threshold(found.margins_Q, scores)
    return threshold


def evaluate_reader(reader: Reader, questions: Questions, language: Language) -> Evaluated:
    """Answer the questions of a part and compare with the answers that are accepted."""
    found = reader.find(reader.reading.windows(questions.texts, questions.contexts))
    answers = [
        best for (best,) in answers_of(found, questions.contexts, reader.decoding.threshold, 1)
    ]
    scores = score_answers([answer.text for answer in answers], questions.rows, language)
    return Evaluated(questions, answers, found.margins_Q, scores)
