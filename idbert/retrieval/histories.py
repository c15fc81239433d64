"""Histories as a caller gives them, turned into vocabulary rows."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int32, Int64

from idbert.errors import DataError
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.prepared_log import PreparedLog
from idbert.inputs.sequences import Sequences
from idbert.inputs.vocabulary import Vocabulary
from idbert.rows import UNK
from idbert.tables import BEHAVIOUR, HISTORY, ITEM, TIME, USER, Interactions

logger = logging.getLogger(__name__)

History: TypeAlias = Sequence[str] | Sequence[int] | np.ndarray | pd.Series
"""Item ids of one user, oldest first."""

HistoryList: TypeAlias = Sequence[History] | np.ndarray | pd.Series
"""One history a user, as a list, an array or a Series of them."""

HistoryTable: TypeAlias = pd.DataFrame | pa.Table | Interactions | PreparedLog
"""Columns user_id and item_id; where there is a timestamp it orders a user's rows, else their place
does; a behaviour is read where the vocabulary knows behaviours. Or a prepared log, which is mapped
and not copied where its catalogue is the vocabulary."""


@dataclass(frozen=True, eq=False)
class Histories:
    """What some users did, oldest first; user u's rows are `offsets[u] : offsets[u + 1]`.

    Attributes:
        key: name of the column that tells histories apart: user_id, or history for a number.
        keys: user ids, or the numbers from 0.
        rows_T: vocabulary rows of the items that the vocabulary knows.
        offsets: U + 1 bounds, from 0 to T.
        behaviours_T: segment ids, 0 (the most frequent behaviour) where the histories do not tell;
            None where the vocabulary knows no behaviours.
        num_skipped: events left out because the vocabulary does not know their item.
        times_T: microseconds since 1970-01-01 UTC; None where the histories have no real times.
        asked_U: the moment for which is recommended, alike; None where nobody reads it.
    """

    key: str
    keys: pa.Array
    rows_T: Int64[np.ndarray, "T"] | Int32[np.ndarray, "T"]
    offsets: Int64[np.ndarray, "_"]
    behaviours_T: Int32[np.ndarray, "T"] | None
    num_skipped: int
    times_T: Int64[np.ndarray, "T"] | None = None
    asked_U: Int64[np.ndarray, "U"] | None = None

    def __len__(self) -> int:
        """Return U, the number of histories."""
        return len(self.keys)

    @property
    def lengths(self) -> Int64[np.ndarray, "U"]:
        """The number of known items in each history."""
        return np.diff(self.offsets)

    def not_empty(self) -> "Histories":
        """Return the histories in which there is at least one known item."""
        kept = self.lengths > 0
        offsets = np.append(self.offsets[:-1][kept], self.offsets[-1:])
        return replace(
            self,
            keys=self.keys.filter(pa.array(kept)),
            offsets=offsets,
            asked_U=None if self.asked_U is None else self.asked_U[kept],
        )

    def part(self, start: int, stop: int) -> "Histories":
        """Return the histories from `start` to before `stop`, as views."""
        bounds = self.offsets[start : stop + 1]
        events = slice(bounds[0], bounds[-1])
        return replace(
            self,
            keys=self.keys.slice(start, stop - start),
            rows_T=self.rows_T[events],
            offsets=bounds - bounds[0],
            behaviours_T=None if self.behaviours_T is None else self.behaviours_T[events],
            times_T=None if self.times_T is None else self.times_T[events],
            asked_U=None if self.asked_U is None else self.asked_U[start:stop],
        )

    def sequences(self) -> Sequences:
        """Return them as sequences, to be made into batches."""
        return Sequences(
            self.keys,
            self.rows_T.astype(np.int32, copy=False),
            self.offsets,
            times=self.times_T,
            behaviours=self.behaviours_T,
        )


def read_histories(histories: HistoryList | HistoryTable, vocabulary: Vocabulary) -> Histories:
    """Turn histories into vocabulary rows; unknown items are skipped and counted.

    Args:
        histories: lists of item ids, or a table of users and items. The users of a table come in
            the order of their ids.
        vocabulary: of the model.

    Raises:
        DataError: the histories are of another form, a column is missing, an id is missing (null),
            or ids are of another type than the vocabulary's.
    """
    if isinstance(histories, pd.DataFrame | pa.Table):
        histories = _read_table(histories, with_behaviours=bool(vocabulary.behaviours))
    if isinstance(histories, PreparedLog):
        if histories.vocabulary.fingerprint() == vocabulary.fingerprint():
            return _mapped(histories)
        histories = histories.interactions()
    if isinstance(histories, Interactions):
        offsets = histories.user_offsets()
        key, items = USER, histories.column(ITEM)
        keys = histories.column(USER).take(pa.array(offsets[:-1])).combine_chunks()
    else:
        lists = _checked_lists(histories)
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        offsets = np.append(np.zeros(1, np.int64), lengths.cumsum())
        key, keys = HISTORY, pa.array(np.arange(len(lists)))
        items = _flat(lists)
    rows_T = vocabulary.rows(items)
    behaviours_T = None
    if vocabulary.behaviours:
        behaviours_T = np.zeros(len(rows_T), np.int32)
        if isinstance(histories, Interactions) and histories.has(BEHAVIOUR):
            behaviours_T = vocabulary.behaviour_rows(histories.column(BEHAVIOUR)).astype(np.int32)

    times_T = None
    if isinstance(histories, Interactions) and histories.times_are_real:
        times_T = histories.column(TIME).to_numpy()

    known_T = rows_T != UNK
    num_skipped = int((~known_T).sum())
    if num_skipped:
        logger.warning(
            "%d of %d events skipped: the model does not know their items", num_skipped, len(rows_T)
        )
    kept_before = np.append(np.zeros(1, np.int64), known_T.cumsum())
    return Histories(
        key,
        keys,
        rows_T[known_T],
        kept_before[offsets],
        None if behaviours_T is None else behaviours_T[known_T],
        num_skipped,
        None if times_T is None else times_T[known_T],
    )


def _mapped(log: PreparedLog) -> Histories:
    """Return the users of a log whose rows are the model's own."""
    events = log.events
    return Histories(
        USER,
        events.users,
        events.items,
        events.offsets,
        events.behaviours,
        0,
        events.times if log.times_are_real else None,
    )


