"""Pairs of texts to learn from, with their labels where somebody knows them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from idbert.errors import DataError, suggestion
from nlp_tasks.cls.examples import ExampleSettings, texts_of
from nlp_tasks.tables import TextTable, read_table, show

logger = logging.getLogger(__name__)

MOST_LABELS = 100
"""Each label is a token of its own; more are numbers or texts, not labels."""


@dataclass(frozen=True, eq=False)
class TextPairs:
    """Pairs of texts.

    Attributes:
        firsts: the first text of each.
        seconds: the second one.
        labels: the label of each, None where nobody knows it; None: there is no column of labels.
    """

    firsts: list[str]
    seconds: list[str]
    labels: list[str | None] | None = None

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.firsts)

    @property
    def texts(self) -> list[str]:
        """All texts, the first ones before the second ones."""
        return [*self.firsts, *self.seconds]

    @property
    def names(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted({label for label in self.labels or () if label is not None})

    @property
    def keys(self) -> list[tuple[str, str]]:
        """What equal pairs share, whichever text is first."""
        pairs = zip(self.firsts, self.seconds, strict=True)
        return [(a, b) if a <= b else (b, a) for a, b in pairs]

    def take(self, places: Integer[np.ndarray, "_"]) -> "TextPairs":
        """Return the pairs at the given places, in that order."""
        chosen = places.tolist()
        return TextPairs(
            [self.firsts[place] for place in chosen],
            [self.seconds[place] for place in chosen],
            None if self.labels is None else [self.labels[place] for place in chosen],
        )


def read_pairs_of(
    files: Sequence[Path],
    columns: tuple[str, ...],
    label_column: str | None,
    *,
    quotes: bool,
    needs_labels: bool = True,
) -> TextPairs:
    """Read the pairs of files; those with an empty text are left out, counted.

    A file without the column of labels holds pairs without one, and so does an empty cell.

    Args:
        files: jsonl, csv, tsv or parquet.
        columns: of the first and the second text.
        label_column: of the labels; None: they are not looked at.
        quotes: whether double quotes enclose fields of csv and tsv files.
        needs_labels: whether one pair must have a label, where there is a column of them.

    Raises:
        DataError: a file cannot be read, there is no pair, no pair has a label, or a cell holds
            what is no label.
    """
    settings = ExampleSettings(text_columns=columns, pair=True, quotes=quotes)
    firsts: list[str] = []
    seconds: list[str] = []
    labels: list[str | None] = []
    names: list[str] = []
    for file in files:
        table = read_table(file, quotes=quotes)
        names += table.columns
        first, second = texts_of(table, settings, allow_empty=True)
        assert second is not None
        found = _labels(table, label_column)
        kept = [n for n, (a, b) in enumerate(zip(first, second, strict=True)) if _is_pair(a, b)]
        firsts += [first[place] for place in kept]
        seconds += [second[place] for place in kept]
        labels += [found[place] for place in kept]
        empty = len(table) - len(kept)
        logger.info(
            "%s: %d pairs, %d of them labelled%s",
            file,
            len(kept),
            sum(found[place] is not None for place in kept),
            f", {empty} with an empty text left out" if empty else "",
        )
    source = ", ".join(map(str, files[:5]))
    if not firsts:
        raise DataError(f"{source} holds no pair of texts. Give pairs to learn from.")
    if label_column is None:
        return TextPairs(firsts, seconds)
    pairs = TextPairs(firsts, seconds, labels)
    if needs_labels and not pairs.names:
        raise DataError(
            f"{source}: no pair has a label in a column '{label_column}'; columns: "
            f"{', '.join(dict.fromkeys(names))}.{suggestion(label_column, names)} Name the right "
            "one with label_column, or leave it out to learn without labels."
        )
    if len(pairs.names) > MOST_LABELS:
        raise DataError(
            f"{source}: column '{label_column}' holds {len(pairs.names)} different values, such as "
            f"{show(pairs.names[0])}. Each label becomes a token, at most {MOST_LABELS} of them: "
            "name a column of labels with label_column."
        )
    return pairs


def _is_pair(first: str, second: str) -> bool:
    return bool(first.strip() and second.strip())


def _labels(table: TextTable, column: str | None) -> list[str | None]:
    """Return a table's labels as text; None where a cell is empty."""
    if column is None or column not in table.columns:
        return [None] * len(table)
    cells = table.columns[column]
    wrong = [row for row, cell in enumerate(cells) if isinstance(cell, list | tuple | dict | bytes)]
    if wrong:
        raise DataError(
            f"{table.source}: column '{column}' holds {show(cells[wrong[0]])}, which is no label "
            f"({table.where(wrong)}). Give one label a pair."
        )
    return [_label(cell) for cell in cells]


def _label(cell: Any) -> str | None:
    if isinstance(cell, float):
        if np.isnan(cell):
            return None
        cell = int(cell) if cell.is_integer() else cell
    text = "" if cell is None else str(cell).strip()
    return text or None
