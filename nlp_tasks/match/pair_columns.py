"""The columns of a table of pairs, cell by cell: texts, labels, hard negatives."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from idbert.errors import DataError, suggestion
from idbert.inputs.text_checks import is_unicode
from nlp_tasks.cls.labels import LabelMap, labels_of, targets_of
from nlp_tasks.tables import TextTable, decoded_text, show
from nlp_tasks.text_columns import is_missing

PairKind = Literal["binary", "score", "class", "none"]
"""What is said of a pair: same or not, how alike, of which class, or nothing."""

BINARY = {"0": 0, "1": 1, "false": 0, "true": 1}
FEW_VALUES = 3
"""So few whole numbers may be scores as well as classes, and nobody but the user knows."""
LINES = "text"
"""The column's name where a file holds one text a line."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PairLabels:
    """The labels of a table: what kind they are, the targets, and the names of classes."""

    kind: PairKind
    targets: Shaped[np.ndarray, "N"] | None = None
    names: tuple[str, ...] = ()


def lines_of(file: Path) -> tuple[TextTable, str]:
    """Read a file of one text a line, and return it as a table and its column's name.

    Raises:
        DataError: there is no such file, it is not UTF-8, or holds no text.
    """
    if not file.is_file():
        beside = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise DataError(f"there is no file '{file}'.{suggestion(file.name, beside)}")
    numbered = enumerate(decoded_text(file).split("\n"), start=1)
    kept = [(number, line.strip()) for number, line in numbered if line.strip()]
    if not kept:
        raise DataError(f"{file} holds no text. Write one a line.")
    return TextTable(
        str(file), {LINES: [line for _, line in kept]}, [row for row, _ in kept]
    ), LINES


def negatives_of(
    table: TextTable, name: str | None, firsts: Sequence[str], seconds: Sequence[str]
) -> list[list[str]] | None:
    """Return the hard negatives of every row: each once, without the row's own two texts.

    Raises:
        DataError: there is no such column, or a cell holds neither a text nor texts.
    """
    if name is None:
        return None
    cells = [_as_list(cell) for cell in table.column(name, "negatives_column")]
    wrong = [
        row
        for row, cell in enumerate(cells)
        if not all(isinstance(text, str) and text.strip() and is_unicode(text) for text in cell)
    ]
    if wrong:
        raise DataError(
            f"{table.source}: column '{name}' holds {show(table.columns[name][wrong[0]])} "
            f"({table.where(wrong)}). Give texts, or lists of texts, none of them empty."
        )
    rows = list(zip(cells, firsts, seconds, strict=True))
    own = [row for row, (cell, a, b) in enumerate(rows) if a in cell or b in cell]
    if own:
        logger.warning(
            "%s: %s rows name one of their own two texts as a hard negative (%s), which is left "
            "out.", table.source, f"{len(own):,}", table.where(own),
        )  # fmt: skip
    return [[text for text in dict.fromkeys(cell) if text not in (a, b)] for cell, a, b in rows]


def labels_of_pairs(
    table: TextTable,
    column: str,
    kind: PairKind | Literal["auto"],
    names: Sequence[str] | None,
) -> PairLabels:
    """Read the labels of pairs.

    Args:
        table: from `read_table`.
        column: of the labels; not looked at if kind is "none".
        kind: of the labels, or "auto".
        names: the classes, if they are known.

    Raises:
        DataError: there is no such column, labels are missing or cannot be read, or are unknown
            to `names`; or it is not clear of which kind they are.
    """
    if kind == "none":
        return PairLabels("none")
    if column not in table.columns:
        raise DataError(
            f"{table.source} has no column '{column}'; its columns: {', '.join(table.columns)}."
            f"{suggestion(column, table.columns)} Name the labels' column with label_column, or "
            "set kind to none if the pairs have no labels and all belong together."
        )
    if names is not None:
        labels = LabelMap("single", tuple(names))
        return PairLabels("class", targets_of(table, column, labels, None), labels.names)
    if kind == "auto":
        kind = _kind_of(table, column)
    if kind == "binary":
        return PairLabels("binary", _binary_targets(table, column))
    if kind == "score":
        return PairLabels("score", targets_of(table, column, LabelMap("number"), None))
    labels = labels_of(table, column, "single", None)
    return PairLabels("class", targets_of(table, column, labels, None), labels.names)


def _kind_of(table: TextTable, column: str) -> PairKind:
    cells = [cell for cell in table.columns[column] if not _is_gap(cell)]
    if {_name(cell) for cell in cells} <= BINARY.keys():
        return "binary"
    numbers = {_number(cell) for cell in cells}
    if None in numbers:
        return "class"
    if len(numbers) <= FEW_VALUES and all(float(value or 0).is_integer() for value in numbers):
        listed = ", ".join(f"{value:g}" for value in sorted(value or 0 for value in numbers))
        raise DataError(
            f"{table.source}: column '{column}' holds only the numbers {listed}. Are they scores "
            "or classes? Say so with kind."
        )
    return "score"


def _binary_targets(table: TextTable, column: str) -> np.ndarray:
    cells = table.columns[column]
    targets = [None if _is_gap(cell) else BINARY.get(_name(cell)) for cell in cells]
    wrong = [row for row, target in enumerate(targets) if target is None]
    if wrong:
        cell = cells[wrong[0]]
        held = "has no label" if _is_gap(cell) else f"holds {show(cell)}, not 0 or 1,"
        raise DataError(
            f"{table.source}: column '{column}' {held} in {table.where(wrong)}. Pairs of kind "
            "binary are labelled 1 (same) or 0; mend these rows, or set kind."
        )
    return np.array(targets, dtype=np.int64)


def _name(cell: Any) -> str:
    """Return a label as a word: 1, 1.0 and "1" are one label, as are true and "True"."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip().lower()


def _number(cell: Any) -> float | None:
    try:
        value = None if isinstance(cell, bool | list | tuple | dict) else float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if value is not None and math.isfinite(value) else None


def _as_list(cell: Any) -> list[Any]:
    if isinstance(cell, list | tuple):
        return list(cell)
    return [] if _is_gap(cell) or cell == "" else [cell]


def _is_gap(cell: Any) -> bool:
    return not cell.strip() if isinstance(cell, str) else is_missing(cell)
