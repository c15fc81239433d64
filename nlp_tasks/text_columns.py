"""A column of texts, checked cell by cell."""

import math
from typing import Any

from idbert.errors import DataError
from idbert.inputs.text_checks import is_unicode
from nlp_tasks.tables import TextTable, show

NO_TEXT = (list, tuple, dict, bytes)
"""What is no text, nor a number that can be written as one."""


def text_column(
    table: TextTable, name: str, setting: str, *, allow_empty: bool = False
) -> list[str]:
    """Return a column of texts; "" where there is no value.

    Args:
        table: from `read_table`.
        name: the column's name.
        setting: the setting that names it, for errors.
        allow_empty: whether a text may be empty.

    Raises:
        DataError: there is no such column, or a cell holds no text.
    """
    cells = table.column(name, setting)
    wrong = [row for row, cell in enumerate(cells) if isinstance(cell, NO_TEXT)]
    if wrong:
        raise DataError(
            f"{table.source}: column '{name}' holds {show(cells[wrong[0]])}, which is no text "
            f"({table.where(wrong)}). Name a column of texts with {setting}."
        )
    texts = ["" if is_missing(cell) else str(cell) for cell in cells]
    if not allow_empty:
        refuse_empty(table, name, texts)
    broken = [row for row, text in enumerate(texts) if not is_unicode(text)]
    if broken:
        raise DataError(
            f"{table.source}: column '{name}' holds half a character, a lone surrogate "
            f"({table.where(broken)}). Mend what wrote the file, or leave these rows out."
        )
    return texts


def refuse_empty(table: TextTable, name: str, texts: list[str]) -> None:
    """Refuse texts that are empty, or blanks alone.

    Args:
        table: that they stand in, in its rows' order.
        name: of their column.
        texts: one a row.

    Raises:
        DataError: there is one.
    """
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        raise DataError(
            f"{table.source}: column '{name}' has no text in {table.where(empty)}. Fill these "
            "rows, or leave them out."
        )


def is_missing(cell: Any) -> bool:
    """Say whether a cell holds no value: None, or the NaN that a frame has for it."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell))
