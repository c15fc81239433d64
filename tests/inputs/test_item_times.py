"""Times in batches of items: what a model is told, and what it must not be."""

import numpy as np
import pytest

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.item_batches import MaskedItemData, NextItemData, history_batches
from idbert.inputs.item_times import times_as_seen
from idbert.inputs.masking import IGNORED, MaskingSettings
from idbert.inputs.sequences import Sequences

SECOND = 1_000_000
STARTS = np.array([100, 110, 140, 200, 1000, 7, 8])
ASKED = np.array([5000, 9]) * SECOND
HALF = MaskingSettings(probability=0.5)


def sequences(seconds=STARTS, has_times=True) -> Sequences:
    made = Sequences.from_histories([[4, 5, 6, 7, 8], [9, 10]])
    times = seconds * SECOND + 999_999 if has_times else None
    return Sequences(made.users, made.items, made.offsets, times)


def masked(times, seconds=STARTS, epoch=0):
    data = MaskedItemData(sequences(seconds), HALF, vocab_size=12, seed=0, times=times)
    return data.__getitems__(PlannedBatch(epoch, np.array([0, 1])))


def test_hidden_times_are_those_of_the_nearest_seen_event_before():
    times = np.array([[1, 2, 3, 4, 5], [1, 2, 3, 0, 0], [5, 6, 7, 8, 0]])
    hidden = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
    seen = times_as_seen(times, hidden, np.array([5, 3, 4]))
    assert seen[0].tolist() == [1, 1, 1, 4, 4]
    assert seen[1, :3].tolist() == [3, 3, 3]  # none before: the first seen one's
    assert len(set(seen[2, :4].tolist())) == 1  # nothing is seen, and nothing told


def test_no_batch_has_times_unless_the_model_reads_them():
    assert "timestamps" not in masked("none")
    batch = NextItemData(sequences()).__getitems__(PlannedBatch(0, np.array([0])))
    assert not {"timestamps", "query_timestamps"} & set(batch)


@pytest.mark.parametrize("epoch", range(6))
def test_a_masked_items_own_time_is_told_only_as_the_querys(epoch):
    shown, known = masked("events", epoch=epoch), masked("queries", epoch=epoch)
    assert known["timestamps"].tolist() == [[100, 110, 140, 200, 1000], [7, 8, 0, 0, 0]]
    is_target = (shown["labels"] != IGNORED).numpy()
    is_real = shown["attention_mask"].bool().numpy()
    seen = ~is_target & is_real
    assert (shown["timestamps"].numpy()[seen] == known["timestamps"].numpy()[seen]).all()
    # Whenever the targets were, the model is told the same gaps.
    moved = masked("events", seconds=STARTS + 3 * is_target[is_real], epoch=epoch)
    gaps = [(batch["timestamps"] - batch["timestamps"][:, :1]).numpy() for batch in (shown, moved)]
    assert is_target.any() and (gaps[0][is_real] == gaps[1][is_real]).all()


def test_a_next_item_model_is_told_its_labels_time_only_where_it_reads_the_querys():
    planned = PlannedBatch(0, np.array([0, 1]))
    events = NextItemData(sequences(), times="events").__getitems__(planned)
    assert events["timestamps"].tolist() == [[100, 110, 140, 200], [7, 0, 0, 0]]
    assert "query_timestamps" not in events
    queries = NextItemData(sequences(), times="queries").__getitems__(planned)
    assert queries["timestamps"].tolist() == events["timestamps"].tolist()
    assert queries["query_timestamps"].tolist() == [[110, 140, 200, 1000], [8, 0, 0, 0]]


@pytest.mark.parametrize(
    ("objective", "times", "timestamps", "asked"),
    [
        ("masked", "events", [[140, 200, 1000, 1000], [7, 8, 8, 0]], None),
        ("masked", "queries", [[140, 200, 1000, 5000], [7, 8, 9, 0]], None),
        ("next", "events", [[110, 140, 200, 1000], [7, 8, 0, 0]], None),
        (
            "next",
            "queries",
            [[110, 140, 200, 1000], [7, 8, 0, 0]],
            [[140, 200, 1000, 5000], [8, 9, 0, 0]],
        ),
    ],
)
def test_a_history_asks_at_the_querys_time_or_at_its_newest_events(
    objective, times, timestamps, asked
):
    ((users, batch),) = history_batches(
        sequences(), objective=objective, max_length=4, times=times, query_times_U=ASKED
    )
    assert users.tolist() == [0, 1]
    assert batch["timestamps"].tolist()[0] == timestamps[0]
    real = batch["attention_mask"][1].bool()
    assert batch["timestamps"][1][real].tolist() == timestamps[1][: int(real.sum())]
    assert ("query_timestamps" in batch) is (asked is not None)
    if asked is not None:
        assert batch["query_timestamps"].tolist()[0] == asked[0]
        assert batch["query_timestamps"][1][real].tolist() == asked[1][:2]


def test_training_and_recommending_tell_the_last_position_the_same():
    """The last item masked in training is asked for as a mask behind the history before it."""
    last_only = MaskingSettings(
        probability=0.0, last_probability=1.0, random_share=0.0, mask_share=1.0
    )
    whole = sequences()
    before = Sequences(whole.users, whole.items, whole.starts, whole.times, stops=whole.stops - 1)
    targets = whole.times[whole.stops - 1]
    for times in ("events", "queries"):
        data = MaskedItemData(whole, last_only, vocab_size=12, seed=0, times=times)
        trained = data.__getitems__(PlannedBatch(0, np.array([0, 1])))
        for users, asked in history_batches(
            before, objective="masked", max_length=None, times=times, query_times_U=targets
        ):
            real = asked["attention_mask"].bool()
            assert (trained["timestamps"][users][real] == asked["timestamps"][real]).all()
            assert (trained["input_ids"][users][real] == asked["input_ids"][real]).all()
        following = NextItemData(whole, times=times).__getitems__(PlannedBatch(0, np.array([0, 1])))
        for users, asked in history_batches(
            before, objective="next", max_length=None, times=times, query_times_U=targets
        ):
            real = asked["attention_mask"].bool()
            for key in {"timestamps", "query_timestamps"} & set(asked):
                assert (following[key][users][real] == asked[key][real]).all()


def test_times_that_are_positions_are_refused_by_the_settings_name():
    without = sequences(has_times=False)
    for make in (
        lambda: MaskedItemData(without, HALF, vocab_size=12, seed=0, times="events"),
        lambda: NextItemData(without, times="queries"),
        lambda: list(history_batches(without, objective="next", max_length=4, times="events")),
    ):
        with pytest.raises(ConfigError, match="model.time_bias.name is not none.* no real times"):
            make()


def test_a_query_without_a_time_is_refused_where_the_model_reads_it():
    batches = history_batches(sequences(), objective="next", max_length=4, times="queries")
    with pytest.raises(ConfigError, match="time of the query .model.time_bias.query_time"):
        next(batches)
