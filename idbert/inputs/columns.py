"""The wanted columns of a source: where each stands, and which kind of value it holds."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from idbert.errors import DataError
from idbert.tables import BEHAVIOUR, ITEM, TIME, USER, WEIGHT

Kind = Literal["text", "integers", "floats", "times"]

SETTINGS = {
    USER: "user_column",
    ITEM: "item_column",
    TIME: "time_column",
    BEHAVIOUR: "behaviour_column",
    WEIGHT: "weight_column",
}
"""The setting that says how each of our columns is called in the source."""

_ATOMIC_TYPE = re.compile(r":(token|token_seq|float|float_seq)$")


@dataclass(frozen=True)
class Part:
    """One file of a source, or the table in memory.

    Attributes:
        name: what errors call it: the path as given, "DataFrame" or "Table".
        reader: the SQL expression that DuckDB reads it from.
        expressions: for each of our columns the SQL expression that reads it.
        kinds: for each of our columns the kind of value it holds; a text file holds only text.
        table: the data, if they are in memory; `reader` is then the name to register them under.
    """

    name: str
    reader: str
    expressions: Mapping[str, str]
    kinds: Mapping[str, Kind]
    table: pa.Table | None = None

    @property
    def is_text_file(self) -> bool:
        """Whether this is a file without types."""
        return self.reader.startswith("read_csv")


def match_columns(
    source: str, header: Sequence[str], wanted: Mapping[str, str], hint: str = ""
) -> dict[str, int]:
    """Return the place in a header of every wanted column.

    A name is matched as it stands or, as in RecBole's atomic files, with a type behind it
    (`user_id:token`).

    Args:
        source: what errors call the source of the header.
        header: the names in the source.
        wanted: our names for the columns, and the names looked for.
        hint: what an error about a missing column says instead of suggesting the nearest name.

    Raises:
        DataError: a column is missing, or stands there twice.
    """
    plain = [_ATOMIC_TYPE.sub("", name) for name in header]
    places = {}
    for ours, name in wanted.items():
        names = list(header) if name in header else plain
        if name not in names:
            raise DataError(
                f"{source} has no column '{name}'; its columns: {', '.join(plain) or 'none'}."
                f"{hint or _nearest(name, plain)} Name the right one with {SETTINGS[ours]}."
            )
        if names.count(name) > 1:
            raise DataError(
                f"{source} has {names.count(name)} columns named '{name}'. Rename all but one."
            )
        places[ours] = names.index(name)
    return places


def kind_of(source: str, name: str, data_type: pa.DataType) -> Kind:
    """Sort Arrow's types into the few kinds that matter here.

    Raises:
        DataError: the column holds lists, booleans, bytes or the like.
    """
    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    is_decimal = pa.types.is_decimal(data_type)
    if pa.types.is_timestamp(data_type) or pa.types.is_date(data_type):
        return "times"
    # Databases export whole numbers as decimals without places.
    if pa.types.is_integer(data_type) or (is_decimal and data_type.scale == 0):
        return "integers"
    if pa.types.is_floating(data_type) or is_decimal:
        return "floats"
    texts = (pa.string(), pa.large_string(), pa.string_view(), pa.null())
    if data_type in texts:
        return "text"
    raise DataError(
        f"{source}: column '{name}' is of type {data_type}, which cannot be used. It must hold "
        "text, numbers or times."
    )


def as_kind(expression: str, kind: Kind) -> str:
    """Return SQL that brings a typed column to the one type that stands for its kind."""
    if kind == "times":
        return f"epoch_us({expression})"
    sql_type = {"text": "VARCHAR", "integers": "BIGINT", "floats": "DOUBLE"}[kind]
    return f"CAST({expression} AS {sql_type})"


def _nearest(name: str, choices: Iterable[str]) -> str:
    """Suggest a column as `errors.suggestion` does, but blind to case and punctuation."""
    letters = {re.sub(r"\W|_", "", choice.lower()): choice for choice in choices}
    near = difflib.get_close_matches(re.sub(r"\W|_", "", name.lower()), letters, n=1)
    return f" Did you mean '{letters[near[0]]}'?" if near else ""
