"""Windows over long histories: every event is trained on, and no withheld one."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import BatchPlan, BatchSettings, PlannedBatch
from idbert.inputs.cuts import SplitSettings, TimeSplitSettings
from idbert.inputs.interactions import read_interactions
from idbert.inputs.item_batches import MaskedItemData, NextItemData
from idbert.inputs.masking import IGNORED, MaskingSettings
from idbert.inputs.planned_loader import train_loader
from idbert.inputs.sequences import Sequences, SequenceSettings, build_sequences
from idbert.inputs.splits import split
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import EncoderSettings
from idbert.rows import FIRST_ITEM
from pipelines.rec_finetune import RecFinetuneSettings
from pipelines.rec_pretrain import RecPretrainSettings

CUTS = pytest.mark.parametrize(("max_length", "stride"), [(5, 1), (5, 2), (5, 5), (1, 1), (40, 7)])


def numbered(num_users: int = 30, longest: int = 23) -> Sequences:
    """Histories in which every event has a row of its own."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([[0, 1, 5, 6, 10, 11], rng.integers(1, longest, num_users)])
    rows = FIRST_ITEM + np.arange(lengths.sum())
    return Sequences.from_histories(np.split(rows, np.cumsum(lengths)[:-1]))


def as_lists(sequences: Sequences) -> list[tuple[int, list[int]]]:
    packed = sequences.packed()
    parts = np.split(packed.items, packed.offsets[1:-1])
    return list(zip(packed.users.to_pylist(), map(np.ndarray.tolist, parts), strict=True))


def slow_windows(history: list[int], max_length: int, stride: int) -> list[list[int]]:
    """What `windows` must find, written as the plain loop."""
    end, found = len(history), [history[-max_length:]]
    while end > max_length:
        end -= stride
        found.append(history[max(0, end - max_length) : end])
    return found


@CUTS
def test_windows_equal_those_of_a_plain_loop(max_length, stride):
    whole = numbered()
    expected = [
        (user, window)
        for user, history in as_lists(whole)
        for window in slow_windows(history, max_length, stride)
    ]
    assert as_lists(whole.windows(max_length, stride)) == expected


@CUTS
def test_every_event_is_in_a_window_and_none_is_too_long(max_length, stride):
    whole = numbered()
    windows = whole.windows(max_length, stride)
    assert windows.items is whole.items  # nothing is copied
    assert set(windows.packed().items.tolist()) == set(whole.items.tolist())
    assert windows.lengths.max() <= max_length
    # Only the oldest window of a user may be shorter.
    starts_history = np.isin(windows.starts, whole.starts)
    assert (windows.lengths[~starts_history] == max_length).all()


def test_a_stride_of_the_whole_length_has_each_event_once():
    whole = numbered()
    assert sorted(whole.windows(5, 5).packed().items.tolist()) == whole.items.tolist()
    data = MaskedItemData(whole.windows(5, 5), MaskingSettings(1.0), vocab_size=999, seed=0)
    labels = []
    plan = BatchPlan(data.input_lengths, BatchSettings(token_budget=60), seed=0)
    for batch in train_loader(data, plan):
        labels += batch["labels"][batch["labels"] != IGNORED].tolist()
    assert sorted(labels) == whole.items.tolist()


def test_one_less_asks_a_next_item_model_for_each_event_but_the_first_once():
    whole = numbered()
    data = NextItemData(whole.windows(5, 4))
    places = np.flatnonzero(data.input_lengths)
    labels = data.__getitems__(PlannedBatch(0, places))["labels"]
    first = whole.items[whole.starts[whole.lengths > 0]]
    assert sorted(labels[labels != IGNORED].tolist()) == sorted(
        set(whole.items.tolist()) - set(first.tolist())
    )


