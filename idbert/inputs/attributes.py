"""Attributes of items (genres, a category), numbered, one row for each item of a catalogue."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int64

from idbert.errors import ConfigError, DataError, suggestion
from idbert.inputs.vocabulary import Vocabulary
from idbert.rows import UNK
from idbert.tables import ITEM

logger = logging.getLogger(__name__)

NO_ATTRIBUTE = 0


def attribute_rows(
    items: pd.DataFrame, columns: Sequence[str], vocabulary: Vocabulary, separator: str = "|"
) -> Int64[np.ndarray, "V _"]:
    """Return the numbers of each row's attributes, from 1 on; 0 fills up.

    A value of one column is another attribute than the same value of another column. Numbers are
    given by column, and in it by the values' order, whatever the order of the rows.

    Args:
        items: one row an item, with its id and the columns.
        columns: whose values are attributes: lists of strings, or strings, which are split.
        vocabulary: the catalogue; its items that are not in the table have no attributes, and items
            beyond it are left out.
        separator: between several attributes in one string.

    Raises:
        DataError: a column is missing, or holds something else.
        ConfigError: no item of the catalogue has an attribute.
    """
    names = [str(name) for name in items.columns]
    for column in columns:
        if column not in names:
            raise DataError(
                f"the table of items has no column '{column}' for data.attributes; its columns: "
                f"{', '.join(names)}.{suggestion(column, names)}"
            )
    items = items.reset_index(drop=True)
    is_integer = pa.types.is_integer(vocabulary.ids.type)
    rows_I = vocabulary.rows(items[ITEM] if is_integer else items[ITEM].astype(str))
    parts = []
    for column in columns:
        cells = [_values(value, separator, column) for value in items[column]]
        exploded = pd.Series(cells, dtype=object).explode()
        parts.append(
            pd.DataFrame({"row": rows_I[exploded.index], "of": column, "value": exploded}).dropna()
        )
    links = pd.concat(parts).drop_duplicates()
    links = links[links["row"] != UNK]
    if links.empty:
        raise ConfigError(
            f"data.attributes: no item of the catalogue has an attribute in {', '.join(columns)}. "
            "Check that the table's item ids are the log's, or leave data.attributes out."
        )
    links["number"] = links.groupby(["of", "value"], sort=True).ngroup() + 1
    links = links.sort_values(["row", "number"], kind="stable")
    place = links.groupby("row").cumcount().to_numpy()
    numbers_VG = np.full((len(vocabulary), int(place.max()) + 1), NO_ATTRIBUTE, np.int64)
    numbers_VG[links["row"].to_numpy(), place] = links["number"].to_numpy()
    logger.info(
        "%d attributes; %d of %d items have some, up to %d",
        int(links["number"].max()),
        int((numbers_VG > 0).any(axis=1).sum()),
        vocabulary.num_items,
        numbers_VG.shape[1],
    )
    return numbers_VG


def _values(value: Any, separator: str, column: str) -> list[str]:
    """Return the attributes that a cell of the table names."""
    if isinstance(value, str):
        value = value.split(separator)
    elif not isinstance(value, list | tuple | np.ndarray):
        value = [] if pd.isna(value) else [str(value)]
    if not all(isinstance(one, str) for one in value):
        raise DataError(
            f"the table of items, column '{column}': {value!r} is no list of strings. Give strings."
        )
    return [one.strip() for one in value if one.strip()]