def _read_table(table: pd.DataFrame | pa.Table, *, with_behaviours: bool) -> Interactions:
    """Read a table by the same checks as a log; without times the order of the rows counts."""
    names = table.columns if isinstance(table, pd.DataFrame) else table.column_names
    missing = [name for name in (USER, ITEM) if name not in names]
    if missing:
        raise DataError(
            f"the table of histories has no column {' and no '.join(missing)}; its columns: "
            f"{', '.join(map(str, names))}. Rename them to {USER}, {ITEM} and {TIME}, whatever the "
            "log that was trained on calls them."
        )
    has_times = TIME in names
    absent = [] if has_times else [f"'{TIME}': the rows count as in order"]
    if with_behaviours and BEHAVIOUR not in names:
        absent.append(f"'{BEHAVIOUR}': all events count as the most frequent one")
    if absent:
        logger.warning("the table of histories has no column %s", "; and no ".join(absent))
    if not has_times:
        places = np.arange(len(table))
        if isinstance(table, pd.DataFrame):
            table = table.assign(**{TIME: places})
        else:
            table = table.append_column(TIME, pa.array(places))
    settings = InteractionSettings(
        behaviour_column=BEHAVIOUR if with_behaviours and BEHAVIOUR in names else None,
        time_unit="auto" if has_times else "positions",
    )
    return read_interactions(table, settings)


def _checked_lists(histories: Any) -> list[History]:
    """Refuse what is not a list of lists, such as the single history that was meant to be one."""
    if isinstance(histories, str) or not isinstance(histories, Sequence | np.ndarray | pd.Series):
        raise DataError(
            f"histories are lists of item ids, or a table with {USER} and {ITEM}; got "
            f"{type(histories).__name__}."
        )
    lists = list(histories)
    wrong = [one for one in lists if isinstance(one, str) or not hasattr(one, "__len__")]
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(lists)} histories are not lists of item ids; the first of them "
            f"is {wrong[0]!r}. For a single history give a list that holds it: [history]."
        )
    return lists


def _flat(histories: list[History]) -> pa.Array:
    """Return all ids end to end."""
    try:
        return pa.array(list(chain.from_iterable(histories)))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(f"ids must be all strings or all integers of 64 bits: {error}.") from error
