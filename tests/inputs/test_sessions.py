"""Histories cut where a user paused."""

from pathlib import Path

import numpy as np
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs import flat_arrays
from idbert.inputs.cuts import SplitSettings
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.sequences import Sequences, SequenceSettings, build_sequences
from idbert.inputs.splits import split
from idbert.inputs.vocabulary import Vocabulary
from tests.inputs.test_preparation import (
    BY_TIME,
    EXTRA,
    assert_same,
    prepared,
    random_frame,
    write_parts,
)
from tests.inputs.test_sequences import EVERYTHING, random_log

DAY = 24 * 60 * 60.0


def sessions_by_hand(whole: Sequences, gap_s: float) -> list[tuple[str, list[int]]]:
    """Cut by plain loops."""
    found: list[tuple[str, list[int]]] = []
    for user, start, stop in zip(whole.users.to_pylist(), whole.starts, whole.stops, strict=True):
        for place in range(start, stop):
            pause = whole.times[place] - whole.times[place - 1] if place > start else np.inf
            if pause > gap_s * 1e6:
                found.append((user, []))
            found[-1][1].append(int(whole.items[place]))
    return found


def as_pairs(sequences: Sequences) -> list[tuple[str, list[int]]]:
    bounds = zip(sequences.starts, sequences.stops, strict=True)
    items = [sequences.items[start:stop].tolist() for start, stop in bounds]
    return list(zip(sequences.users.to_pylist(), items, strict=True))


@pytest.fixture
def whole() -> Sequences:
    log = random_log()
    return build_sequences(log, Vocabulary.from_interactions(log), EVERYTHING)


@pytest.mark.parametrize("gap_s", [0.0, 0.3 * DAY, 10 * DAY, 1e9])
@pytest.mark.parametrize("chunk", [1, 7, 2_000_000])
def test_sessions_are_those_of_a_plain_loop(gap_s, chunk, whole, monkeypatch):
    monkeypatch.setattr(flat_arrays, "CHUNK_EVENTS", chunk)
    sessions = whole.sessions(gap_s)
    assert as_pairs(sessions) == sessions_by_hand(whole, gap_s)
    assert sessions.items is whole.items  # nothing is copied
    assert sessions.lengths.sum() == whole.lengths.sum()


def test_slices_with_hidden_events_between_them_are_cut_by_what_is_seen(whole):
    seen = whole.newest(3)
    seen = seen.replaced(stops=np.where(np.arange(len(seen)) % 5, seen.stops, seen.starts))
    assert not seen.lengths.all()
    assert as_pairs(seen.sessions(0.3 * DAY)) == sessions_by_hand(seen, 0.3 * DAY)
    nobody = seen.replaced(stops=seen.starts)
    assert len(nobody.sessions(DAY)) == 0


def test_a_pause_of_just_the_gap_cuts_nothing():
    times = np.array([0, 10, 20, 31]) * 1_000_000
    one = Sequences.from_histories([[4, 5, 6, 7]]).replaced(times=times)
    assert as_pairs(one.sessions(10.0)) == [(0, [4, 5, 6]), (0, [7])]


def test_lengths_are_those_of_sessions():
    log = random_log()
    vocabulary = Vocabulary.from_interactions(log)
    settings = SequenceSettings(max_length=2, min_length=2, session_gap_s=10 * DAY)
    built = build_sequences(log, vocabulary, settings)
    by_hand = sessions_by_hand(build_sequences(log, vocabulary, EVERYTHING), 10 * DAY)
    assert as_pairs(built) == [(user, rows[-2:]) for user, rows in by_hand if len(rows) >= 2]
    assert built.offsets[-1] == len(built.items)
    assert built.weights.mean() == pytest.approx(1, abs=1e-6)


def test_the_gap_acts_on_the_number_of_sequences():
    log = random_log()
    vocabulary = Vocabulary.from_interactions(log)
    sizes = [
        len(build_sequences(log, vocabulary, SequenceSettings(session_gap_s=gap)))
        for gap in (None, 1e9, 100 * DAY, DAY)
    ]
    assert sizes[0] == sizes[1] < sizes[2] < sizes[3]


@pytest.mark.parametrize("cut", [None, BY_TIME])
def test_a_prepared_log_gives_the_sessions_of_the_table(cut, tmp_path: Path):
    source = write_parts(random_frame(1), tmp_path / "log")
    log = prepared(source, tmp_path / "made", cut, **EXTRA)
    table = read_interactions(source, InteractionSettings(**EXTRA))
    parts = split(table, cut or SplitSettings())
    for settings in (
        SequenceSettings(session_gap_s=10.0),
        SequenceSettings(max_length=2, min_length=2, session_gap_s=20.0),
    ):
        expected = build_sequences(parts.train, log.vocabulary, settings)
        assert_same(log.train(settings), expected, weights=True)


def test_sessions_of_events_that_only_have_an_order_are_refused():
    log = random_log(real_times=False)
    with pytest.raises(DataError, match="only an order. Leave session_gap_s out, or set time_col"):
        build_sequences(
            log, Vocabulary.from_interactions(log), SequenceSettings(session_gap_s=60.0)
        )


@pytest.mark.parametrize("gap", [-1.0, float("nan")])
def test_a_gap_below_zero_is_refused(gap):
    with pytest.raises(ConfigError, match="session_gap_s is .*; it must be at least 0 seconds"):
        SequenceSettings(session_gap_s=gap)
