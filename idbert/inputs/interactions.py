"""Reads a behaviour log: who did something with which item, and when.

DuckDB reads and sorts, within a memory limit, and spills to disk. Ids come back exactly as given:
what is text stays text, and one column never mixes the two.
"""

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from idbert.errors import ConfigError, DataError
from idbert.inputs.filters import count_duplicates, filter_interactions
from idbert.inputs.formats import Source, open_parts
from idbert.inputs.staging import SourceRows, staged
from idbert.inputs.times import TimeUnit, read_times
from idbert.tables import BEHAVIOUR, ITEM, TIME, USER, WEIGHT, Interactions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InteractionSettings:
    """Which columns of a log to read, how to understand them, and which events to keep."""

    user_column: str = "user_id"
    """Column that holds the user ids. A typed header (user_id:token) needs no type here."""

    item_column: str = "item_id"
    """Column that holds the item ids."""

    time_column: str = "timestamp"
    """Column that holds the time of the event, or its position among the user's events."""

    behaviour_column: str | None = None
    """Column that says what was done (view, cart, buy); becomes the segment id. None: no such."""

    weight_column: str | None = None
    """Column with the event's weight in the loss, at least 0. None: all events count the same."""

    time_unit: TimeUnit = "auto"
    """How times are written; auto finds out. Positions order events and are no real times."""

    id_type: Literal["auto", "string", "integer"] = "auto"
    """Type of the ids. Auto: that of the source; of a text file integers if all ids are such."""

    min_user_events: int = 1
    """Users with fewer events are dropped, together with rare items, until none is left."""

    min_item_events: int = 1
    """Items with fewer events are dropped, together with rare users, until none is left."""

    drop_repeats: bool = False
    """Keep only the first of a user's consecutive events with the same item (and behaviour)."""

    memory_limit: str = "4GB"
    """Memory for reading and sorting (the result comes on top); beyond it, disk is used."""

    def __post_init__(self) -> None:
        for name in ("min_user_events", "min_item_events"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if len({self.user_column, self.item_column, self.time_column}) < 3:
            raise ConfigError(
                f"user_column '{self.user_column}', item_column '{self.item_column}' and "
                f"time_column '{self.time_column}' must be three columns."
            )
        if not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", self.memory_limit):
            raise ConfigError(
                f"memory_limit must be a number and KB, MB, GB or TB, such as 4GB, not "
                f"'{self.memory_limit}'."
            )

    def columns(self) -> dict[str, str]:
        """Return our name for each column that is read, and its name in the source."""
        columns = {
            USER: self.user_column,
            ITEM: self.item_column,
            TIME: self.time_column,
            BEHAVIOUR: self.behaviour_column,
            WEIGHT: self.weight_column,
        }
        return {ours: theirs for ours, theirs in columns.items() if theirs is not None}


def read_interactions(source: Source, settings: InteractionSettings | None = None) -> Interactions:
    """Read a behaviour log and sort it by user, time, and place in the source.

    Duplicated rows are kept, for they may be two events; their number is logged. Rows are counted
    from 1 below the header in what errors say. In a text file an empty field and the words nan,
    NaN, null, NULL, None and <NA> are missing values.

    Args:
        source: a csv, tsv, inter (RecBole's atomic file) or parquet file, a folder of such files or
            a glob pattern (several files follow each other in the order of their names), a pandas
            DataFrame or a pyarrow Table.
        settings: column names, units and filters; None: the defaults.

    Returns:
        Ids as they were given: text stays text and int64 stays int64, to the last digit. Only in
        a text file, which has no types, a column becomes int64, and that only if every id is the
        canonical text of such a number ("7", not "007").

    Raises:
        DataError: the source cannot be read, an id, time or weight is missing or unusable, one
            column mixes text and numbers, or nothing is left after the filters.
    """
    settings = settings or InteractionSettings()
    started = time.perf_counter()
    name = name_of(source)
    columns = settings.columns()
    with staged(name, open_parts(source, columns), columns, settings.memory_limit) as events:
        checked = check_events(events, settings)
        table = events.sorted_table(checked.expressions, by=(USER, TIME))
    interactions = Interactions(table, checked.times_are_real)
    logger.info(
        "%s: %d interactions of %d users read in %.1f s; %d rows repeat another (kept); times %s",
        name,
        len(interactions),
        len(interactions.user_offsets()) - 1,
        time.perf_counter() - started,
        count_duplicates(interactions),
        _time_span(interactions),
    )
    return filter_interactions(
        interactions, settings.min_user_events, settings.min_item_events, settings.drop_repeats
    )


@dataclass(frozen=True)
class CheckedEvents:
    """The columns of staged rows, all of whose values can be used.

    Attributes:
        expressions: SQL over the staged rows for each of our columns.
        times_are_real: whether timestamp becomes microseconds since 1970 UTC; else a position.
    """

    expressions: dict[str, str]
    times_are_real: bool


def check_events(events: SourceRows, settings: InteractionSettings) -> CheckedEvents:
    """Check every value of the staged rows, and say how it is read.

    Raises:
        DataError: an id, time or weight is missing or unusable.
    """
    expressions = {
        USER: _read_ids(events, USER, settings.id_type),
        ITEM: _read_ids(events, ITEM, settings.id_type),
    }
    expressions[TIME], times_are_real = read_times(events, settings.time_unit)
    if BEHAVIOUR in events.labels:
        expressions[BEHAVIOUR] = _read_behaviours(events)
    if WEIGHT in events.labels:
        expressions[WEIGHT] = _read_weights(events)
    return CheckedEvents(expressions, times_are_real)


def name_of(source: Source) -> str:
    """Return what errors and logs call a source."""
    return str(source) if isinstance(source, str | Path) else type(source).__name__


def _read_ids(events: SourceRows, column: str, id_type: str) -> str:
    """Check the ids of one column and return SQL for them as text or int64."""
    kind = events.kinds[column]
    if kind == "floats":
        events.refuse(
            f"{column} IS NULL OR isnan({column})",
            column,
            "and because of that the other ids became floating-point numbers",
            "Drop the rows without an id, then convert the column with .astype('int64').",
        )
    if kind in ("floats", "times"):
        held = {"floats": "floating-point numbers", "times": "times"}[kind]
        raise DataError(
            f"{events.source}: column '{events.labels[column]}' holds {held}, which cannot be ids. "
            "Convert the column to integers or text."
        )
    missing = f"{column} IS NULL" + (f" OR {column} = ''" if kind == "text" else "")
    events.refuse(missing, column, "which is no id", "Drop such rows, or give them an id.")
    if id_type == "string":
        return f"CAST({column} AS VARCHAR)"
    if kind == "text" and id_type == "integer":
        events.refuse_all_but_integers(column, "Set id_type to auto or string.")
        return f"CAST({column} AS BIGINT)"
    if events.from_text_files and events.all_integers(column):
        return f"CAST({column} AS BIGINT)"
    return column


def _read_behaviours(events: SourceRows) -> str:
    kind = events.kinds[BEHAVIOUR]
    if kind not in ("text", "integers"):
        raise DataError(
            f"{events.source}: column '{events.labels[BEHAVIOUR]}' holds {kind}, not the names of "
            "behaviours. Name another column with behaviour_column."
        )
    name = f"CAST({BEHAVIOUR} AS VARCHAR)"
    advice = "Drop such rows, or name the behaviour (view, cart, buy)."
    events.refuse(f"coalesce({name}, '') = ''", BEHAVIOUR, "which is no behaviour", advice)
    return name


def _read_weights(events: SourceRows) -> str:
    if events.kinds[WEIGHT] == "times":
        raise DataError(
            f"{events.source}: column '{events.labels[WEIGHT]}' holds times, not weights. Name "
            "another column with weight_column."
        )
    weight = f"TRY_CAST({WEIGHT} AS FLOAT)"
    advice = "Give every event a weight such as 1 or 0.5, or name another with weight_column."
    events.refuse(
        f"coalesce(NOT isfinite({weight}) OR {weight} < 0, true)",
        WEIGHT,
        "not a finite number of at least 0",
        advice,
    )
    return weight


def _time_span(interactions: Interactions) -> str:
    """Say from when to when, so that a misread unit catches the eye."""
    if not interactions.times_are_real:
        return "are positions"
    span = pc.min_max(interactions.column(TIME).cast(pa.timestamp("us"))).as_py()
    return f"{span['min']:%Y-%m-%d} to {span['max']:%Y-%m-%d}"
