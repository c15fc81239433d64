"""Collections of texts with ids, as files hold them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from idbert.errors import DataError
from nlp_tasks.match.pair_columns import lines_of
from nlp_tasks.tables import TextTable, read_table, show
from nlp_tasks.text_columns import text_column

ID, TEXT = "id", "text"


@dataclass(frozen=True)
class TextFileSettings:
    """The columns of a file of texts."""

    text_column: str = TEXT
    """The column of the texts; a .txt file is one text a line."""
    id_column: str | None = None
    """The column of the ids, whole numbers or text. Default: id where there is such a column, else
    the row's number, from 1."""
    quotes: bool = True
    """Whether double quotes enclose fields of csv and tsv files."""


@dataclass(frozen=True, eq=False)
class TextCollection:
    """Texts and what they are called.

    Attributes:
        ids: string or int64, each once.
        texts: one an id.
        source: what errors call it.
    """

    ids: pa.Array
    texts: list[str]
    source: str

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)


def read_texts(
    file: str | Path,
    settings: TextFileSettings = TextFileSettings(),  # noqa: B008 (frozen)
    *,
    prefix: str = "",
) -> TextCollection:
    """Read a .jsonl, .csv, .tsv, .parquet or .txt file of texts.

    Args:
        file: its path.
        settings: its columns.
        prefix: of the settings' names in errors, such as "texts.".

    Raises:
        DataError: there is no such file or column, a text is missing or empty, or an id is missing,
            comes twice, or is neither text nor a whole number.
    """
    path = Path(file).expanduser()
    is_lines = path.suffix.lower() == ".txt"
    table, name = (
        lines_of(path)
        if is_lines
        else (
            read_table(path, quotes=settings.quotes),
            settings.text_column,
        )
    )
    texts = text_column(table, name, f"--{prefix}text_column")
    column = settings.id_column
    if column is None and ID in table.columns and ID != name:
        column = ID
    if column is None:
        ids = pa.array(table.lines if is_lines else range(1, len(table) + 1), pa.int64())
    else:
        ids = _ids(table, column, f"--{prefix}id_column")
    return TextCollection(ids, texts, table.source)


def _ids(table: TextTable, name: str, setting: str) -> pa.Array:
    cells = table.column(name, setting)
    missing = [row for row, cell in enumerate(cells) if cell is None or cell == ""]
    if missing:
        raise DataError(
            f"{table.source}: column '{name}' has no id in {table.where(missing)}. Fill these "
            "rows, or leave them out."
        )
    kinds = {type(cell) for cell in cells}
    wrong = [row for row, cell in enumerate(cells) if not _is_id(cell)]
    if wrong or len(kinds) > 1:
        rows = wrong or [row for row, cell in enumerate(cells) if type(cell) is not type(cells[0])]
        raise DataError(
            f"{table.source}: column '{name}' holds {show(cells[rows[0]])} ({table.where(rows)}). "
            f"Ids are all text or all whole numbers; name another column with {setting}."
        )
    counts = Counter(cells)
    seen: set[Any] = set()
    again = [row for row, cell in enumerate(cells) if counts[cell] > 1 and not _first(cell, seen)]
    if again:
        raise DataError(
            f"{table.source}: column '{name}' holds {show(cells[again[0]])} more than once "
            f"({table.where(again)}). Give each text an id of its own, or name another column with "
            f"{setting}."
        )
    return pa.array(cells, pa.string() if isinstance(cells[0], str) else pa.int64())


def _first(cell: Any, seen: set[Any]) -> bool:
    is_new = cell not in seen
    seen.add(cell)
    return is_new


def _is_id(cell: Any) -> bool:
    return isinstance(cell, str) or (type(cell) is int and -(2**63) <= cell < 2**63)
