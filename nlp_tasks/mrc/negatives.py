"""Paragraphs that do not answer a question, for a reader that must learn to say so."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int64

from idbert.errors import ConfigError
from nlp_tasks.mrc.formats import Question, Questions
from nlp_tasks.mrc.paragraphs import Collection
from nlp_tasks.mrc.recall import RecallSettings, build_recall

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NegativeSettings:
    """How many paragraphs without the answer each question is also asked of, and which."""

    per_question: int = 0
    """Such paragraphs a question with an answer gets; 0: none."""
    local_share: float | int = 0.5
    """Share of them that is drawn among the paragraphs found for the question, which are the hard
    ones; the rest is drawn from all. Where that is no whole number a question, it is so in the
    mean."""
    depth: int = 50
    """Paragraphs found for a question, among which the local ones are drawn."""
    recall: RecallSettings = field(default_factory=RecallSettings)
    """How they are found"""

    def __post_init__(self) -> None:
        for name, least in (("per_question", 0), ("depth", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 <= self.local_share <= 1:
            raise ConfigError(f"local_share is {self.local_share}; it must be from 0 to 1.")
        if self.per_question == 0:
            self._refuse_idle(("local_share", "depth", "recall"), "per_question")
        if self.local_share == 0:
            self._refuse_idle(("depth", "recall"), "local_share")

    def _refuse_idle(self, names: Sequence[str], missing: str) -> None:
        plain = {"local_share": 0.5, "depth": 50, "recall": RecallSettings()}
        for name in names:
            if getattr(self, name) != plain[name]:
                raise ConfigError(f"{name} does not act while {missing} is 0. Set it, too.")


def with_negatives(
    questions: Questions,
    collection: Collection | None,
    settings: NegativeSettings,
    seed: int,
    *,
    uncut: Questions | None = None,
) -> Questions:
    """Add questions about paragraphs that do not answer them.

    Local ones are drawn among the paragraphs that are found for the question, global ones among
    all. Never drawn is a paragraph that is known to answer the question, or another question in
    the same words, or in which an answer of it happens to stand. Where too few are left, a question
    gets fewer; where too few are found, more global ones.

    Args:
        questions: those with an answer get negatives.
        collection: the paragraphs; None: the contexts of the questions.
        settings: how many of which.
        seed: the same seed draws the same.
        uncut: the questions with whole contexts, where `cut_questions` has cut them: other
            paragraphs may hold answers too.

    Returns:
        The questions, and behind each its negatives: without answers, named ID~1, ID~2, ...

    Source: Karpukhin et al. 2020 (dense passage retrieval), section 3.2, for negatives by BM25
    without the answer.
    """
    if settings.per_question == 0:
        return questions
    collection = Collection.of_contexts(questions) if collection is None else collection
    asked = [question for question in questions if question.has_answer]
    whole = [question for question in uncut or questions if question.has_answer]
    drawn = draw_negatives(whole, collection, settings, seed)
    rows_of = {question.id: rows for question, rows in zip(asked, drawn, strict=True)}
    rows: list[Question] = []
    for question in questions:
        rows.append(question)
        for number, row in enumerate(rows_of.get(question.id, ()), start=1):
            text = collection.paragraphs[row].text
            rows.append(Question(f"{question.id}~{number}", question.text, text))
    missing = len(asked) * settings.per_question - sum(map(len, drawn))
    logger.info(
        "%d questions get %d paragraphs that do not answer them%s",
        len(asked),
        sum(map(len, drawn)),
        f"; for {missing} more too few are left" if missing else "",
    )
    return Questions(rows, questions.source, questions.num_repaired, questions.num_dropped)


def draw_negatives(
    questions: Sequence[Question], collection: Collection, settings: NegativeSettings, seed: int
) -> list[list[int]]:
    """Return the rows of paragraphs that do not answer each question, local ones first."""
    if not questions:
        return []
    draw = np.random.default_rng(seed)
    local = settings.per_question * settings.local_share
    num_local_Q = np.floor(local + draw.random(len(questions))).astype(np.int64).tolist()
    local_QK = np.empty((len(questions), 0), np.int64)
    if local:
        texts = [question.text for question in questions]
        _, local_QK = build_recall(collection.texts, settings.recall).search(texts, settings.depth)
        local_QK = draw.permuted(local_QK, axis=1)
    # Enough for every question, though some of them be excluded.
    num_global = 2 * settings.per_question + _MOST_EXCLUDED
    global_QK = distinct_rows(len(questions), len(collection), num_global, draw)
    known: defaultdict[str, set[int]] = defaultdict(set)
    for question in questions:
        known[_words(question)].update(collection.rows_of(question) or ())
    drawn = []
    for place, question in enumerate(questions):
        chosen: list[int] = []
        for rows, wanted in (
            (local_QK[place].tolist(), num_local_Q[place]),
            (global_QK[place].tolist(), settings.per_question),
        ):
            for row in rows:
                if len(chosen) >= wanted:
                    break
                is_free = row >= 0 and row not in chosen and row not in known[_words(question)]
                if is_free and not collection.holds(row, question.answers):
                    chosen.append(row)
        drawn.append(chosen)
    return drawn


def _words(question: Question) -> str:
    return " ".join(question.text.split()).casefold()


_MOST_EXCLUDED = 32
"""Paragraphs of a random choice that may turn out to hold the answer, before one gets fewer."""


def distinct_rows(
    num_questions: int, num_rows: int, count: int, draw: np.random.Generator
) -> Int64[np.ndarray, "Q K"]:
    """Draw different rows for each question, in time that does not grow with the collection.

    row_i = (a + i * s) mod p with a prime p >= num_rows and random a and s > 0; all p values occur
    once, and those from num_rows on are left out.

    Args:
        num_questions: Q.
        num_rows: of the collection.
        count: K wanted; fewer where there are fewer rows.
        draw: of random numbers.

    Returns:
        Rows; -1 where values were left out.
    """
    prime = _prime_from(num_rows)
    steps_K = np.arange(min(count + prime - num_rows, prime))
    first_Q = draw.integers(0, prime, num_questions)
    step_Q = draw.integers(1, max(prime, 2), num_questions)
    rows_QK = (first_Q[:, None] + steps_K * step_Q[:, None]) % prime
    is_row_QK: Bool[np.ndarray, "Q K"] = rows_QK < num_rows
    return np.where(is_row_QK, rows_QK, -1)


def _prime_from(number: int) -> int:
    while any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)) or number < 2:
        number += 1
    return number
