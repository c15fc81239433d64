"""A log prepared out of memory is the log that the tables hold, and work is not lost or faked."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from idbert.errors import DataError
from idbert.inputs import flat_arrays, preparation
from idbert.inputs.cuts import SplitSettings, TimeSplitSettings
from idbert.inputs.flat_arrays import FlatWriter, open_flat, user_chunks
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.preparation import prepare_log
from idbert.inputs.prepared_log import PreparedLog
from idbert.inputs.queries import one_by_one
from idbert.inputs.sequences import Sequences, SequenceSettings, build_sequences
from idbert.inputs.splits import split
from idbert.inputs.vocabulary import Vocabulary

WHOLE = SequenceSettings(max_length=None, min_length=0)
WINDOWS = (SequenceSettings(4, window_stride=1), SequenceSettings(3, 2, window_stride=3))
BY_TIME = SplitSettings("global_time", TimeSplitSettings(0.6, 0.8))
FILTERS = {"min_user_events": 3, "min_item_events": 4, "drop_repeats": True}
EXTRA = {"behaviour_column": "behaviour", "weight_column": "weight"}


def random_frame(seed: int = 0, *, text: bool = True, positions: bool = False) -> pd.DataFrame:
    """Some hundred events with ties in time, repeats, rare users and rare items."""
    rng = np.random.default_rng(seed)
    count = 400
    users, items = rng.integers(0, 60, count) ** 2, rng.zipf(1.5, count) % 50
    times = rng.integers(0, 90, count) + (0 if positions else 1_600_000_000)
    return pd.DataFrame(
        {
            "user_id": [f"u-{user}" for user in users] if text else users,
            "item_id": [f"i-{item}é" for item in items] if text else items - 10,
            "timestamp": times,
            "behaviour": rng.choice(["view", "buy", "a cart"], count, p=[0.6, 0.3, 0.1]),
            "weight": rng.uniform(0.5, 3, count).astype(np.float32),
        }
    )


def write_parts(frame: pd.DataFrame, folder: Path, ending: str = "parquet") -> Path:
    """Write a frame as three files, in its order."""
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), 3)):
        part, path = frame.iloc[rows], folder / f"part-{number}.{ending}"
        part.to_parquet(path) if ending == "parquet" else part.to_csv(path, index=False)
    return folder


def prepared(
    source: Path, folder: Path, split_settings: SplitSettings | None = None, **settings: object
) -> PreparedLog:
    return prepare_log(
        source,
        folder,
        InteractionSettings(**settings),  # type: ignore[arg-type]
        split_settings or SplitSettings(),
        work=folder / "work",
    )


def assert_same(found: Sequences, expected: Sequences, *, weights: bool = False) -> None:
    found = found.packed()
    assert found.users.equals(expected.users)
    for name in ("items", "offsets", "times", "behaviours", *(["weights"] if weights else [])):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        assert one is None or np.array_equal(one, other) and one.dtype == other.dtype, name
    assert found.num_dropped_events == expected.num_dropped_events


def _some(sequences: Sequences, places: np.ndarray) -> Sequences:
    """Return the sequences at some places, end to end."""
    of = (sequences.items, sequences.starts[places], sequences.times, sequences.behaviours)
    users = sequences.users.take(places)
    return Sequences(users, *of, stops=sequences.stops[places]).packed()


# the same result ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "ending", "text", "positions", "cut", "settings"),
    [
        (0, "parquet", True, False, SplitSettings(), EXTRA),
        (1, "csv", True, False, SplitSettings(), EXTRA | FILTERS),
        (2, "parquet", False, False, BY_TIME, FILTERS),
        (3, "csv", False, False, BY_TIME, {}),
        (4, "parquet", True, True, SplitSettings(), {"min_item_events": 3}),
        (5, "parquet", False, False, SplitSettings(), {"id_type": "string", "drop_repeats": True}),
        (6, "parquet", True, False, SplitSettings(targets=2), EXTRA),
        (7, "csv", False, False, SplitSettings("global_time", BY_TIME.time, 3), FILTERS),
        (8, "parquet", True, False, SplitSettings(train_until="test"), EXTRA),
        (9, "csv", False, False, SplitSettings("global_time", train_until="test"), FILTERS),
        (10, "parquet", True, False, SplitSettings(train_until="end"), EXTRA),
    ],
)
def test_the_prepared_log_equals_the_one_of_the_tables(
    seed, ending, text, positions, cut, settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(flat_arrays, "CHUNK_EVENTS", 37)
    frame = random_frame(seed, text=text, positions=positions)
    source = write_parts(frame, tmp_path / "log", ending)
    log = prepared(source, tmp_path / "made", cut, **settings)

    table = read_interactions(source, InteractionSettings(**settings))
    parts = split(table, cut)
    vocabulary = Vocabulary.from_interactions(table, parts.train)
    assert log.vocabulary.ids.equals(vocabulary.ids)
    assert log.vocabulary.counts_V.tolist() == vocabulary.counts_V.tolist()
    assert log.vocabulary.behaviours == vocabulary.behaviours
    assert log.interactions().table.equals(table.table)
    assert log.interactions().times_are_real == table.times_are_real == (not positions)
    for lengths in (
        SequenceSettings(),
        SequenceSettings(3),
        SequenceSettings(None, 4),
        *WINDOWS,
        WHOLE,
    ):
        expected = build_sequences(parts.train, vocabulary, lengths)
        assert_same(log.train(lengths), expected.packed(), weights=True)
    for name, part in (("validation", parts.validation), ("test", parts.test)):
        asked = log.held_out(name)
        whole = build_sequences(part.whole(), vocabulary, WHOLE)
        table = one_by_one(whole, np.diff(part.targets.user_offsets()))
        assert np.shares_memory(asked.histories.items, log.events.items)
        assert_same(asked.histories.packed(), table.histories.packed())
        assert asked.users_Q.tolist() == table.users_Q.tolist()
        assert asked.targets_Q.tolist() == vocabulary.rows(part.targets.column("item_id")).tolist()
        first = np.unique(asked.users_Q, return_index=True)[1]
        assert_same(
            _some(asked.histories, first), build_sequences(part.histories, vocabulary, WHOLE)
        )
        assert_same(log.known(name), build_sequences(part.known, vocabulary, WHOLE))


def test_the_training_part_is_a_view_of_the_file(tmp_path: Path):
    source = write_parts(random_frame(), tmp_path / "log")
    log = prepared(source, tmp_path / "made")
    train = log.train(SequenceSettings(max_length=3))
    assert np.shares_memory(train.items, log.events.items)
    assert not train.items.flags.owndata and not train.items.flags.writeable
    with pytest.raises(DataError, match="slices of a larger log"):
        _ = train.offsets
    windows = log.train(SequenceSettings(max_length=3, window_stride=2))
    assert len(windows) > len(train) and np.shares_memory(windows.items, log.events.items)


def test_users_are_cut_into_chunks_without_loss(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flat_arrays, "CHUNK_EVENTS", 10)
    offsets = np.cumsum([0, 4, 4, 4, 25, 1, 9, 0, 3])
    chunks = list(user_chunks(offsets))
    assert np.concatenate([np.arange(8)[chunk] for chunk in chunks]).tolist() == list(range(8))
    sizes = [
        (chunk.stop - chunk.start, offsets[chunk.stop] - offsets[chunk.start]) for chunk in chunks
    ]
    assert all(events <= 10 or users == 1 for users, events in sizes)


def test_an_array_that_was_not_written_whole_is_no_array(tmp_path: Path):
    with FlatWriter(tmp_path / "whole.npy", 5, "<i4") as flat:
        flat.write(np.arange(3))
        flat.write(np.arange(3, 5))
    assert open_flat(tmp_path / "whole.npy").tolist() == [0, 1, 2, 3, 4]
    with (
        pytest.raises(ValueError, match="2 values are missing"),
        FlatWriter(tmp_path / "part.npy", 5, "<i4") as flat,
    ):
        flat.write(np.arange(3))


# interrupted ----------------------------------------------------------------------------------


def never(*_: object, **__: object) -> None:
    pytest.fail("a finished stage is done again")


def stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["write_kept", "_number", "Sequences.save"])
def test_a_stopped_preparation_goes_on_where_it_was(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, folder = write_parts(random_frame(), tmp_path / "log"), tmp_path / "made"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"idbert.inputs.preparation.{stage}", stopped)
        prepared(source, folder, **FILTERS)
    with pytest.raises(DataError, match="log.json is missing"):
        PreparedLog.open(folder)
    monkeypatch.setattr(preparation, "write_sorted", never)
    if stage != "write_kept":
        monkeypatch.setattr(preparation, "write_kept", never)
    log = prepared(source, folder, **FILTERS)
    whole = read_interactions(source, InteractionSettings(**FILTERS))
    assert log.interactions().table.equals(whole.table)


def test_a_stage_that_was_stopped_half_way_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, folder = write_parts(random_frame(), tmp_path / "log"), tmp_path / "made"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FlatWriter, "write", stopped)
        prepared(source, folder)
    assert not (folder / "work" / "sorted").exists()
    assert len(prepared(source, folder).events.items) == 400


@pytest.mark.parametrize("change", ["source", "settings", "split"])
def test_stages_of_another_log_are_not_taken_for_this_ones(change: str, tmp_path: Path):
    source, folder = write_parts(random_frame(), tmp_path / "log"), tmp_path / "made"
    before = prepared(source, folder)
    if change == "source":
        random_frame(7).to_parquet(source / "part-1.parquet")
    settings = FILTERS if change == "settings" else {}
    cut = BY_TIME if change == "split" else SplitSettings()
    log = prepared(source, folder, cut, **settings)
    table = read_interactions(source, InteractionSettings(**settings))
    expected = Vocabulary.from_interactions(table, split(table, cut).train)
    assert log.vocabulary.counts_V.tolist() == expected.counts_V.tolist()
    assert log.vocabulary.counts_V.tolist() != before.vocabulary.counts_V.tolist()


# what cannot be prepared ----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_truncated_part_is_named(share: float, tmp_path: Path):
    source = write_parts(random_frame(), tmp_path / "log")
    part = source / "part-1.parquet"
    part.write_bytes(part.read_bytes()[: int(share * part.stat().st_size)])
    with pytest.raises(DataError, match=r"part-1\.parquet is cut short or damaged"):
        prepared(source, tmp_path / "made")


def test_a_part_damaged_in_the_middle_is_named(tmp_path: Path):
    source = write_parts(random_frame(), tmp_path / "log")
    part = source / "part-1.parquet"
    whole = bytearray(part.read_bytes())
    whole[8:400] = b"\xff" * 392
    part.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r"part-1\.parquet cannot be read"):
        prepared(source, tmp_path / "made")


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source, folder = write_parts(random_frame(), tmp_path / "log"), tmp_path / "made"
    with monkeypatch.context() as patch:
        patch.setattr(FlatWriter, "write", full)
        with pytest.raises(DataError, match="no room on the disk of .*work to write sorted. Free"):
            prepared(source, folder)
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert left == []
    assert len(prepared(source, folder).events.items) == 400


def test_too_little_memory_names_the_setting_and_the_folder(tmp_path: Path):
    source = tmp_path / "log.parquet"
    pd.DataFrame(
        {"user_id": 1, "item_id": np.arange(300_000), "timestamp": range(300_000)}
    ).to_parquet(source)
    with pytest.raises(
        DataError, match="memory_limit=1MB and .*spill. Raise memory_limit, or free"
    ):
        prepared(source, tmp_path / "made", memory_limit="1MB")


def test_a_prepared_log_that_is_incomplete_or_foreign_is_refused(tmp_path: Path):
    folder = tmp_path / "made"
    prepared(write_parts(random_frame(), tmp_path / "log"), folder)
    for damage, words in [
        (lambda: (folder / "log.json").write_text('{"format": 9}'), "is of format 9"),
        (lambda: (folder / "log.json").write_text("{"), "is not JSON"),
        (lambda: shutil.rmtree(folder), "log.json is missing"),
    ]:
        damage()
        with pytest.raises(DataError, match=words):
            PreparedLog.open(folder)
