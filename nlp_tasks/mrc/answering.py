"""Answers out of a collection: paragraphs are found, read, and ranked with their spans together."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float64, Int64

from idbert.errors import ConfigError
from nlp_tasks.mrc.answers import Answer
from nlp_tasks.mrc.documents import Document, DocumentColumns, read_documents
from nlp_tasks.mrc.paragraphs import Collection, ParagraphSettings
from nlp_tasks.mrc.recall import Recall, RecallSettings, build_recall

logger = logging.getLogger(__name__)

LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class AnswerScoreSettings:
    """What the score of an answer is made of.

    score = paragraph * log p(paragraph) + span * log p(span) + has_answer * log p(has answer)
    """

    paragraph: float | int = 1.0
    """Weight of the paragraph's probability: the softmax over the paragraphs read of their scores,
    divided by their standard deviation."""
    span: float | int = 1.0
    """Weight of the span's probability: the softmax of the reader's scores over the n_best + 1 best
    spans of every paragraph read."""
    has_answer: float | int = 1.0
    """Weight of the reader's probability that the paragraph holds an answer at all."""
    may_refuse: bool = True
    """Whether a question gets no answer where the reader finds one in no paragraph; it says so by
    the threshold that its training found. Else the best span is given."""

    def __post_init__(self) -> None:
        weights = (self.paragraph, self.span, self.has_answer)
        if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise ConfigError(
                f"the weights of the score are {weights}; none may be below 0, and one must be "
                "above."
            )


@dataclass(frozen=True)
class FoundAnswer:
    """An answer and where it stands.

    Attributes:
        text: as it stands in its document.
        score: the larger the better; comparable among the answers of one question.
        probability: share of exp(score) among the spans that were compared for the question: the
            n_best + 1 best of every paragraph, so that it falls with n_best.
        document: id of the document.
        start: its first character in the document.
        end: the character behind its last.
        paragraph: id of the paragraph.
        row: of the paragraph in the collection.
        rank: of the paragraph among those found, from 1.
        paragraph_score: by which it was found.
        has_answer: the reader's probability that the paragraph holds an answer at all.
    """

    text: str
    score: float
    probability: float
    document: str
    start: int
    end: int
    paragraph: str
    row: int
    rank: int
    paragraph_score: float
    has_answer: float


class SpanReader(Protocol):
    """What reads contexts for the answers to questions, such as nlp_tasks.mrc.reader.Reader."""

    def answer(
        self, questions: Sequence[str], contexts: Sequence[str], *, n_best: int = 1
    ) -> list[list[Answer]]:
        """Return the best spans of each context for its question, best first.

        An empty answer in the first place says that the context holds none.
        """


