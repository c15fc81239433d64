"""Examples of classification: texts or pairs of texts, and what is to be predicted of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int64, Integer, Shaped

from idbert.errors import ConfigError, DataError
from nlp_tasks.cls.labels import Kind, LabelMap, labels_of, targets_of
from nlp_tasks.tables import TextTable, read_table
from nlp_tasks.text_columns import refuse_empty, text_column

__all__ = ["ExampleSettings", "Examples", "Kind", "LabelMap", "read_examples", "read_texts"]

logger = logging.getLogger(__name__)

Source = str | Path | pd.DataFrame


@dataclass(frozen=True)
class ExampleSettings:
    """Which columns hold the texts and the labels."""

    text_columns: tuple[str, ...] = ("text",)
    """The text's column; the two of a pair; or several, whose texts are joined."""
    pair: bool = False
    """Whether the two text columns are a pair: a model reads them as first and second text."""
    joiner: str = " "
    """What stands between the texts of several columns that are no pair."""
    label_column: str | None = None
    """The labels' column; by default 'label', or 'labels' where there is no such column."""
    kind: Literal["auto", "single", "multi", "number"] = "auto"
    """One label a row, several, or a number; auto: lists are several labels, numbers with fractions
    and many values are numbers, and all else is one label."""
    label_separator: str | None = None
    """What stands between several labels in one text, as in 'joy|surprise' of a csv file."""
    quotes: bool = True
    """Whether double quotes enclose fields of csv and tsv files; in those of GLUE they do not."""

    def __post_init__(self) -> None:
        columns = self.text_columns
        if not columns:
            raise ConfigError("text_columns is empty; name the column that holds the text.")
        if len(set(columns)) < len(columns):
            raise ConfigError(f"text_columns names a column twice: {', '.join(columns)}.")
        if self.pair and len(columns) != 2:
            raise ConfigError(
                f"pair is true and text_columns names {len(columns)} columns ({', '.join(columns)})"
                "; a pair has two."
            )
        if self.joiner != " " and (self.pair or len(columns) == 1):
            what = "a pair" if self.pair else "one column"
            raise ConfigError(f"joiner joins several columns, and text_columns names {what}.")
        if self.label_column in columns:
            raise ConfigError(f"column '{self.label_column}' is named as text and as label.")
        if self.label_separator is not None:
            if not self.label_separator:
                raise ConfigError("label_separator is empty; name what separates labels, or none.")
            if self.kind not in ("auto", "multi"):
                raise ConfigError(
                    f"label_separator separates several labels, and kind is {self.kind}. Set kind "
                    "to multi, or leave the separator out."
                )


@dataclass(frozen=True, eq=False)
class Examples:
    """Texts and their targets.

    Attributes:
        texts: N texts.
        pairs: the second text of each, or None where there are no pairs.
        targets: Int64[N] numbers of labels, Float32[N, C] of ones and zeros, or Float32[N]
            numbers; None where nothing is labelled.
        labels: what the targets stand for; None where there are no targets.
        rows_N: the place of each in its source, from 0.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    targets: Shaped[np.ndarray, "N ..."] | None
    labels: LabelMap | None
    rows_N: Int64[np.ndarray, "N"]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.texts)

    def take(self, positions: Integer[np.ndarray, "_"]) -> "Examples":
        """Return the examples at the given positions, in that order; one may occur repeatedly."""
        pairs = self.pairs
        return Examples(
            texts=[self.texts[position] for position in positions],
            pairs=None if pairs is None else [pairs[position] for position in positions],
            targets=None if self.targets is None else self.targets[positions],
            labels=self.labels,
            rows_N=self.rows_N[positions],
        )


def read_examples(
    source: Source, settings: ExampleSettings, labels: LabelMap | None = None
) -> Examples:
    """Read labelled texts.

    Args:
        source: a jsonl, csv, tsv or parquet file, or a DataFrame.
        settings: which columns to read, and how.
        labels: those of the training rows, which decide the kind and the numbers; None: these are
            the training rows, and the labels are made from them.

    Raises:
        ConfigError: the settings are of another kind than `labels`.
        DataError: the table cannot be read, a column is missing, a text is empty, a label is
            missing or unknown to `labels`; or, without `labels`, all rows have the same.
    """
    if labels is not None and settings.kind not in ("auto", labels.kind):
        raise ConfigError(
            f"kind is {settings.kind}, and the labels of training are of kind {labels.kind}."
        )
    table = read_table(source, quotes=settings.quotes)
    texts, pairs = texts_of(table, settings)
    column = _label_column(table, settings)
    if labels is None:
        labels = labels_of(table, column, settings.kind, settings.label_separator)
    targets = targets_of(table, column, labels, settings.label_separator)
    return Examples(texts, pairs, targets, labels, np.arange(len(table), dtype=np.int64))


def read_texts(source: Source, settings: ExampleSettings, *, allow_empty: bool = False) -> Examples:
    """Read texts without looking for labels.

    Args:
        source: a jsonl, csv, tsv or parquet file, or a DataFrame.
        settings: which columns to read; what they say of labels is not looked at.
        allow_empty: whether a text may be empty.

    Raises:
        DataError: the table cannot be read, a column is missing, or a text is empty.
    """
    table = read_table(source, quotes=settings.quotes)
    texts, pairs = texts_of(table, settings, allow_empty=allow_empty)
    return Examples(texts, pairs, None, None, np.arange(len(table), dtype=np.int64))


def texts_of(
    table: TextTable, settings: ExampleSettings, *, allow_empty: bool = False
) -> tuple[list[str], list[str] | None]:
    """Return the texts of a table, and the second texts if they are pairs.

    Args:
        table: from `read_table`.
        settings: the columns.
        allow_empty: whether a text may be empty.

    Raises:
        DataError: a column is missing, a cell holds no text, or a text is empty.
    """
    columns = [
        text_column(table, name, "text_columns", allow_empty=True) for name in settings.text_columns
    ]
    if settings.pair:
        names, texts = settings.text_columns, columns
    elif len(columns) == 1:
        names, texts = settings.text_columns, columns
    else:
        names = (" + ".join(settings.text_columns),)
        texts = [[settings.joiner.join(filter(None, row)) for row in zip(*columns, strict=True)]]
    if not allow_empty:
        for name, column in zip(names, texts, strict=True):
            refuse_empty(table, name, column)
    return texts[0], texts[1] if settings.pair else None


def _label_column(table: TextTable, settings: ExampleSettings) -> str:
    """Return the name of the labels' column."""
    name = settings.label_column
    if name is None:
        name = "labels" if "labels" in table.columns and "label" not in table.columns else "label"
        if "label" in table.columns and "labels" in table.columns:
            raise DataError(
                f"{table.source} has columns 'label' and 'labels'. Name one with label_column."
            )
    table.column(name, "label_column")
    return name
