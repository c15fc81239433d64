"""Labels: what kind they are, their names and numbers, and a label column turned into targets."""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Shaped

from idbert.errors import CheckpointError, DataError, suggestion
from idbert.files import written_aside
from nlp_tasks.tables import SHOWN_ROWS, TextTable, show
from nlp_tasks.text_columns import is_missing

Kind = Literal["single", "multi", "number"]
"""What is predicted: one of the labels, any number of them, or a number."""

LABELS_FILE = "labels.json"
MANY_VALUES = 20
"""Numbers with fractions and more values than these are numbers to predict, not classes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelMap:
    """What the labels are called, and which number stands for which.

    Attributes:
        kind: one label a row, several, or a number.
        names: the labels; a model's output c is the label names[c]. Empty for numbers.
    """

    kind: Kind
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataError(f"labels are of kind '{self.kind}'; there are single, multi, number.")
        if len(set(self.names)) < len(self.names):
            raise DataError("two labels have the same name.")
        if (self.kind == "number") != (not self.names):
            raise DataError(f"labels of kind {self.kind} cannot have {len(self.names)} names.")

    @property
    def num_outputs(self) -> int:
        """How many numbers a model says about a row: C, or 1 for a number."""
        return len(self.names) or 1

    def save(self, folder: str | Path) -> None:
        """Write `labels.json` into a folder."""
        value = {"kind": self.kind, "names": list(self.names)}
        with written_aside(Path(folder) / LABELS_FILE) as aside:
            aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "LabelMap":
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing or does not hold labels.
        """
        path = Path(folder) / LABELS_FILE
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            return cls(value["kind"], tuple(value["names"]))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} holds no {LABELS_FILE}. Give the folder of a classification run."
            ) from error
        except (ValueError, KeyError, TypeError, DataError) as error:
            raise CheckpointError(
                f"{path} does not hold labels: {error}. Copy it again from its run."
            ) from error


def labels_of(
    table: TextTable, column: str, kind: Kind | Literal["auto"], separator: str | None
) -> LabelMap:
    """Decide what kind of labels a column holds, and name them.

    The names are in the order of their numbers if all are whole numbers, else in that of their
    characters: the order of the rows does not count.

    Args:
        table: the training rows.
        column: the column of the labels.
        kind: of the labels; "auto": lists (or a separator) mean several labels; numbers with
            fractions and more than MANY_VALUES values, or a value of its own for more than every
            second row, mean numbers; all else one label.
        separator: what stands between the labels of a text.

    Raises:
        DataError: labels are missing or cannot be read, or all rows have the same.
    """
    cells = table.columns[column]
    _refuse_gaps(table, column, separator)
    if kind == "auto":
        kind = _kind_of(cells, separator)
        logger.info("column '%s' of %s holds labels of kind %s", column, table.source, kind)
    if kind == "number":
        values = _numbers(table, column)
        if min(values) == max(values):
            raise DataError(_one_class(table, column, show(values[0])))
        return LabelMap("number")
    rows = _label_lists(table, column, kind, separator)
    if len({frozenset(row) for row in rows}) == 1:
        raise DataError(_one_class(table, column, show(", ".join(rows[0]) or "no label")))
    return LabelMap(kind, _ordered({name for row in rows for name in row}))


def targets_of(
    table: TextTable, column: str, labels: LabelMap, separator: str | None
) -> Shaped[np.ndarray, "N ..."]:
    """Turn a label column into targets.

    Returns:
        Int64[N] numbers of labels, Float32[N, C] of ones and zeros, or Float32[N] numbers.

    Raises:
        DataError: labels are missing, cannot be read, or are unknown to the map.
    """
    _refuse_gaps(table, column, separator)
    if labels.kind == "number":
        return np.array(_numbers(table, column), dtype=np.float32)
    rows = _label_lists(table, column, labels.kind, separator)
    numbers = {name: number for number, name in enumerate(labels.names)}
    _refuse_unknown(table, column, rows, labels)
    if labels.kind == "single":
        return np.array([numbers[row[0]] for row in rows], dtype=np.int64)
    places = [number for number, row in enumerate(rows) for _ in row]
    targets_NC = np.zeros((len(rows), len(labels.names)), dtype=np.float32)
    targets_NC[places, [numbers[name] for row in rows for name in row]] = 1
    return targets_NC


def _kind_of(cells: Sequence[Any], separator: str | None) -> Kind:
    if separator is not None or any(isinstance(cell, list | tuple) for cell in cells):
        return "multi"
    values = [value for cell in cells if (value := _as_number(cell)) is not None]
    if len(values) < len(cells):
        return "single"
    with_fractions = any(value != int(value) for value in values)
    distinct = len(set(values))
    many = distinct > min(MANY_VALUES, len(values) / 2)
    return "number" if with_fractions and many else "single"