def log_file(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(20), rng.integers(3, 30, 20))
    frame = pd.DataFrame(
        {
            "user_id": users,
            "item_id": rng.integers(0, 15, len(users)),
            "timestamp": 1_600_000_000 + rng.permutation(len(users)),
            "behaviour": rng.choice(["view", "buy"], len(users)),
            "weight": rng.uniform(0.5, 3, len(users)),
        }
    )
    path = folder / "log.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    "cut", [SplitSettings(), SplitSettings("global_time", TimeSplitSettings(0.6, 0.8))]
)
def test_no_withheld_event_is_in_a_window(cut, tmp_path):
    interactions = read_interactions(log_file(tmp_path))
    parts = split(interactions, cut)
    vocabulary = Vocabulary.from_interactions(interactions, parts.train)
    windows = build_sequences(parts.train, vocabulary, SequenceSettings(6, window_stride=2))
    whole = build_sequences(parts.train, vocabulary, SequenceSettings(None))
    trained = set(zip(parts.train.column("user_id").to_pylist(), whole.times, strict=True))
    packed = windows.packed()
    users = np.repeat(packed.users.to_numpy(zero_copy_only=False), packed.lengths)
    assert set(zip(users.tolist(), packed.times, strict=True)) == trained
    assert len(packed.items) > len(whole.items)


def test_what_belongs_to_an_event_stays_with_it_and_the_mean_weight_is_of_the_log(tmp_path):
    interactions = read_interactions(log_file(tmp_path))
    vocabulary = Vocabulary.from_interactions(interactions)
    whole = build_sequences(interactions, vocabulary, SequenceSettings(None))
    settings = SequenceSettings(6, window_stride=2)
    windows = build_sequences(interactions, vocabulary, settings).packed()
    place_of = {time: place for place, time in enumerate(whole.times.tolist())}
    places = [place_of[time] for time in windows.times.tolist()]
    for name in ("items", "behaviours", "weights"):
        found, expected = getattr(windows, name), getattr(whole, name)
        assert (found is None) == (expected is None)
        assert found is None or np.array_equal(found, expected[places])


def test_the_windows_are_counted_in_the_log(tmp_path, caplog):
    interactions = read_interactions(log_file(tmp_path))
    vocabulary = Vocabulary.from_interactions(interactions)
    with caplog.at_level(logging.INFO):
        windows = build_sequences(interactions, vocabulary, SequenceSettings(6, window_stride=3))
    total = windows.lengths.sum()
    assert (
        f"20 histories cut into {len(windows)} windows of at most 6 events, every 3 events; "
        f"{total} events in them"
    ) in caplog.text
    assert "left out: 0 events older" in caplog.text


def test_a_stride_of_nothing_cuts_nothing(tmp_path):
    interactions = read_interactions(log_file(tmp_path))
    vocabulary = Vocabulary.from_interactions(interactions)
    newest = build_sequences(interactions, vocabulary, SequenceSettings(6))
    windows = build_sequences(interactions, vocabulary, SequenceSettings(6, window_stride=6))
    assert len(newest) == 20 < len(windows)
    first = np.unique(np.array(windows.users.to_pylist()), return_index=True)[1]
    lists = as_lists(windows)  # of each user the newest window comes first
    assert [lists[place] for place in first] == as_lists(newest)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_length": 5, "window_stride": 0}, "window_stride is 0; it must be from 1 to"),
        ({"max_length": 5, "window_stride": 6}, "window_stride is 6; it must be from 1 to"),
        ({"max_length": None, "window_stride": 6}, "cannot act on whole histories"),
    ],
)
def test_strides_that_lose_events_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        SequenceSettings(**settings)


def test_windows_that_the_model_cannot_read_whole_are_refused():
    windows = SequenceSettings(51, window_stride=50)
    short = EncoderSettings(max_length=50)
    RecFinetuneSettings(sequences=windows, model=short)
    RecPretrainSettings(sequences=windows, model=EncoderSettings(max_length=51))
    RecPretrainSettings(sequences=windows, model=EncoderSettings(kind="nezha"))
    with pytest.raises(ConfigError, match="windows of 51 events, and the model reads 50"):
        RecPretrainSettings(sequences=windows, model=short)
    with pytest.raises(ConfigError, match="windows of 52 events, and the model reads 51"):
        RecFinetuneSettings(sequences=SequenceSettings(52, window_stride=50), model=short)
