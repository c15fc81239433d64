"""Labelled texts as files hold them: jsonl, csv, tsv and parquet, read into plain columns."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from idbert.errors import DataError, suggestion

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".json", ".ndjson")
PARQUET = (".parquet", ".pq")
SHOWN_ROWS = 5
SHOWN_CHARACTERS = 60

_READABLE = ".jsonl (one object a line), .csv (commas), .tsv (tabs) and .parquet"
_BINARY_STARTS = {
    b"PAR1": "a parquet file",
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip archive, as Excel's files are",
}
_GUESSES = {"gb18030": "GB18030 (GBK)", "cp1252": "Windows-1252"}
"""Encodings to suggest, in this order, for a file that is not UTF-8."""
_LONGEST_FIELD = 2**31 - 1


@dataclass(frozen=True, eq=False)
class TextTable:
    """A table as plain Python values, column by column.

    Attributes:
        source: what errors call it: the path, or "DataFrame".
        columns: by name; None where a row has no value.
        lines: for a text file the line on which each row begins, from 1; None: rows are counted.
    """

    source: str
    columns: dict[str, list[Any]]
    lines: Sequence[int] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str, setting: str) -> list[Any]:
        """Return one column.

        Args:
            name: the column's name.
            setting: the setting that names it, for the error.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.columns:
            names = list(self.columns)
            raise DataError(
                f"{self.source} has no column '{name}'; its columns: {', '.join(names)}."
                f"{suggestion(name, names)} Name the right one with {setting}."
            )
        return self.columns[name]

    def where(self, rows: Sequence[int]) -> str:
        """Name rows as an error does: all are counted, the first five shown."""
        what = "row" if self.lines is None else "line"
        numbers = [row + 1 if self.lines is None else self.lines[row] for row in rows[:SHOWN_ROWS]]
        shown = ", ".join(f"{number:,}" for number in numbers)
        if len(rows) == 1:
            return f"{what} {shown}"
        first = "" if len(rows) <= SHOWN_ROWS else f" (the first {SHOWN_ROWS})"
        return f"{len(rows):,} rows, {what}s {shown}{first}"


def read_table(source: str | Path | pd.DataFrame, *, quotes: bool = True) -> TextTable:
    """Read a whole table; cells of csv and tsv files are text, others keep their types.

    Args:
        source: the path of a jsonl, csv, tsv or parquet file, or a DataFrame.
        quotes: whether double quotes enclose fields of csv and tsv files.

    Raises:
        DataError: there is no such file, it is not what its ending says, is not UTF-8, or a line
            cannot be read; or it holds no rows.
    """
    if isinstance(source, pd.DataFrame):
        table = _read_frame(source)
    else:
        table = _read_file(Path(source).expanduser(), quotes)
    if len(table) == 0:
        raise DataError(f"{table.source} holds no rows: there is nothing to read.")
    return table


def show(value: Any) -> str:
    """Return a value as an error shows it: quoted if it is text, cut if it is long."""
    text = repr(value) if not isinstance(value, str) else f"'{value}'"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _read_file(file: Path, quotes: bool) -> TextTable:
    ending = file.suffix.lower()
    if not file.is_file():
        beside = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise DataError(f"there is no file '{file}'.{suggestion(file.name, beside)}")
    if ending in PARQUET:
        return _read_parquet(file)
    if ending not in (*DELIMITERS, *JSON_LINES):
        raise DataError(
            f"{file}: unknown ending '{file.suffix}'. What can be read: {_READABLE}. Save the "
            "table in one of these formats."
        )
    text = decoded_text(file)
    if ending in JSON_LINES:
        return _read_json_lines(file, text)
    return _read_delimited(file, text, DELIMITERS[ending], quotes)


def _read_parquet(file: Path) -> TextTable:
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file} is not a parquet file, or is cut short. Copy or write it again."
        ) from error
    _refuse_twice(str(file), table.column_names)
    columns = zip(table.column_names, table.columns, strict=True)
    return TextTable(str(file), {name: column.to_pylist() for name, column in columns})


