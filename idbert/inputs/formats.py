"""What a caller may hand over as a behaviour log: csv, tsv and parquet files, or a table in memory.

A file is looked at before it is read: whether it is what its ending says, what its header names,
and which kinds of value it holds.
"""

import csv
import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from idbert.errors import DataError, suggestion
from idbert.inputs.columns import Part, as_kind, kind_of, match_columns
from idbert.inputs.frames import frame_part, table_part

Source: TypeAlias = str | Path | pd.DataFrame | pa.Table
"""A path, a glob pattern, or a table in memory."""

DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
PARQUET = (".parquet", ".pq")
MISSING_WORDS = ("", "nan", "NaN", "null", "NULL", "None", "<NA>")
"""What stands for a missing value in a text file, which has no other way to write one."""

_READABLE = ".csv (commas), .tsv and .inter (tabs), .parquet and .pq"
_BINARY_STARTS = {
    b"PAR1": "a parquet file",
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip archive",
}
_LOOK = 1 << 16


def open_parts(source: Source, wanted: Mapping[str, str]) -> list[Part]:
    """Find the wanted columns in a file, a folder, a glob pattern or a table.

    Args:
        source: a path, a glob pattern, a DataFrame or a pyarrow Table. Of a folder, the files with
            a known ending that lie directly in it are read, in the order of their names.
        wanted: our names for the columns, and their names in the source.

    Raises:
        DataError: nothing is there to read, a file is not what its ending says, or a column is
            missing, given twice, or of a type that cannot be used.
    """
    if isinstance(source, pd.DataFrame):
        return [frame_part(source, wanted)]
    if isinstance(source, pa.Table):
        return [table_part(source, wanted)]
    if not isinstance(source, str | Path):
        raise DataError(
            f"cannot read interactions from a {type(source).__name__}. Give the path of a file or "
            "folder, a glob pattern, a pandas DataFrame or a pyarrow Table."
        )
    files = _find_files(Path(source).expanduser())
    formats = {file.suffix.lower(): file.name for file in files}
    if len(formats) > 1:
        raise DataError(
            f"{source} holds files of several formats ({', '.join(formats.values())}). Give a "
            f"pattern that picks one, such as '*{files[0].suffix}'."
        )
    if next(iter(formats)) not in PARQUET:
        return [_text_part(file, wanted) for file in files]
    parts = [_parquet_part(file, wanted) for file in files]
    # A day without events, say, whose columns may have no types.
    filled = [bool(pq.read_metadata(file).num_rows) for file in files]
    return [part for part, has_rows in zip(parts, filled, strict=True) if has_rows] or parts


def _find_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if _is_data_file(file)]
        if not files:
            raise DataError(
                f"folder {path} holds no file that can be read ({_READABLE}). For files in its "
                f"subfolders give a pattern, such as '{path}/**/*.parquet'."
            )
        return files
    if glob.has_magic(str(path)):
        matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [match for match in matches if match.is_file()]
        if not files:
            raise DataError(f"no file matches the pattern '{path}'.")
        return files
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"there is no file or folder '{path}'.{suggestion(path.name, beside)}")


def _is_data_file(file: Path) -> bool:
    """Leave out what other programs put beside data: _SUCCESS, .part-0.crc, README.md."""
    known = file.suffix.lower() in (*DELIMITERS, *PARQUET)
    return known and file.name[0] not in "._" and file.is_file()


def _text_part(file: Path, wanted: Mapping[str, str]) -> Part:
    """Look at a csv, tsv or inter file. Its columns are read as text, by their number."""
    delimiter = DELIMITERS.get(file.suffix.lower())
    if delimiter is None:
        raise DataError(
            f"{file}: unknown ending '{file.suffix}'. What can be read: {_READABLE}. Save the "
            "table in one of these formats."
        )
    start = _first_bytes(file)
    _refuse_binary(file, start)
    # DuckDB is told all that it would else guess, about quotes, types and headers, from whatever
    # rows it happens to sample. Hence the header and the end of its line are looked at here.
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as text:
            header = next(csv.reader(text, delimiter=delimiter), [])
    except csv.Error as error:
        raise DataError(f"{file}: the first line is not a header ({error}).") from error
    places = match_columns(str(file), header, wanted, _header_hint(file, header))
    newline = r"\r\n" if start.partition(b"\n")[0].endswith(b"\r") else r"\n"
    columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(header)))
    missing = ", ".join(f"'{word}'" for word in MISSING_WORDS)
    reader = (
        f"read_csv({path_literal(file)}, auto_detect=false, header=true, delim='{delimiter}', "
        f"quote='\"', escape='\"', new_line='{newline}', nullstr=[{missing}], "
        f"columns={{{columns}}}, store_rejects=true)"
    )
    expressions = {name: f"c{place}" for name, place in places.items()}
    return Part(str(file), reader, expressions, dict.fromkeys(places, "text"))


def _parquet_part(file: Path, wanted: Mapping[str, str]) -> Part:
    start = _first_bytes(file)
    if not start.startswith(b"PAR1"):
        what = "" if b"\0" in start else " It looks like text."
        raise DataError(
            f"{file} is not a parquet file, though its name ends in {file.suffix}.{what} Rename or "
            "convert it."
        )
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is cut short or damaged. Copy or write it again.") from error
    places = match_columns(str(file), schema.names, wanted)
    columns = {name: schema.field(place) for name, place in places.items()}
    kinds = {name: kind_of(str(file), field.name, field.type) for name, field in columns.items()}
    expressions = {
        name: as_kind('"' + field.name.replace('"', '""') + '"', kinds[name])
        for name, field in columns.items()
    }
    return Part(str(file), f"read_parquet({path_literal(file)})", expressions, kinds)


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as binary:
        start = binary.read(_LOOK)
    if not start:
        raise DataError(f"{file} is empty (0 bytes).")
    return start


def _refuse_binary(file: Path, start: bytes) -> None:
    """Refuse a file that is not the text that its ending promises."""
    ending = f"though its name ends in {file.suffix}"
    for magic, what in _BINARY_STARTS.items():
        if start.startswith(magic):
            raise DataError(f"{file} is {what}, {ending}. Rename or unpack it.")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file} is written in UTF-16. Save it as UTF-8.")
    if b"\0" in start:
        raise DataError(f"{file} is not text, {ending}. Save the table as text or parquet.")


def _header_hint(file: Path, header: Sequence[str]) -> str:
    """Say what may be wrong with a file in whose header a column is missing."""
    names = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
    others = [name for sign, name in names.items() if len(header) == 1 and sign in header[0]]
    if others:
        return f" The header seems to be separated by {others[0]}, which {file.suffix} is not."
    if header and all(re.fullmatch(r"[\d.]+", name) for name in header):
        return " The first line seems to be data: write a header above it."
    return ""


def path_literal(file: Path) -> str:
    """Quote a path for SQL, and for DuckDB, which would take its brackets for a pattern."""
    return "'" + glob.escape(str(file)).replace("'", "''") + "'"
