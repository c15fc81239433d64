"""The rows of a source in DuckDB, in the source's order, where they are checked before use.

Every check names the rows that fail it: all are counted, the first five are shown, by file and row
(counted from 1 below the header).
"""

import bisect
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from idbert.errors import DataError
from idbert.inputs.columns import Kind, Part

TABLE = "events"
_SQL_TYPES = {"text": "VARCHAR", "integers": "BIGINT", "floats": "DOUBLE", "times": "BIGINT"}
_SHOWN_ROWS = 5
_SHOWN_CHARACTERS = 40


class SourceRows(ABC):
    """Rows `events` with our column names, one an event, that are asked by SQL, wherever they lie.

    Attributes:
        kinds: the kind of value in each column.
        source: what errors call the whole source.
        labels: for each of our columns its name in the source.
        from_text_files: whether all values were written as text, for want of types.
    """

    def __init__(self, source: str, parts: Sequence[Part], labels: Mapping[str, str]):
        self.source = source
        self.labels = labels
        self.kinds = _common_kinds(parts, labels)
        self.from_text_files = parts[0].is_text_file
        self._names = [part.name for part in parts]
        self._starts: list[int] = []

    @abstractmethod
    def scalar(self, expression: str) -> int:
        """Return a number computed over all rows, cut to a whole one; 0 for null."""

    @abstractmethod
    def first_rows(self, query: str, limit: int) -> list[tuple[int, str | None]]:
        """Return the first rows of a query for a place and a text, in the order of places."""

    def all_integers(self, column: str) -> bool:
        """Say whether every text in a column is the canonical form of a 64-bit integer.

        It is if turning it into a number and back gives the same text: "7" and "-12" are, "007",
        "+7", "7.0" and "9223372036854775808" are not.
        """
        return bool(self.scalar(f"bool_and(coalesce({_round_trip(column)} = {column}, false))"))

    def refuse_all_but_integers(self, column: str, advice: str) -> None:
        """Refuse text that is not the canonical form of a 64-bit integer; see `all_integers`."""
        fails = f"{_round_trip(column)} IS DISTINCT FROM {column}"
        self.refuse(fails, column, "not an integer that can be written back as it stands", advice)

    def refuse(
        self, condition: str, column: str, what: str, advice: str, shown: str | None = None
    ) -> None:
        """Raise if any row fulfils a condition.

        Args:
            condition: SQL over the columns of `events`.
            column: the column to speak of.
            what: what is wrong with its value, after "holds 'x', ".
            advice: the sentence that says what to do.
            shown: SQL for the value as the reader knows it; None: the column.

        Raises:
            DataError: rows fulfil the condition.
        """
        count = self.scalar(f"count(*) FILTER ({condition})")
        if not count:
            return
        failing = f"SELECT rowid, CAST({shown or column} AS VARCHAR) FROM {TABLE} WHERE {condition}"
        rows = self.first_rows(failing, _SHOWN_ROWS)
        place, value = rows[0]
        message = (
            f"{self._where(place)}: column '{self.labels[column]}' holds {_show(value)}, {what}."
        )
        if count > 1:
            shown_rows = "; ".join(f"{self._where(row)} {_show(value)}" for row, value in rows)
            first = f"the first {_SHOWN_ROWS}" if count > _SHOWN_ROWS else "namely"
            message += f"\n{count:,} rows are like this, {first}: {shown_rows}."
        raise DataError(f"{message}\n{advice}")

    def _refuse_no_rows(self) -> None:
        if not self.scalar("count(*)"):
            raise DataError(f"{self.source} holds a header but no rows: there is nothing to read.")

    def _where(self, place: int) -> str:
        """Name the file and the row in it."""
        part = bisect.bisect_right(self._starts, place) - 1
        return f"{self._names[part]}, row {place - self._starts[part] + 1}"