def _read_frame(frame: pd.DataFrame) -> TextTable:
    names = [str(name) for name in frame.columns]
    _refuse_twice("DataFrame", names)
    columns = {name: frame.iloc[:, place] for place, name in enumerate(names)}
    return TextTable(
        "DataFrame",
        {
            name: [
                _plain(cell) if there else None
                for cell, there in zip(column.tolist(), column.notna(), strict=True)
            ]
            for name, column in columns.items()
        },
    )


def _plain(cell: Any) -> Any:
    """Return numpy's arrays and scalars as lists and numbers of Python."""
    return cell.tolist() if isinstance(cell, np.ndarray | np.generic) else cell


def _refuse_twice(source: str, names: Sequence[str]) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(f"{source} has several columns named '{twice[0]}'. Rename all but one.")


def decoded_text(file: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark."""
    data = file.read_bytes()
    for magic, what in _BINARY_STARTS.items():
        if data.startswith(magic):
            raise DataError(
                f"{file} is {what}, though its name ends in {file.suffix}. Rename or unpack it."
            )
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file} is written in UTF-16. {_convert(file, 'UTF-16')}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The offset counts from behind a byte order mark.
        start = error.start + len(data) - len(error.object)
        line = data.count(b"\n", 0, start) + 1
        guess = next((name for name in _GUESSES if _decodes(data, name)), None)
        advice = "Save it as UTF-8."
        if guess is not None:
            advice = f"It may be written in {_GUESSES[guess]}. {_convert(file, guess.upper())}"
        raise DataError(
            f"{file} is not UTF-8: line {line:,} holds the byte 0x{data[start]:02x} "
            f"(at {start:,}). {advice}"
        ) from error
    if "\0" in text:
        raise DataError(f"{file} holds zero bytes, which no text does. Save it as UTF-8.")
    return text


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _convert(file: Path, encoding: str) -> str:
    converted = file.with_suffix(f".utf8{file.suffix}").name
    return f"Save it as UTF-8: iconv -f {encoding} -t UTF-8 {file.name} > {converted}"


def _read_json_lines(file: Path, text: str) -> TextTable:
    rows, lines = [], []
    # Not splitlines(), which also cuts at marks that may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{file}, line {number:,} is not JSON: {show(line.strip())} ({error}). Write one "
                'object a line, such as {"text": "…", "label": "good"}.'
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{file}, line {number:,} holds {show(row)}, not an object. Write one object a "
                'line, such as {"text": "…", "label": "good"}.'
            )
        rows.append(row)
        lines.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    return TextTable(str(file), {name: [row.get(name) for row in rows] for name in names}, lines)


def _read_delimited(file: Path, text: str, delimiter: str, quotes: bool) -> TextTable:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    # Strict, so that a quotation mark that opens no field ends in an error and not in a row that
    # swallows its neighbours.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    limit = csv.field_size_limit(_LONGEST_FIELD)
    rows, lines, start = [], [], 1
    try:
        header = next(reader, [])
        start = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise DataError(
                        f"{file}, line {start:,} has {len(row)} fields, and the header "
                        f"{len(header)}: {show(delimiter.join(row))}. Enclose a field that holds "
                        f"{'a tab' if delimiter == chr(9) else 'a comma'} in double quotes."
                    )
                rows.append(row)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{file}, line {start:,}: a double quote is not closed or not doubled ({error}). Where "
            "quotes are only part of the texts, set quotes to false."
        ) from error
    finally:
        csv.field_size_limit(limit)
    _refuse_twice(str(file), header)
    columns = zip(*rows, strict=True) if rows else [() for _ in header]
    return TextTable(
        str(file),
        {name: list(column) for name, column in zip(header, columns, strict=True)},
        lines,
    )