def _label_lists(
    table: TextTable, column: str, kind: Kind, separator: str | None
) -> list[list[str]]:
    """Return the names of every row's labels: exactly one if they are of kind single."""
    cells = table.columns[column]
    is_list = [isinstance(cell, list | tuple) for cell in cells]
    if kind == "single":
        wrong = [isinstance(cell, list | tuple | dict) for cell in cells]
        _refuse(table, column, wrong, "no single label", "Labels in lists are of kind multi.")
        return [[_name(cell)] for cell in cells]
    if separator is not None:
        is_text = [isinstance(cell, str) for cell in cells]
        wrong = [not text for text in is_text]
        advice = f"The label separator '{separator}' is for labels in a text; leave it out."
        _refuse(table, column, wrong, "no text", advice)
        rows = [_names(cell.split(separator)) for cell in cells]
    else:
        wrong = [not one for one in is_list]
        advice = 'Give lists in jsonl or parquet, or name what separates labels in a text: "|".'
        _refuse(table, column, wrong, "no list", advice)
        inner = [not all(map(_is_label, cell)) for cell in cells]
        _refuse(table, column, inner, "no list of labels", "A label is a text or a number.")
        rows = [_names(cell) for cell in cells]
    without = sum(not row for row in rows)
    if without:
        logger.info("%s: %d rows have no label", table.source, without)
    return rows


def _numbers(table: TextTable, column: str) -> list[float]:
    cells = table.columns[column]
    values = [_as_number(cell) for cell in cells]
    wrong = [value is None for value in values]
    _refuse(table, column, wrong, "not a number", "Labels of kind number are finite numbers.")
    return values  # type: ignore[return-value]  # none is None


def _as_number(cell: Any) -> float | None:
    """Return a cell's finite number, or None."""
    if isinstance(cell, bool) or isinstance(cell, list | tuple | dict):
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):  # the last of a whole number beyond all floats
        return None
    return value if math.isfinite(value) else None


def _is_label(cell: Any) -> bool:
    return isinstance(cell, str | int | float) and cell == cell  # NaN is not itself


def _names(cells: Iterable[Any]) -> list[str]:
    """Return the names of a row's labels, each once, without empty ones."""
    return [name for name in dict.fromkeys(_name(cell) for cell in cells) if name]


def _name(cell: Any) -> str:
    """Return a label's name: 1, 1.0 and "1" are one label, as are true and "true"."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _refuse_gaps(table: TextTable, column: str, separator: str | None) -> None:
    """Refuse rows without a value; where a separator stands, an empty text is an empty list."""

    def is_gap(cell: Any) -> bool:
        if isinstance(cell, str):
            return separator is None and not cell.strip()
        return is_missing(cell)

    gaps = [row for row, cell in enumerate(table.columns[column]) if is_gap(cell)]
    if gaps:
        raise DataError(
            f"{table.source}: column '{column}' has no label in {table.where(gaps)}. Label these "
            "rows, or leave them out."
        )


def _refuse(table: TextTable, column: str, wrong: Sequence[bool], what: str, advice: str) -> None:
    rows = [row for row, is_wrong in enumerate(wrong) if is_wrong]
    if rows:
        raise DataError(
            f"{table.source}: column '{column}' holds {show(table.columns[column][rows[0]])}, "
            f"{what} ({table.where(rows)}). {advice}"
        )


def _refuse_unknown(
    table: TextTable, column: str, rows: Sequence[Sequence[str]], labels: LabelMap
) -> None:
    known = set(labels.names)
    unknown = Counter(name for row in rows for name in row if name not in known)
    if not unknown:
        return
    places = [number for number, row in enumerate(rows) if not known.issuperset(row)]
    shown = "; ".join(
        f"{show(name)} ({count:,} times){suggestion(name, labels.names)}"
        for name, count in unknown.most_common(SHOWN_ROWS)
    )
    more = f"; and {len(unknown) - SHOWN_ROWS} more" if len(unknown) > SHOWN_ROWS else ""
    some = ", ".join(labels.names[:10]) + (", …" if len(labels.names) > 10 else "")
    raise DataError(
        f"{table.source}: column '{column}' holds {len(unknown)} labels that are not among the "
        f"{len(labels.names)} of the training rows, in {table.where(places)}: {shown}{more}\n"
        f"Known labels: {some}. Mend these rows, or train with such labels."
    )


def _one_class(table: TextTable, column: str, label: str) -> str:
    return (
        f"{table.source}: all {len(table):,} rows have the same label in column '{column}', "
        f"{label}: there is nothing to learn. Is this the right column?"
    )
