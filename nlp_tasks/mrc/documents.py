"""Documents to be searched: a folder of texts, or a table with one a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idbert.errors import DataError
from idbert.inputs.text_checks import is_unicode
from nlp_tasks.tables import TextTable, decoded_text, read_table

TEXT_FILES = (".txt", ".md")
SHOWN = 5


@dataclass(frozen=True)
class Document:
    """A text with a name.

    Attributes:
        id: of which there is no second.
        text: may be empty.
    """

    id: str
    text: str


@dataclass(frozen=True)
class DocumentColumns:
    """Where a table of documents holds what; a folder of texts has no columns."""

    id: str | None = None
    """The column of the names. Default: "id" where there is one, else the rows are numbered."""
    text: str = "text"
    """The column of the texts."""
    quotes: bool = True
    """Whether double quotes enclose fields of csv and tsv files."""


def read_documents(
    source: str | Path,
    columns: DocumentColumns = DocumentColumns(),  # noqa: B008 (frozen)
) -> list[Document]:
    """Read documents; empty ones are kept, and are for the reader of the list to leave out.

    Args:
        source: a folder, whose .txt and .md files (in folders of it too) are a document each, by
            the name of the file; one such file; or a jsonl, csv, tsv or parquet file with a
            document a row.
        columns: of a table.

    Raises:
        DataError: there is no such file or folder, or nothing in it; a file is not UTF-8; a text is
            no text, or two documents have one name.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in TEXT_FILES and file.is_file()
        )
        if not files:
            raise DataError(
                f"{path} holds no {' or '.join(TEXT_FILES)} files. Name the folder of the "
                "documents, or a table of them."
            )
        return [Document(file.relative_to(path).as_posix(), decoded_text(file)) for file in files]
    if path.suffix.lower() in TEXT_FILES and path.is_file():
        return [Document(path.name, decoded_text(path))]
    table = read_table(path, quotes=columns.quotes)
    texts = table.column(columns.text, "--columns.text")
    wrong = [row for row, text in enumerate(texts) if not isinstance(text, str | None)]
    if wrong:
        raise DataError(
            f"{table.source}: column '{columns.text}' holds no text in {table.where(wrong)}. Name "
            "the column of the texts with --columns.text."
        )
    broken = [row for row, text in enumerate(texts) if text and not is_unicode(text)]
    if broken:
        raise DataError(
            f"{table.source}: column '{columns.text}' holds half a character, a lone surrogate, in "
            f"{table.where(broken)}. Mend what wrote the file, or leave these documents out."
        )
    ids = _ids(table, columns)
    return [Document(name, text or "") for name, text in zip(ids, texts, strict=True)]


def _ids(table: TextTable, columns: DocumentColumns) -> list[str]:
    if columns.id is None and "id" not in table.columns:
        return [str(number) for number in range(1, len(table) + 1)]
    name = columns.id or "id"
    values = table.column(name, "--columns.id")
    ids = ["" if value is None else str(value) for value in values]
    _refuse(table, name, [row for row, value in enumerate(ids) if not value], "is empty")
    seen: set[Any] = set()
    twice = [row for row, value in enumerate(ids) if value in seen or seen.add(value)]  # type: ignore[func-returns-value]
    _refuse(table, name, twice, "names a document that is there already")
    return ids


def _refuse(table: TextTable, column: str, rows: Sequence[int], what: str) -> None:
    if rows:
        raise DataError(
            f"{table.source}: column '{column}' {what} in {table.where(rows)}. Give every document "
            "a name of its own, or name another column with --columns.id."
        )
