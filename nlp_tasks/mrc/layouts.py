"""The layouts in which questions are published, read into one plain form.

SQuAD 1.1 and 2.0 and DRCD are one JSON file of articles, paragraphs and questions; CMRC2018 has a
layout of its own beside that one, without offsets; JSON lines and parquet hold a paragraph with its
questions a row, or a question.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idbert.errors import DataError
from nlp_tasks.tables import JSON_LINES, PARQUET, decoded_text, read_table, show

READABLE = (
    'JSON in the layout of SQuAD ({"data": [{"paragraphs": [...]}]}) or CMRC2018, JSON lines or '
    'parquet with {"context", "qas": [...]} or {"context", "question", "answers"}'
)


@dataclass
class RawQuestion:
    """A question as a file holds it, not yet checked.

    Attributes:
        id: its name; None where it has none.
        text: the question.
        context: what is to be read.
        answers: text and offset of each; None where there is no offset.
        is_impossible: whether it is marked as one that cannot be answered.
    """

    id: Any
    text: Any
    context: Any
    answers: list[tuple[Any, Any]]
    is_impossible: bool = False


def raw_questions(path: Path) -> Iterator[RawQuestion]:
    """Return the questions of a file, whatever its layout.

    Raises:
        DataError: the file cannot be read, or its layout is unknown.
    """
    if path.suffix.lower() == ".json" and path.is_file():
        try:
            value = json.loads(decoded_text(path))
        except ValueError:
            value = None  # lines of JSON; or nothing, of which the reader of tables will tell
        if isinstance(value, list):
            return _of_cmrc(value, str(path))
        if isinstance(value, dict) and "data" in value:
            return _of_squad(value["data"], str(path))
        if value is not None and not (isinstance(value, dict) and "context" in value):
            raise DataError(f"{path} holds no questions in a known layout: {READABLE}.")
    elif path.is_file() and path.suffix.lower() not in (*JSON_LINES, *PARQUET):
        raise DataError(f"{path}: unknown ending '{path.suffix}'. What can be read: {READABLE}.")
    table = read_table(path)
    rows = [
        dict(zip(table.columns, cells, strict=True))
        for cells in zip(*table.columns.values(), strict=True)
    ]
    return _of_rows(rows, str(path))


def _of_squad(articles: Any, source: str) -> Iterator[RawQuestion]:
    for article in _dicts(articles, "data", source):
        for paragraph in _dicts(article.get("paragraphs"), "paragraphs", source):
            for entry in _dicts(paragraph.get("qas"), "qas", source):
                yield _raw(entry, paragraph.get("context"), entry.get("question"), source)


def _of_cmrc(paragraphs: Any, source: str) -> Iterator[RawQuestion]:
    for paragraph in _dicts(paragraphs, "the list", source):
        if "paragraphs" in paragraph:  # articles of SQuAD without the {"data": ...} round them
            yield from _of_squad([paragraph], source)
            continue
        context = paragraph.get("context_text", paragraph.get("context"))
        for entry in _dicts(paragraph.get("qas"), "qas", source):
            text = entry.get("query_text", entry.get("question"))
            yield _raw({"id": entry.get("query_id")} | entry, context, text, source)


def _of_rows(rows: list[dict[str, Any]], source: str) -> Iterator[RawQuestion]:
    for row in rows:
        if row.get("qas") is None:
            yield _raw(row, row.get("context"), row.get("question"), source)
            continue
        for entry in _dicts(row["qas"], "qas", source):
            yield _raw(entry, row.get("context"), entry.get("question"), source)


def _dicts(value: Any, name: str, source: str) -> list[dict[str, Any]]:
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        return value
    raise DataError(
        f"{source}: {name} holds {show(value)}, not a list of objects. What can be read: "
        f"{READABLE}."
    )


def _raw(entry: dict[str, Any], context: Any, text: Any, source: str) -> RawQuestion:
    """Make one question of its entry; answers are dicts, dicts of lists, or bare texts."""
    given = entry.get("answers")
    answers: list[tuple[Any, Any]] = []
    if isinstance(given, dict):
        texts = given.get("text") or []
        starts = given.get("answer_start") or []
        if not (isinstance(texts, list) and isinstance(starts, list)):
            raise DataError(
                f"{source}: question {entry.get('id')} has the answers {show(given)}. Give a list "
                "of texts, and one of offsets."
            )
        starts = starts or [None] * len(texts)
        if len(texts) != len(starts):
            raise DataError(
                f"{source}: question {entry.get('id')} has {len(texts)} answers and "
                f"{len(starts)} offsets. Give one for each, or none."
            )
        answers = list(zip(texts, starts, strict=True))
    elif isinstance(given, list):
        answers = [
            (answer.get("text"), answer.get("answer_start"))
            if isinstance(answer, dict)
            else (answer, None)
            for answer in given
        ]
    elif given is not None:
        raise DataError(
            f"{source}: question {entry.get('id')} has the answers {show(given)}. Give a list."
        )
    return RawQuestion(entry.get("id"), text, context, answers, bool(entry.get("is_impossible")))
