from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs.sequences import Sequences, SequenceSettings, build_sequences
from idbert.inputs.vocabulary import Vocabulary
from idbert.rows import FIRST_ITEM
from idbert.tables import Interactions

EVERYTHING = SequenceSettings(max_length=None, min_length=0)


def random_log(seed: int = 0, num_users: int = 40, real_times: bool = True) -> Interactions:
    """A log with behaviours and weights; users have 1 to 12 events over 30 items."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 13, num_users)
    total = lengths.sum()
    table = pa.table(
        {
            "user_id": [f"user {user:03d}" for user in np.repeat(np.arange(num_users), lengths)],
            "item_id": [f"item {item}" for item in rng.integers(0, 30, total)],
            "timestamp": np.sort(rng.integers(0, 10**15, total)),
            "behaviour": rng.choice(["view", "buy"], total, p=[0.8, 0.2]),
            "weight": rng.uniform(0.5, 3, total).astype(np.float32),
        }
    )
    return Interactions(table, times_are_real=real_times)


def as_lists(sequences: Sequences) -> dict[str, list[int]]:
    parts = np.split(sequences.items, sequences.offsets[1:-1])
    return dict(zip(sequences.users.to_pylist(), map(np.ndarray.tolist, parts), strict=True))


def slow_lists(log: Interactions, vocabulary: Vocabulary, max_length: int | None, min_length: int):
    """What build_sequences must find, written as the plain loop."""
    known = vocabulary.ids.to_pylist()
    histories: dict[str, list[int]] = {}
    for event in log.table.to_pylist():
        history = histories.setdefault(event["user_id"], [])
        if event["item_id"] in known:
            history.append(FIRST_ITEM + known.index(event["item_id"]))
    long_enough = {user: rows for user, rows in histories.items() if len(rows) >= min_length}
    return {user: rows[-max_length:] if max_length else rows for user, rows in long_enough.items()}


@pytest.mark.parametrize("max_length", [None, 3, 7, 100])
@pytest.mark.parametrize("min_length", [0, 1, 3])
@pytest.mark.parametrize("num_known", [30, 6])
def test_sequences_equal_those_of_a_plain_loop(max_length, min_length, num_known):
    log = random_log()
    whole = Vocabulary.from_interactions(log)
    vocabulary = Vocabulary(
        whole.ids[:num_known], whole.counts_V[: FIRST_ITEM + num_known], whole.behaviours
    )
    built = build_sequences(log, vocabulary, SequenceSettings(max_length, min_length))
    assert as_lists(built) == slow_lists(log, vocabulary, max_length, min_length)


def test_every_setting_of_the_lengths_acts():
    log = random_log()
    vocabulary = Vocabulary.from_interactions(log)
    usual = as_lists(build_sequences(log, vocabulary))
    for changed in (SequenceSettings(max_length=3), SequenceSettings(min_length=4)):
        assert as_lists(build_sequences(log, vocabulary, changed)) != usual


def test_the_newest_events_of_sequences_are_those_that_build_sequences_keeps():
    log = random_log()
    vocabulary = Vocabulary.from_interactions(log)
    whole = build_sequences(log, vocabulary)
    slices = whole.newest(3)
    assert slices.items is whole.items  # nothing is copied
    with pytest.raises(DataError, match="slices of a larger log.*Use starts and stops, or packed"):
        _ = slices.offsets
    cut = slices.packed()
    expected = build_sequences(log, vocabulary, SequenceSettings(max_length=3))
    assert as_lists(cut) == as_lists(expected)
    assert cut.times.tolist() == expected.times.tolist()
    assert cut.behaviours.tolist() == expected.behaviours.tolist()
    assert cut.num_dropped_events == expected.num_dropped_events > 0
    shorter = Sequences.from_histories([[], [4, 5], []]).newest(1).packed()
    assert as_lists(shorter) == {0: [], 1: [5], 2: []}


def test_every_event_is_kept_or_counted_as_left_out():
    log = random_log()
    whole = Vocabulary.from_interactions(log)
    few = Vocabulary(whole.ids[:20], whole.counts_V[:24], whole.behaviours)
    built = build_sequences(log, few, SequenceSettings(max_length=3))
    assert built.num_dropped_events > 0 and built.num_unknown_events > 0
    assert len(built.items) + built.num_dropped_events + built.num_unknown_events == len(log)


def test_times_behaviours_and_weights_stay_with_their_events():
    log = random_log()
    vocabulary = Vocabulary.from_interactions(log)
    built = build_sequences(log, vocabulary, SequenceSettings(max_length=2))
    events = {event["timestamp"]: event for event in log.table.to_pylist()}
    found = [events[time] for time in built.times.tolist()]
    assert [event["item_id"] for event in found] == vocabulary.ids_of(built.items)
    assert [event["behaviour"] for event in found] == [
        vocabulary.behaviours[row] for row in built.behaviours
    ]
    weights = np.array([event["weight"] for event in found])
    np.testing.assert_allclose(built.weights, weights / weights.mean(), rtol=1e-5)


def test_the_mean_weight_is_one():
    built = build_sequences(random_log(), Vocabulary.from_interactions(random_log()), EVERYTHING)
    assert built.weights.mean() == pytest.approx(1, abs=1e-6)


def test_an_order_is_not_passed_off_as_times():
    log = random_log(real_times=False)
    assert build_sequences(log, Vocabulary.from_interactions(log)).times is None


def test_a_log_without_behaviours_and_weights_has_none():
    log = random_log()
    plain = log.with_table(log.table.drop_columns(["behaviour", "weight"]))
    built = build_sequences(plain, Vocabulary.from_interactions(plain))
    assert built.behaviours is None and built.weights is None


def test_an_empty_log_gives_no_sequences():
    log = random_log()
    vocabulary = Vocabulary.from_interactions(log)
    built = build_sequences(log.filter(np.zeros(len(log), bool)), vocabulary)
    assert len(built) == 0 and built.offsets.tolist() == [0]


def test_users_without_known_items_stay_when_asked_to():
    log = random_log()
    vocabulary = Vocabulary(pa.array(["another item"]), np.zeros(5, np.int64), ("view", "buy"))
    built = build_sequences(log, vocabulary, EVERYTHING)
    assert len(built) == 40 and not built.lengths.any()
    assert len(build_sequences(log, vocabulary)) == 0


@pytest.mark.parametrize("max_length", [None, 3])
def test_opened_sequences_equal_the_saved_ones(tmp_path: Path, max_length):
    log = random_log()
    saved = build_sequences(
        log, Vocabulary.from_interactions(log), SequenceSettings(max_length=max_length)
    )
    saved.save(tmp_path)
    opened = Sequences.open(tmp_path)
    assert opened.users.equals(saved.users)
    for name in ("items", "offsets", "times", "behaviours", "weights"):
        expected = getattr(saved, name)
        assert np.array_equal(getattr(opened, name), expected)
        assert getattr(opened, name).dtype == expected.dtype
    assert opened.num_dropped_events == saved.num_dropped_events


def test_absent_arrays_and_empty_histories_survive_saving(tmp_path: Path):
    Sequences.from_histories([[5, 6], [], [7]]).save(tmp_path)
    opened = Sequences.open(tmp_path)
    assert as_lists(opened) == {0: [5, 6], 1: [], 2: [7]}
    assert opened.times is None and opened.behaviours is None and opened.weights is None


def test_opening_maps_the_file_instead_of_copying_it(tmp_path: Path):
    Sequences.from_histories([np.arange(100_000)]).save(tmp_path)
    before = pa.total_allocated_bytes()
    opened = Sequences.open(tmp_path)
    assert pa.total_allocated_bytes() - before < 100_000
    assert not opened.items.flags.owndata and not opened.items.flags.writeable


def test_histories_become_sequences_in_their_order():
    built = Sequences.from_histories([[5, 6], [], np.array([9])])
    assert as_lists(built) == {0: [5, 6], 1: [], 2: [9]}
    assert built.items.dtype == np.int32 and built.offsets.dtype == np.int64
    assert len(Sequences.from_histories([])) == 0


def test_histories_of_ids_are_refused():
    with pytest.raises(DataError, match="history 1 is not a list of vocabulary rows"):
        Sequences.from_histories([[5], np.array(["item 3"])])


def test_a_log_of_another_id_type_is_refused():
    vocabulary = Vocabulary(pa.array([1, 2]), np.zeros(6, np.int64))
    with pytest.raises(DataError, match="ids are strings, the vocabulary's are integers"):
        build_sequences(random_log(), vocabulary)


def test_a_log_without_the_vocabularys_behaviours_is_refused():
    log = random_log()
    plain = log.with_table(log.table.drop_columns(["behaviour"]))
    with pytest.raises(DataError, match=r"made with behaviours \(view, buy\), but .* no column"):
        build_sequences(plain, Vocabulary.from_interactions(log))


def test_weights_that_are_all_zero_are_refused():
    log = random_log()
    zeros = pa.array(np.zeros(len(log), np.float32))
    place = log.table.column_names.index("weight")
    without = log.with_table(log.table.set_column(place, "weight", zeros))
    with pytest.raises(DataError, match="the mean weight is 0; it must be above 0"):
        build_sequences(without, Vocabulary.from_interactions(log))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_length": 0}, "max_length is 0; it must be at least 1, or null"),
        ({"min_length": -1}, "min_length is -1; it must be at least 0"),
        ({"max_length": 2, "min_length": 3}, "min_length 3 is above max_length 2"),
    ],
)
def test_lengths_out_of_range_are_refused(settings: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        SequenceSettings(**settings)


def test_a_folder_without_sequences_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="sequences.arrow is missing"):
        Sequences.open(tmp_path)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, share: float):
    Sequences.from_histories([[5, 6]] * 1000).save(tmp_path)
    path = tmp_path / "sequences.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match="cut off or is no Arrow file"):
        Sequences.open(tmp_path)


def test_a_foreign_arrow_file_is_refused(tmp_path: Path):
    table = pa.table({"items": [1]})
    with pa.ipc.new_file(str(tmp_path / "sequences.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="does not hold idbert sequences of format 1"):
        Sequences.open(tmp_path)
