"""Documents cut into paragraphs: whole sentences, never through an answer, none of them twice."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from idbert.errors import ConfigError, DataError
from nlp_tasks.mrc.cutting import Span, cut_text
from nlp_tasks.mrc.documents import Document
from nlp_tasks.mrc.formats import Question, Questions

logger = logging.getLogger(__name__)

SHOWN = 5


@dataclass(frozen=True)
class ParagraphSettings:
    """How documents are cut."""

    max_length: int | None = 256
    """Length of a paragraph at most. A Chinese character, a word of another script and a mark count
    one each, a longer word once for each 12 letters: about the tokens of a BERT. null: documents
    stay whole."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least 1, or null.")


@dataclass(frozen=True)
class Paragraph:
    """A part of a document.

    Attributes:
        id: of the document and its number there, from 1: "animals.txt#3".
        document: id of the document.
        start: the character of the document at which it begins.
        text: of the document, without blanks at its ends.
    """

    id: str
    document: str
    start: int
    text: str


@dataclass(frozen=True, eq=False)
class Collection:
    """Paragraphs that are searched. Made by `of` or `of_contexts`.

    Attributes:
        paragraphs: row n of every search is `paragraphs[n]`.
        source: what errors call them.
        num_duplicates: paragraphs left out because an equal one is there.
        num_empty: documents without a text.
    """

    paragraphs: tuple[Paragraph, ...]
    source: str
    num_duplicates: int = 0
    num_empty: int = 0
    _rows: Mapping[bytes, int] = field(default_factory=dict, repr=False)
    _spans: Mapping[bytes, list[tuple[int, int, int]]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        documents: Sequence[Document],
        settings: ParagraphSettings = ParagraphSettings(),  # noqa: B008 (frozen)
        *,
        source: str = "the documents",
        kept_whole: Mapping[str, Sequence[Span]] | None = None,
    ) -> "Collection":
        """Cut documents into paragraphs; one that is equal, but for blanks and capitals, goes.

        Args:
            documents: in the order that the rows will have; empty ones are left out, counted.
            settings: how they are cut.
            source: what errors call them.
            kept_whole: by the id of a document, characters that no cut may part: answers.

        Raises:
            DataError: no document has a text.
        """
        paragraphs: list[Paragraph] = []
        rows: dict[bytes, int] = {}
        spans: dict[bytes, list[tuple[int, int, int]]] = {}
        num_duplicates, empty = 0, []
        for document in documents:
            cut = cut_text(document.text, settings.max_length, (kept_whole or {}).get(document.id))
            if not cut:
                empty.append(document.id)
            placed = []
            for number, (start, end) in enumerate(cut, start=1):
                text = document.text[start:end]
                row = rows.setdefault(_key(text), len(paragraphs))
                is_new = row == len(paragraphs)
                num_duplicates += not is_new
                if is_new:
                    name = f"{document.id}#{number}"
                    paragraphs.append(Paragraph(name, document.id, start, text))
                placed.append((start, end, row))
            spans.setdefault(_digest(document.text), placed)
        if not paragraphs:
            raise DataError(
                f"none of {len(documents)} documents of {source} holds a text: there is nothing to "
                "search. Give others."
            )
        if empty:
            logger.warning(
                "%s: %d documents are empty: %s", source, len(empty), ", ".join(empty[:SHOWN])
            )
        collection = cls(
            tuple(paragraphs),
            source,
            num_duplicates,
            len(empty),
            rows,
            spans,
        )
        logger.info(
            "%s: %d documents in %d paragraphs; %d duplicates left out",
            source,
            len(documents) - len(empty),
            len(collection),
            collection.num_duplicates,
        )
        return collection

    @classmethod
    def of_contexts(cls, questions: Questions) -> "Collection":
        """Return the contexts of questions as they are, each once."""
        contexts = dict.fromkeys(context for context in questions.contexts if context.strip())
        documents = [Document(f"context-{n}", text) for n, text in enumerate(contexts, start=1)]
        return cls.of(documents, ParagraphSettings(max_length=None), source=questions.source)

    def __len__(self) -> int:
        """Return N, the number of paragraphs."""
        return len(self.paragraphs)

    @property
    def texts(self) -> list[str]:
        """The paragraphs' texts."""
        return [paragraph.text for paragraph in self.paragraphs]

    def rows_of(self, question: Question) -> list[int] | None:
        """Return the rows of the paragraphs that are known to answer a question.

        Its context may be a paragraph, or a document: then these are the parts with an answer.

        Returns:
            The rows; empty where the question has no answer; None: its context is none of these.
        """
        row = self._rows.get(_key(question.context))
        placed = self._spans.get(_digest(question.context))
        if not question.context.strip() or (row is None and placed is None):
            return None
        if not question.has_answer:
            return []
        if row is not None:
            return [row]
        ends = _spans_of(question)
        return sorted(
            {r for start, end, r in placed or () for s, e in ends if start <= s < e <= end}
        )

    def holds(self, row: int, answers: Sequence[str]) -> bool:
        """Say whether one of the answers stands in the paragraph, in whatever capitals."""
        text = self.paragraphs[row].text.casefold()
        return any(answer.casefold() in text for answer in answers)


def cut_questions(
    questions: Questions,
    settings: ParagraphSettings = ParagraphSettings(),  # noqa: B008 (frozen)
) -> tuple[Questions, Collection]:
    """Cut the contexts of questions into paragraphs, and give each question the one it needs.

    No answer is cut. Of several answers those stay that are in the paragraph which holds most of
    them. A question without an answer gets the first paragraph.

    Args:
        questions: with contexts of any length.
        settings: how they are cut.

    Returns:
        The questions about paragraphs, with their answers' new places, and all paragraphs.
    """
    names = {context: f"context-{n}" for n, context in enumerate(dict.fromkeys(questions.contexts))}
    kept_whole: dict[str, list[Span]] = {}
    for question in questions:
        kept_whole.setdefault(names[question.context], []).extend(_spans_of(question))
    documents = [Document(name, context) for context, name in names.items()]
    collection = Collection.of(documents, settings, source=questions.source, kept_whole=kept_whole)
    spans = {context: collection._spans[_digest(context)] for context in names}
    rows = [_in_paragraph(question, spans[question.context]) for question in questions]
    cut = Questions(rows, questions.source, questions.num_repaired, questions.num_dropped)
    return cut, collection


def _spans_of(question: Question) -> list[Span]:
    """Return where the answers stand in the context, without the blanks at their ends."""
    spans = []
    for answer, start in zip(question.answers, question.starts, strict=False):
        first = start + len(answer) - len(answer.lstrip())
        spans.append((first, first + len(answer.strip())))
    return spans


def _in_paragraph(question: Question, placed: list[tuple[int, int, int]]) -> Question:
    """Return the question about the paragraph of its context that holds most of its answers."""
    answers = _spans_of(question)
    inside = [[(s, e) for s, e in answers if start <= s < e <= end] for start, end, _ in placed]
    best = max(range(len(placed)), key=lambda place: len(inside[place]))
    start, end, _ = placed[best]
    text = question.context
    return Question(
        question.id,
        question.text,
        text[start:end],
        tuple(text[s:e] for s, e in inside[best]),
        tuple(s - start for s, _ in inside[best]),
    )


def _key(text: str) -> bytes:
    """Return what equal paragraphs have in common, whatever their blanks and capitals."""
    return _digest(" ".join(text.split()).casefold())


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
