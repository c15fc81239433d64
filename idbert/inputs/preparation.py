"""Prepares a log of any size: read, checked, sorted and split once, then only mapped.

Memory holds what the sort is allowed (beyond it DuckDB uses the disk), ids, and a few numbers a
user and an item; events pass through in chunks. The stages leave folders that a later call finds:
what is finished is not done again, unless the source or the settings have changed since.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from idbert.files import written_aside
from idbert.inputs.columns import Part
from idbert.inputs.cuts import SplitSettings, cut_log
from idbert.inputs.filters import count_duplicates, kept_events
from idbert.inputs.flat_arrays import event_chunks, open_flat, user_chunks, write_flat
from idbert.inputs.formats import open_parts
from idbert.inputs.interactions import InteractionSettings, check_events
from idbert.inputs.prepared_log import FORMAT, SUMMARY, PreparedLog
from idbert.inputs.sequences import Sequences
from idbert.inputs.sorted_events import SortedEvents, write_kept, write_sorted
from idbert.inputs.staging import staged
from idbert.inputs.vocabulary import Vocabulary, by_frequency
from idbert.tables import USER, Interactions

logger = logging.getLogger(__name__)

_MADE_OF = "made_of.json"
_ROWS, _SEGMENTS = "rows.npy", "segments.npy"

Sort: TypeAlias = Callable[[str, Sequence[Part], InteractionSettings, Path, Path], bool]
"""Checks the parts of a source and writes them sorted (`SortedEvents`) into the last, an empty
folder; the folder before it is empty too, for what does not fit into memory. Returns whether the
times are real."""


def sort_here(
    source: str, parts: Sequence[Part], settings: InteractionSettings, spill: Path, folder: Path
) -> bool:
    """Check and sort by DuckDB on this machine; see `Sort`."""
    with staged(source, parts, settings.columns(), settings.memory_limit, spill) as events:
        checked = check_events(events, settings)
        write_sorted(events, checked, folder)
    return checked.times_are_real


def prepare_log(
    source: str | Path,
    folder: str | Path,
    settings: InteractionSettings,
    split: SplitSettings,
    *,
    work: str | Path,
    sort_events: Sort = sort_here,
) -> PreparedLog:
    """Read, check, filter, sort and number a log, with the result that the tables would have.

    Args:
        source: a csv, tsv, inter or parquet file, a folder of such files, or a glob pattern.
        folder: receives vocabulary.parquet, sequences.arrow (all events) and log.json, in this
            order, each whole or not at all.
        settings: columns, units, filters, and the memory for sorting.
        split: what is held out; it decides about counts, and by them about the order of the items.
        work: a folder for the stages and for what does not fit into memory; several times as large
            as the result. It may be deleted afterwards.
        sort_events: what checks and sorts the events; the result is the same by any.

    Raises:
        DataError: for the reasons of `read_interactions`, `leave_last_out` and `global_time_split`,
            or the disk has no room.
    """
    folder, work = Path(folder), Path(work)
    parts = open_parts(source, settings.columns())
    files = files_of(part.name for part in parts)
    names = [one.name for one in fields(InteractionSettings) if one.name != "memory_limit"]
    read_by = {name: getattr(settings, name) for name in names}
    made_of: dict[str, Any] = {"format": FORMAT, "source": files, "settings": read_by}

    def sort(aside: Path) -> None:
        spill = work / "spill"
        _clear(spill)
        times_are_real = sort_events(str(source), parts, settings, spill, aside)
        shutil.rmtree(spill)
        (aside / "times.json").write_text(json.dumps(times_are_real))

    _stage(work / "sorted", made_of, sort)
    events = SortedEvents.open(work / "sorted")
    times_are_real = json.loads((work / "sorted" / "times.json").read_text())
    logger.info("%d rows repeat another (kept)", _count_duplicates(events))
    if max(settings.min_user_events, settings.min_item_events) > 1 or settings.drop_repeats:
        _stage(work / "kept", made_of, lambda aside: _filter(events, settings, aside))
        events = SortedEvents.open(work / "kept")

    made_of["split"] = asdict(split)
    _stage(work / "rows", made_of, lambda aside: _number(events, times_are_real, split, aside))
    vocabulary = Vocabulary.load(work / "rows")
    vocabulary.save(folder)
    Sequences(
        events.users,
        open_flat(work / "rows" / _ROWS),
        events.offsets,
        events.times_T,
        open_flat(work / "rows" / _SEGMENTS) if events.behaviours_T is not None else None,
        events.weights_T,
    ).save(folder)
    summary = {
        "interactions": len(events.items_T),
        "users": len(events.users),
        "items": vocabulary.num_items,
        "times_are_real": times_are_real,
        **made_of,
    }
    with written_aside(folder / SUMMARY) as path:
        path.write_text(json.dumps(summary, indent=2, ensure_ascii=False), encoding="utf-8")
    return PreparedLog.open(folder)


def files_of(names: Iterable[str]) -> list[list[Any]]:
    """Return name, size and time of the last change of files, by which a change is noticed."""
    stats = [(name, Path(name).stat()) for name in names]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def _stage(folder: Path, made_of: dict[str, Any], make: Callable[[Path], None]) -> None:
    """Make a folder, unless an earlier call has made it of the same source and settings."""
    marker = folder / _MADE_OF
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == made_of:
        logger.info("%s: found finished", folder.name)
        return
    started = time.perf_counter()
    with written_aside(folder) as aside:
        aside.mkdir()
        make(aside)
        text = json.dumps(made_of, ensure_ascii=False)
        (aside / _MADE_OF).write_text(text, encoding="utf-8")
    logger.info("%s: %.1f s", folder.name, time.perf_counter() - started)


def _filter(events: SortedEvents, settings: InteractionSettings, folder: Path) -> None:
    keep_T = kept_events(
        events.offsets,
        events.items_T,
        events.behaviours_T,
        min_user_events=settings.min_user_events,
        min_item_events=settings.min_item_events,
        drop_repeats=settings.drop_repeats,
    )
    write_kept(events, keep_T, folder)


def _number(events: SortedEvents, times_are_real: bool, split: SplitSettings, folder: Path) -> None:
    """Write the vocabulary, and the events as its rows."""
    cuts = cut_log(events.offsets, events.times_T if times_are_real else None, split)
    of_all_N, trained_N = _count_items(events, split.trained_until(events.offsets, cuts))
    present = pa.array(of_all_N > 0)
    vocabulary = Vocabulary.from_counts(
        events.items.filter(present), pa.array(trained_N).filter(present), _behaviours(events)
    )
    vocabulary.save(folder)
    rows_N = np.zeros(len(events.items), dtype=np.int32)
    rows_N[of_all_N > 0] = vocabulary.rows(events.items.filter(present))
    _translate(events.items_T, rows_N, folder / _ROWS)
    if events.behaviours_T is not None and events.behaviours is not None:
        known = events.behaviours.to_pylist()
        ranks = {name: rank for rank, name in enumerate(vocabulary.behaviours)}
        segments_N = np.array([ranks.get(name, 0) for name in known], dtype=np.int32)
        _translate(events.behaviours_T, segments_N, folder / _SEGMENTS)


def _translate(values_T: np.ndarray, table_N: np.ndarray, path: Path) -> None:
    pieces = (table_N[values_T[chunk]] for chunk in event_chunks(len(values_T)))
    write_flat(path, len(values_T), "<i4", pieces)


def _count_items(
    events: SortedEvents, ends_U: Int64[np.ndarray, "U"]
) -> tuple[Int64[np.ndarray, "N"], Int64[np.ndarray, "N"]]:
    """Count each item's events, and those before the users' ends."""
    of_all_N = np.zeros(len(events.items), dtype=np.int64)
    withheld_N = np.zeros(len(events.items), dtype=np.int64)
    for users in user_chunks(events.offsets):
        bounds = events.offsets[users.start : users.stop + 1]
        items = events.items_T[bounds[0] : bounds[-1]]
        withheld = np.arange(bounds[0], bounds[-1]) >= np.repeat(ends_U[users], np.diff(bounds))
        of_all_N += np.bincount(items, minlength=len(of_all_N))
        withheld_N += np.bincount(items[withheld], minlength=len(of_all_N))
    return of_all_N, of_all_N - withheld_N


def _behaviours(events: SortedEvents) -> tuple[str, ...]:
    if events.behaviours_T is None or events.behaviours is None:
        return ()
    counts = np.zeros(len(events.behaviours), dtype=np.int64)
    for chunk in event_chunks(len(events.behaviours_T)):
        counts += np.bincount(events.behaviours_T[chunk], minlength=len(counts))
    present = pa.array(counts > 0)
    return by_frequency(events.behaviours.filter(present), pa.array(counts).filter(present))


def _count_duplicates(events: SortedEvents) -> int:
    """Count rows that repeat an earlier row in every column; they lie in one chunk of users."""
    duplicates = 0
    for users in user_chunks(events.offsets):
        bounds = events.offsets[users.start : users.stop + 1]
        chunk = {name: values[bounds[0] : bounds[-1]] for name, values in events.columns().items()}
        chunk[USER] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        duplicates += count_duplicates(Interactions(pa.table(chunk), times_are_real=True))
    return duplicates


def _clear(folder: Path) -> None:
    """Make an empty folder; what a killed process has spilled there is gone."""
    with written_aside(folder) as aside:
        aside.mkdir(parents=True)