class Staging(SourceRows):
    """A DuckDB table of all rows; `rowid` is the place of a row in the source.

    Attributes:
        connection: the open DuckDB connection.
    """

    def __init__(
        self,
        connection: Any,
        source: str,
        parts: Sequence[Part],
        labels: Mapping[str, str],
    ):
        # Typed here and not in the signature: beartype keeps the classes that it checks, and DuckDB
        # prints a page about leaks at the end of a process in which its classes are kept.
        self.connection: duckdb.DuckDBPyConnection = connection
        super().__init__(source, parts, labels)
        columns = ", ".join(f"{name} {_SQL_TYPES[kind]}" for name, kind in self.kinds.items())
        connection.execute(f"CREATE TABLE {TABLE} ({columns})")
        for part in parts:
            self._starts.append(self.scalar("count(*)"))
            self._load(part)
        self._refuse_no_rows()

    def scalar(self, expression: str) -> int:
        """Return a number computed over all rows, cut to a whole one; 0 for null."""
        rows = self.connection.execute(f"SELECT {expression} FROM {TABLE}").fetchall()
        return int(rows[0][0] or 0)

    def first_rows(self, query: str, limit: int) -> list[tuple[int, str | None]]:
        """Return the first rows of a query for a place and a text, in the order of places."""
        return self.connection.execute(f"{query} ORDER BY rowid LIMIT {limit}").fetchall()

    def sorted_table(self, expressions: Mapping[str, str], by: Sequence[str]) -> pa.Table:
        """Return columns computed by SQL, sorted by some of them, then by place in the source.

        This uses up the staged rows: nothing can be checked afterwards.
        """
        computed = ", ".join(f"{sql} AS {name}" for name, sql in expressions.items())
        # Sorting stored columns is several times faster than sorting computed ones.
        self.connection.execute(f"CREATE TABLE computed AS SELECT {computed} FROM {TABLE}")
        self.connection.execute(f"DROP TABLE {TABLE}")
        return self.connection.sql(
            f"SELECT {', '.join(expressions)} FROM computed ORDER BY {', '.join(by)}, rowid"
        ).to_arrow_table()

    def _load(self, part: Part) -> None:
        if part.table is not None:
            self.connection.register(part.reader, part.table)
        names, expressions = ", ".join(self.kinds), [part.expressions[name] for name in self.kinds]
        try:
            self.connection.execute(
                f"INSERT INTO {TABLE} ({names}) SELECT {', '.join(expressions)} FROM {part.reader}"
            )
        except (duckdb.OutOfMemoryException, duckdb.IOException):
            raise
        except duckdb.Error as error:
            raise DataError(load_failure(part, error)) from error
        if part.is_text_file:
            self._refuse_rejects(part)

    def _refuse_rejects(self, part: Part) -> None:
        """Refuse a text file with lines that do not have the header's form."""
        rejects = self.connection.sql(
            "SELECT line, any_value(csv_line), any_value(error_message), count(*) OVER () "
            f"FROM reject_errors GROUP BY line ORDER BY line LIMIT {_SHOWN_ROWS}"
        ).fetchall()
        if not rejects:
            return
        lines = "; ".join(
            f"near line {line}, {_show(text.strip())}: {reason.rstrip('.')}"
            for line, text, reason, _ in rejects
        )
        raise DataError(
            f"{part.name}: lines that cannot be read: {rejects[0][3]:,}. {lines}.\nEvery line "
            "needs as many fields as the header, in UTF-8; a field that holds the separator, a "
            'quote or a line break stands in double quotes, quotes in it doubled: "say ""hi""".'
        )


@contextmanager
def staged(
    source: str,
    parts: Sequence[Part],
    labels: Mapping[str, str],
    memory_limit: str,
    spill_in: Path | None = None,
) -> Iterator[Staging]:
    """Load a source into DuckDB, which spills to a temporary folder; both are gone afterwards.

    Args:
        source: what errors call the whole source.
        parts: its files, or the table, in the order that ties in time are broken by.
        labels: our names for the columns, and their names in the source.
        memory_limit: beyond it DuckDB spills to disk.
        spill_in: the folder of that temporary folder; None: the system's.

    Raises:
        DataError: a part cannot be read, parts disagree, or memory and disk do not suffice.
    """
    with connected(source, memory_limit, spill_in) as connection:
        yield Staging(connection, source, parts, labels)


@contextmanager
def connected(source: str, memory_limit: str, spill_in: Path | None = None) -> Iterator[Any]:
    """Yield an empty DuckDB that spills to a temporary folder; both are gone afterwards.

    Args:
        source: what errors call what is read.
        memory_limit: beyond it DuckDB spills to disk.
        spill_in: the folder of that temporary folder; None: the system's.

    Raises:
        DataError: memory and disk do not suffice inside the block.
    """
    with tempfile.TemporaryDirectory(prefix="idbert-", dir=spill_in) as spill:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "temp_directory": spill,
            # On any number of threads: so rowid is a row's place in the source.
            "preserve_insertion_order": True,
        }
        try:
            with duckdb.connect(":memory:", config=config) as connection:
                connection.execute("SET TimeZone = 'UTC'")  # of text times that name no zone
                yield connection
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            if isinstance(error, duckdb.IOException) and "No space left" not in str(error):
                raise DataError(f"{source} cannot be read: {_first_line(error)}.") from error
            place = (
                "set the environment variable TMPDIR to a folder on a disk with more room"
                if spill_in is None
                else "free some space there"
            )
            raise DataError(
                f"{source}: reading and sorting needs more than memory_limit={memory_limit} and "
                f"the free disk space of {Path(spill).parent}. Raise memory_limit, or {place}."
            ) from error


def _common_kinds(parts: Sequence[Part], labels: Mapping[str, str]) -> dict[str, Kind]:
    """Return the kinds that all parts agree on: 1 in one file and "1" in another would merge."""
    first = parts[0]
    for part in parts[1:]:
        for name, kind in part.kinds.items():
            if kind != first.kinds[name]:
                raise DataError(
                    f"column '{labels[name]}' holds {first.kinds[name]} in {first.name} but {kind} "
                    f"in {part.name}. Write all files with one type (pandas turns integers with "
                    "missing values into floats)."
                )
    return dict(first.kinds)


def _round_trip(column: str) -> str:
    return f"CAST(TRY_CAST({column} AS BIGINT) AS VARCHAR)"


def load_failure(part: Part, error: Exception) -> str:
    """Say why DuckDB cannot read a part."""
    if "state machine" in str(error):
        return (
            f"{part.name}: the lines end in different ways (CR LF in some, LF in others), or a "
            "quote is never closed. Save the file again with one kind of line ending."
        )
    if isinstance(error, duckdb.ConversionException):
        return f"{part.name}: a number does not fit into 64 bits: {_first_line(error)}."
    return f"{part.name} cannot be read: {_first_line(error)}."


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")


def _show(value: str | None) -> str:
    if value is None:
        return "no value"
    cut = value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…"
    return repr(cut)