@dataclass(frozen=True)
class Answerer:
    """Finds paragraphs for questions and reads them for the answers. Made by `load` or by hand.

    Attributes:
        reader: reads.
        collection: what is searched.
        recall: finds its rows.
        settings: what the score of an answer is made of.

    Example:
        >>> answerer = Answerer.load("runs/nlp_mrc", "documents")
        >>> answerer.answer(["Who wrote it?"])[0][0].text
    """

    reader: SpanReader
    collection: Collection
    recall: Recall
    settings: AnswerScoreSettings = field(default_factory=AnswerScoreSettings)

    @classmethod
    def load(
        cls,
        reader_run: str | Path,
        documents: str | Path | Sequence[Document],
        *,
        columns: DocumentColumns = DocumentColumns(),  # noqa: B008 (frozen)
        paragraphs: ParagraphSettings = ParagraphSettings(),  # noqa: B008
        recall: RecallSettings = RecallSettings(),  # noqa: B008
        scores: AnswerScoreSettings = AnswerScoreSettings(),  # noqa: B008
        device: str = "auto",
    ) -> "Answerer":
        """Open a reader, cut documents into paragraphs and index them.

        Args:
            reader_run: a finished run of nlp_mrc.
            documents: as `read_documents` reads them, or documents.
            columns: of a table of documents.
            paragraphs: how they are cut.
            recall: how paragraphs are found.
            scores: what the score of an answer is made of.
            device: auto: the GPU where there is one; cpu.

        Raises:
            CheckpointError: the reader or the towers cannot be opened.
            DataError: there are no documents, or none has a text.
        """
        from nlp_tasks.mrc.reader import Reader

        reader = Reader.load(reader_run, device=device)
        source = "the documents"
        if isinstance(documents, str | Path):
            source, documents = str(documents), read_documents(documents, columns)
        collection = Collection.of(documents, paragraphs, source=source)
        return cls(
            reader, collection, build_recall(collection.texts, recall, device=device), scores
        )

    def answer(
        self, questions: Sequence[str], *, k_paragraphs: int = 10, n_best: int = 1
    ) -> list[list[FoundAnswer]]:
        """Answer questions.

        Args:
            questions: any texts.
            k_paragraphs: paragraphs that are read for each.
            n_best: answers wanted; of equal ones only the best counts.

        Returns:
            The answers of each question, best first; none where no paragraph was found for it, or
            the reader finds no answer in any.

        Raises:
            ConfigError: k_paragraphs or n_best is below 1.
        """
        scores_QK, rows_QK = self.find(questions, k_paragraphs)
        return self.read(questions, scores_QK, rows_QK, n_best=n_best)

    def find(self, questions: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the paragraphs for each question, best first."""
        if k < 1:
            raise ConfigError(f"k_paragraphs is {k}; it must be at least 1.")
        return self.recall.search(questions, k)

    def read(
        self,
        questions: Sequence[str],
        scores_QK: np.ndarray,
        rows_QK: Int64[np.ndarray, "Q K"],
        *,
        n_best: int = 1,
    ) -> list[list[FoundAnswer]]:
        """Read the paragraphs that `find` has found; as `answer`."""
        if n_best < 1:
            raise ConfigError(f"n_best is {n_best}; it must be at least 1.")
        asked, ranks = np.nonzero(rows_QK >= 0)
        rows = rows_QK[asked, ranks]
        read = self.reader.answer(
            [questions[place] for place in asked.tolist()],
            [self.collection.paragraphs[row].text for row in rows.tolist()],
            n_best=n_best + 1,  # the first may be empty
        )
        log_paragraph_QK = log_probabilities(scores_QK)
        spans: list[list[tuple[int, Answer]]] = [[] for _ in questions]
        is_refused = np.full(len(questions), self.settings.may_refuse)
        for place, rank, answers in zip(asked.tolist(), ranks.tolist(), read, strict=True):
            spans[place] += [(rank, answer) for answer in answers if answer.text.strip()]
            if answers and answers[0].text.strip():
                is_refused[place] = False
        for place in np.flatnonzero(is_refused).tolist():
            spans[place] = []
        return [
            self._ranked(spans[place], scores_QK[place], rows_QK[place], log_paragraph)[:n_best]
            for place, log_paragraph in enumerate(log_paragraph_QK)
        ]

    def _ranked(
        self,
        spans: Sequence[tuple[int, Answer]],
        scores_K: np.ndarray,
        rows_K: np.ndarray,
        log_paragraph_K: np.ndarray,
    ) -> list[FoundAnswer]:
        """Score the spans of one question; of equal texts the best stays."""
        if not spans:
            return []
        weights = self.settings
        ranks = np.array([rank for rank, _ in spans])
        log_span = _log_softmax(np.array([answer.score for _, answer in spans], np.float64))
        has_answer = np.array([answer.has_answer for _, answer in spans], np.float64)
        scores = (
            weights.paragraph * log_paragraph_K[ranks]
            + weights.span * log_span
            + weights.has_answer * np.log(np.maximum(has_answer, LEAST_PROBABILITY))
        )
        probabilities = np.exp(_log_softmax(scores))
        best: dict[str, FoundAnswer] = {}
        for place in np.argsort(-scores, kind="stable").tolist():
            rank, answer = spans[place]
            paragraph = self.collection.paragraphs[rows_K[rank]]
            found = FoundAnswer(
                text=answer.text,
                score=float(scores[place]),
                probability=float(probabilities[place]),
                document=paragraph.document,
                start=paragraph.start + answer.start,
                end=paragraph.start + answer.end,
                paragraph=paragraph.id,
                row=int(rows_K[rank]),
                rank=rank + 1,
                paragraph_score=float(scores_K[rank]),
                has_answer=answer.has_answer,
            )
            best.setdefault(" ".join(answer.text.split()).casefold(), found)
        return list(best.values())


def log_probabilities(scores_QK: np.ndarray) -> Float64[np.ndarray, "Q K"]:
    """Return the log-softmax of each question's scores over their standard deviation.

    So BM25 sums, cosines and fused ranks, which differ in size by a thousand, weigh alike.

    Args:
        scores_QK: -inf where nothing was found.
    """
    found_QK = np.isfinite(scores_QK)
    scores = np.where(found_QK, scores_QK, np.nan).astype(np.float64)
    counts = np.maximum(found_QK.sum(axis=1, keepdims=True), 1)
    means = np.nansum(scores, axis=1, keepdims=True) / counts
    spread = np.sqrt(np.nansum((scores - means) ** 2, axis=1, keepdims=True) / counts)
    standard = (scores - means) / np.where(spread > 0, spread, 1)
    logs = np.full(scores_QK.shape, -np.inf)
    total = np.log(np.maximum(np.nansum(np.exp(standard), axis=1, keepdims=True), 1e-300))
    logs[found_QK] = (standard - total)[found_QK]
    return logs


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max()
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum())
    return logs
