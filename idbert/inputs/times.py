"""The time of an event, from whatever a log writes: dates, ISO text, numbers of any unit."""

import logging
from typing import Literal

from idbert.errors import DataError
from idbert.inputs.staging import SourceRows
from idbert.tables import TIME

logger = logging.getLogger(__name__)

TimeUnit = Literal[
    "auto", "seconds", "milliseconds", "microseconds", "nanoseconds", "iso", "positions"
]

_MICROSECONDS = {"nanoseconds": 1e-3, "microseconds": 1, "milliseconds": 1e3, "seconds": 1e6}
# From which size on a number is taken for which unit: 1e8 seconds is March 1973, which is 1e11 in
# milliseconds, and 1e11 in seconds would be the year 5138.
SMALLEST = {"nanoseconds": 1e17, "microseconds": 1e14, "milliseconds": 1e11, "seconds": 1e8}
_YEAR_10000_US = 253_402_300_800_000_000
_FIRST_DATE, _AFTER_LAST_DATE = 19700101, 21000101
_ISO_TEXT = f"epoch_us(TRY_CAST({TIME} AS TIMESTAMPTZ))"
_ADVICE = (
    "Give seconds since 1970-01-01 UTC, ISO dates (2024-05-31T18:30:00), or name another column "
    "with time_column."
)


def read_times(events: SourceRows, unit: TimeUnit) -> tuple[str, bool]:
    """Find out how times are written, and check every one of them.

    Numbers are taken, by the size of the largest, for nanoseconds (from 1e17), microseconds (from
    1e14), milliseconds (from 1e11), seconds (from 1e8, in 1973) or positions (below).

    Args:
        events: the staged log.
        unit: how times are written; "auto" finds out.

    Returns:
        SQL for the int64 column, and whether it holds microseconds since 1970 UTC (else positions).

    Raises:
        DataError: numbers look like the digits of dates (20240531), a time is missing, unreadable,
            negative or after the year 9999, a position is not a whole number, or `unit` is not what
            the column holds.
    """
    kind = events.kinds[TIME]
    if kind == "times":
        return _read_timestamps(events, unit)
    may_be_numbers = unit != "iso"
    if may_be_numbers and (kind == "integers" or (kind == "text" and events.all_integers(TIME))):
        return _read_numbers(events, unit, f"CAST({TIME} AS BIGINT)", whole=True)
    if kind == "text" and _is_iso(events, unit):
        events.refuse(f"{_ISO_TEXT} IS NULL", TIME, "not an ISO date", _ADVICE)
        events.refuse(f"{_ISO_TEXT} < 0", TIME, "which is before 1970", _ADVICE)
        return _ISO_TEXT, True
    if not may_be_numbers:
        raise DataError(
            f"{events.source}: column '{events.labels[TIME]}' holds numbers, not ISO dates as "
            "time_unit=iso says. Set time_unit to auto."
        )
    # nan and inf are no times, whether text or numbers.
    number = f"TRY_CAST({TIME} AS DOUBLE)"
    number = f"CASE WHEN isfinite({number}) THEN {number} END"
    return _read_numbers(events, unit, number, whole=False)


def _read_timestamps(events: SourceRows, unit: TimeUnit) -> tuple[str, bool]:
    if unit not in ("auto", "iso"):
        raise DataError(
            f"{events.source}: column '{events.labels[TIME]}' is of a date or timestamp type, "
            f"so that time_unit={unit} cannot act. Set time_unit to auto."
        )
    date = f"make_timestamp({TIME})"
    events.refuse(f"{TIME} IS NULL", TIME, "not a time", _ADVICE)
    events.refuse(f"{TIME} < 0", TIME, "which is before 1970", _ADVICE, shown=date)
    return TIME, True


def _is_iso(events: SourceRows, unit: TimeUnit) -> bool:
    """Decide by majority, so that the few rows of the other kind are the ones refused."""
    if unit != "auto":
        return unit == "iso"
    numbers = events.scalar(f"count(TRY_CAST({TIME} AS DOUBLE))")
    return numbers == 0 or events.scalar(f"count({_ISO_TEXT})") > numbers


def _read_numbers(events: SourceRows, unit: TimeUnit, number: str, whole: bool) -> tuple[str, bool]:
    events.refuse(f"{number} IS NULL", TIME, "not a number", _ADVICE)
    events.refuse(f"{number} < 0", TIME, "which is negative", _ADVICE)
    if unit == "auto":
        _refuse_digits_of_dates(events, number)
    chosen = unit if unit != "auto" else _unit_by_size(events, number)
    if chosen == "positions":
        if not whole:
            too_fine = f"{number} != trunc({number}) OR {number} >= 1e18"
            advice = "Number a user's events 0, 1, 2, ..., or give seconds since 1970-01-01 UTC."
            events.refuse(too_fine, TIME, "which is no position: not a whole number", advice)
        return f"CAST({number} AS BIGINT)", False
    scale = _MICROSECONDS[chosen]
    events.refuse(
        f"{number} >= {_YEAR_10000_US / scale:.0f}",
        TIME,
        f"which in {chosen} is after the year 9999",
        "Set time_unit to the unit that the column is in.",
    )
    logger.info("%s: times are read as %s", events.source, chosen)
    if not whole:
        return f"CAST(round({number} * {scale}) AS BIGINT)", True
    return (f"{number} // 1000" if scale < 1 else f"{number} * {scale:.0f}"), True


def _refuse_digits_of_dates(events: SourceRows, number: str) -> None:
    """Refuse 20240531 and 20240531183000: as positions or milliseconds they would be nonsense."""
    most = events.scalar(f"max({number})")
    for form, scale in (("YYYYMMDD", 1), ("YYYYMMDDhhmmss", 10**6)):
        if not _FIRST_DATE * scale <= most < _AFTER_LAST_DATE * scale:
            continue
        least = events.scalar(f"min({number})")
        if least >= _FIRST_DATE * scale:
            raise DataError(
                f"{events.source}: the numbers in column '{events.labels[TIME]}', {least:.0f} to "
                f"{most:.0f}, look like dates written as {form}, which are not read. Write them as "
                "ISO dates (2024-05-31T18:30:00). If they are something else, name it by time_unit."
            )


def _unit_by_size(events: SourceRows, number: str) -> str:
    largest = events.scalar(f"max({number})")
    return next((unit for unit, size in SMALLEST.items() if largest >= size), "positions")
