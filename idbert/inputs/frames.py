"""A DataFrame or an Arrow table in memory as a source of interactions."""

from collections.abc import Mapping

import pandas as pd
import pyarrow as pa

from idbert.errors import DataError
from idbert.inputs.columns import Part, as_kind, kind_of, match_columns


def frame_part(frame: pd.DataFrame, wanted: Mapping[str, str]) -> Part:
    """Take the wanted columns of a DataFrame.

    Args:
        frame: the log; only the wanted columns are converted.
        wanted: our names for the columns, and their names in `frame`.

    Raises:
        DataError: a column is missing, given twice, mixes types, or is of no usable type.
    """
    header = [str(name) for name in frame.columns]
    in_index = [name for name in frame.index.names if name in set(wanted.values()) - set(header)]
    hint = f" '{in_index[0]}' is the index: call reset_index()." if in_index else ""
    places = match_columns("DataFrame", header, wanted, hint)
    arrays = []
    for place in places.values():
        _refuse_mixed_types(header[place], frame.iloc[:, place])
        try:
            # Beside an array, this can return a chunked array if the text is large.
            arrays.append(pa.Array.from_pandas(frame.iloc[:, place]))
        except (pa.ArrowException, OverflowError) as error:
            raise DataError(
                f"DataFrame: column '{header[place]}' cannot be used: {error}. Convert it to "
                "text, numbers or times."
            ) from error
    return _part("DataFrame", pa.table(arrays, names=list(places)))


def table_part(table: pa.Table, wanted: Mapping[str, str]) -> Part:
    """Take the wanted columns of an Arrow table.

    Args:
        table: the log.
        wanted: our names for the columns, and their names in `table`.

    Raises:
        DataError: a column is missing, given twice, or of no usable type.
    """
    places = match_columns("Table", table.column_names, wanted)
    return _part("Table", table.select(list(places.values())).rename_columns(list(places)))


def _part(source: str, table: pa.Table) -> Part:
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # a category of pandas
            decoded = table.column(place).cast(field.type.value_type)
            table = table.set_column(place, field.name, decoded)
    kinds = {field.name: kind_of(source, field.name, field.type) for field in table.schema}
    expressions = {name: as_kind(f'"{name}"', kind) for name, kind in kinds.items()}
    return Part(source, "given_table", expressions, kinds, table)


def _refuse_mixed_types(name: str, series: pd.Series) -> None:
    """Refuse 1 beside "1": further down they would silently become one id."""
    values = series.cat.categories.to_series() if series.dtype == "category" else series
    if values.dtype != object or "mixed" not in pd.api.types.infer_dtype(values, skipna=True):
        return
    values = values.reset_index(drop=True).dropna()
    first_of_type = values.loc[~values.map(type).duplicated()]
    if len(first_of_type) > 1:
        examples = " and ".join(
            f"{value!r} ({type(value).__name__}, row {place + 1})"
            for place, value in list(zip(first_of_type.index, first_of_type, strict=True))[:2]
        )
        raise DataError(
            f"DataFrame: column '{name}' mixes types: {examples}. Whether 1 and '1' are one id or "
            "two, only you know. Convert the column to one type, for instance with "
            f"frame['{name}'].astype(str)."
        )
