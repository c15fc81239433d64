"""Histories to recommend for: of another source than a run's log, with ids of the run's type."""

import dataclasses
import re

import pyarrow as pa
import pyarrow.compute as pc

from idbert.errors import DataError
from idbert.inputs.interactions import read_interactions
from idbert.tables import ITEM, Interactions
from pipelines.cli import logger
from pipelines.corridor import DataSettings, read_log

NO_ITEM = -(2**63)
"""An id that no catalogue has."""

INTEGER = r"0|-?[1-9]\d*"
"""What an id looks like that is an integer, and comes back as it was."""


def read_histories_of(
    data: DataSettings, histories: str | None, item_type: pa.DataType
) -> Interactions:
    """Read events of a file, folder or glob as a run's log was read; None: that log.

    Args:
        data: how the run's log was read.
        histories: the other source.
        item_type: of the run's item ids.

    Raises:
        DataError: the source cannot be read, or its items are of another kind than the run's.
    """
    if histories is None:
        return read_log(data)
    # A history of one event is worth something, too.
    data = dataclasses.replace(data, min_user_events=1, min_item_events=1, weight_column=None)
    log = read_interactions(histories, data)
    if pa.types.is_integer(log.column(ITEM).type) and not pa.types.is_integer(item_type):
        # A text file has no types: in a short one all ids may look like integers.
        log = read_interactions(histories, dataclasses.replace(data, id_type="string"))
    elif pa.types.is_integer(item_type) and not pa.types.is_integer(log.column(ITEM).type):
        log = _with_integers(log)
    return log


def _with_integers(log: Interactions) -> Interactions:
    """Return events whose items are integers, as a catalogue's are; others become an unknown one.

    One new item with another name makes all ids of a text file text.
    """
    items = log.column(ITEM)
    names = items.unique()
    numbers = [
        int(name) if re.fullmatch(INTEGER, name) and abs(int(name)) < 2**63 else NO_ITEM
        for name in names.to_pylist()
    ]
    if numbers.count(NO_ITEM) == len(numbers):
        raise DataError(
            "no item of the histories is an integer, as the ids of the catalogue are; the first is "
            f"{names[0].as_py()!r}. Is data.item_column the right one?"
        )
    if NO_ITEM in numbers:
        logger.warning(
            "%d of %d items are no integers, as the ids of the catalogue are; they count as "
            "unknown",
            numbers.count(NO_ITEM),
            len(numbers),
        )
    places = pc.index_in(items, value_set=names)
    table = log.table
    place = table.column_names.index(ITEM)
    return log.with_table(table.set_column(place, ITEM, pa.array(numbers, pa.int64()).take(places)))
