"""Splits: nothing is lost, nothing leaks."""

import logging

import numpy as np
import pandas as pd
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs import cuts, flat_arrays
from idbert.inputs.cuts import SplitSettings, TimeSplitSettings
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.splits import HeldOut, global_time_split, leave_last_out, split
from idbert.tables import TIME, Interactions


def random_log(seed: int = 0, num_users: int = 60, ties: bool = True) -> Interactions:
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(num_users), rng.integers(1, 12, num_users))
    times = 1_500_000_000 + rng.integers(0, 50 if ties else 10**8, len(users))
    frame = pd.DataFrame(
        {"user_id": users, "item_id": rng.integers(0, 20, len(users)), "timestamp": times}
    )
    frame["behaviour"] = [f"event {row}" for row in range(len(frame))]  # a name for every row
    return read_interactions(frame, InteractionSettings(behaviour_column="behaviour"))


def names(interactions: Interactions) -> list[str]:
    return interactions.column("behaviour").to_pylist()


def users_of(interactions: Interactions) -> list[int]:
    return list(dict.fromkeys(interactions.column("user_id").to_pylist()))


def assert_well_formed(held_out: HeldOut) -> None:
    assert held_out.targets.column("user_id").to_pylist() == users_of(held_out.histories)
    assert len(held_out) == len(users_of(held_out.targets))
    assert not set(names(held_out.histories)) & set(names(held_out.targets))


@pytest.mark.parametrize("seed", range(5))
def test_train_and_the_withheld_events_are_the_input(seed: int):
    log = random_log(seed)
    parts = leave_last_out(log)
    together = names(parts.train) + names(parts.validation.targets) + names(parts.test.targets)
    assert sorted(together) == sorted(names(log))


@pytest.mark.parametrize("seed", range(5))
def test_leave_last_out_withholds_the_last_two_events_of_every_user(seed: int):
    log = random_log(seed)
    parts = leave_last_out(log)
    frame = log.to_pandas()
    long = frame.groupby("user_id").filter(lambda events: len(events) >= 3).groupby("user_id")
    assert names(parts.test.targets) == long.nth(-1).behaviour.tolist()
    assert names(parts.validation.targets) == long.nth(-2).behaviour.tolist()
    assert names(parts.validation.histories) == [
        name for _, events in long for name in events.behaviour[:-2]
    ]
    assert names(parts.test.histories) == [
        name for _, events in long for name in events.behaviour[:-1]
    ]


@pytest.mark.parametrize("seed", range(3))
def test_every_user_has_one_target_and_a_history_in_the_same_order(seed: int):
    for parts in (leave_last_out(random_log(seed)), global_time_split(random_log(seed))):
        assert_well_formed(parts.validation)
        assert_well_formed(parts.test)


def test_no_target_is_trained_on():
    for parts in (leave_last_out(random_log()), global_time_split(random_log())):
        train = set(names(parts.train))
        assert not train & set(names(parts.test.targets))
        assert not train & set(names(parts.validation.targets))


@pytest.mark.parametrize("name", ["leave_last_out", "global_time"])
@pytest.mark.parametrize("targets", [1, 2])
def test_until_the_test_all_events_but_its_targets_and_later_ones_are_trained_on(name, targets):
    log = random_log()
    usual, until_test = (
        split(log, SplitSettings(name, targets=targets, train_until=until))
        for until in ("validation", "test")
    )
    train, tested = set(names(until_test.train)), names(until_test.test.targets)
    assert train >= set(names(usual.train)) | set(names(usual.validation.targets))
    assert tested == names(usual.test.targets) and not train & set(tested)
    assert names(until_test.test.histories) == names(usual.test.histories)
    assert names(until_test.train) == names(until_test.test.known)
    if name == "global_time":
        latest = max(until_test.train.column(TIME).to_pylist())
        assert latest < min(until_test.test.targets.column(TIME).to_pylist())
    if name == "leave_last_out":
        assert sorted([*train, *tested]) == sorted(names(log))


@pytest.mark.parametrize("name", ["leave_last_out", "global_time"])
def test_to_the_end_the_whole_log_is_trained_on(name):
    log = random_log()
    parts = split(log, SplitSettings(name, train_until="end"))
    assert names(parts.train) == names(log)
    assert len(parts.validation) == len(parts.test) == 0
    short = log.with_table(log.table.slice(0, 1))
    assert len(split(short, SplitSettings(name, train_until="end")).train) == 1
    with pytest.raises(ConfigError, match="train_until=end withholds nothing"):
        SplitSettings(name, targets=2, train_until="end")
    with pytest.raises(ConfigError, match="train_until=end withholds nothing"):
        SplitSettings("global_time", TimeSplitSettings(test_until=0.95), train_until="end")


def test_users_with_two_events_stay_in_train_and_are_counted(caplog: pytest.LogCaptureFixture):
    log = read_interactions(
        pd.DataFrame({"user_id": list("aabbbb"), "item_id": range(6), "timestamp": range(6)})
    )
    with caplog.at_level(logging.INFO):
        parts = leave_last_out(log)
    assert "1 of 2 users have fewer than 3 events" in caplog.text
    assert parts.train.column("item_id").to_pylist() == [0, 1, 2, 3]
    assert parts.validation.histories.column("item_id").to_pylist() == [2, 3]
    assert parts.test.histories.column("item_id").to_pylist() == [2, 3, 4]


def test_leave_last_out_of_short_users_only_is_refused():
    log = read_interactions(
        pd.DataFrame({"user_id": list("aabb"), "item_id": range(4), "timestamp": range(4)})
    )
    with pytest.raises(DataError, match="none of the 2 users has 3 events"):
        leave_last_out(log)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_global_split_leaks_nothing_from_after_a_cut(seed: int, ties: bool):
    parts = global_time_split(random_log(seed, ties=ties))

    def latest(part: Interactions) -> int:
        return max(part.column("timestamp").to_pylist())

    def earliest(part: Interactions) -> int:
        return min(part.column("timestamp").to_pylist())

    assert latest(parts.train) < earliest(parts.validation.targets)
    assert latest(parts.validation.histories) < earliest(parts.validation.targets)
    assert latest(parts.validation.targets) < earliest(parts.test.targets)
    assert latest(parts.test.histories) < earliest(parts.test.targets)


def test_the_global_split_withholds_the_first_event_after_the_cut():
    #        cuts at 80% and 90% of 10 events: times 8 and 9
    times = [0, 2, 4, 8, 1, 3, 5, 9, 6, 7]
    users = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    frame = pd.DataFrame({"user_id": users, "item_id": times, "timestamp": times})
    frame["timestamp"] += 1_000_000_000
    parts = global_time_split(read_interactions(frame))
    assert parts.train.column("item_id").to_pylist() == [0, 2, 4, 1, 3, 5, 6, 7]
    assert parts.validation.targets.column("item_id").to_pylist() == [8]
    assert parts.validation.histories.column("item_id").to_pylist() == [0, 2, 4]
    assert parts.test.targets.column("item_id").to_pylist() == [9]
    assert parts.test.histories.column("item_id").to_pylist() == [1, 3, 5]


def test_users_without_history_before_the_cut_are_counted(caplog: pytest.LogCaptureFixture):
    times = np.arange(20) + 1_000_000_000
    users = ["old"] * 17 + ["new", "old", "old"]
    frame = pd.DataFrame({"user_id": users, "item_id": range(20), "timestamp": times})
    settings = TimeSplitSettings(validation_from=0.8, test_from=0.95)
    with caplog.at_level(logging.INFO):
        parts = global_time_split(read_interactions(frame), settings)
    assert "1 of 2 users in the validation part have no history" in caplog.text
    assert users_of(parts.validation.targets) == ["old"]


def test_each_cut_moves_the_split():
    log = random_log(ties=False)
    default = global_time_split(log)
    assert len(global_time_split(log, TimeSplitSettings(validation_from=0.5)).train) < len(
        default.train
    )
    later = global_time_split(log, TimeSplitSettings(test_from=0.97))
    assert names(later.test.targets) != names(default.test.targets)


def test_split_follows_its_settings():
    log = random_log()
    assert names(split(log, SplitSettings()).train) == names(leave_last_out(log).train)
    time = TimeSplitSettings(validation_from=0.6)
    by_time = split(log, SplitSettings(name="global_time", time=time))
    assert names(by_time.train) == names(global_time_split(log, time).train)


def test_a_global_split_of_positions_is_refused():
    log = read_interactions(
        pd.DataFrame({"user_id": [1] * 9, "item_id": range(9), "timestamp": range(9)})
    )
    with pytest.raises(DataError, match="needs real times.*Use leave_last_out"):
        global_time_split(log)


def test_a_global_split_that_leaves_nothing_is_refused():
    same = pd.DataFrame({"user_id": [1] * 9, "item_id": range(9), "timestamp": [10**9] * 9})
    with pytest.raises(DataError, match="nothing to train on"):
        global_time_split(read_interactions(same))
    apart = same.assign(user_id=range(9), timestamp=range(10**9, 10**9 + 9))
    with pytest.raises(DataError, match="leaves no validation targets"):
        global_time_split(read_interactions(apart), TimeSplitSettings(0.5, 0.7))


@pytest.mark.parametrize("bins", [2, 7, 2**16])
def test_what_would_stand_at_a_place_is_found_without_sorting(bins: int, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(cuts, "SORTED_AT_ONCE", 10)
    monkeypatch.setattr(cuts, "BINS", bins)
    monkeypatch.setattr(flat_arrays, "CHUNK_EVENTS", 97)
    for values in (rng.integers(10**15, 10**15 + 10**13, 500), rng.integers(0, 5, 500)):
        places = [0, 137, 400, 499]
        assert cuts.at_places(values, places).tolist() == np.sort(values)[places].tolist()


def test_a_time_split_of_many_events_is_that_of_few(monkeypatch):
    log = random_log(seed=3)
    settings = SplitSettings("global_time", TimeSplitSettings(0.6, 0.8, 0.95), targets=2)
    expected = split(log, settings)
    monkeypatch.setattr(cuts, "SORTED_AT_ONCE", 10)
    monkeypatch.setattr(flat_arrays, "CHUNK_EVENTS", 17)
    found = split(log, settings)
    for part in ("validation", "test"):
        one, other = getattr(found, part), getattr(expected, part)
        assert one.targets.table.equals(other.targets.table)
        assert one.known.table.equals(other.known.table)


def test_cuts_out_of_order_are_refused():
    with pytest.raises(ConfigError, match="0 < validation_from < test_from < test_until <= 1"):
        TimeSplitSettings(validation_from=0.9, test_from=0.8)


def test_cuts_that_cannot_act_are_refused():
    with pytest.raises(ConfigError, match="cannot act with leave_last_out"):
        SplitSettings(time=TimeSplitSettings(validation_from=0.5))


def test_what_is_known_at_the_test_is_all_but_the_test_targets_of_all_users():
    log = read_interactions(
        pd.DataFrame({"user_id": [1, 1, 1, 2], "item_id": [7, 8, 9, 7], "timestamp": [1, 2, 3, 1]})
    )
    parts = leave_last_out(log)
    assert parts.validation.known.to_pandas()["item_id"].tolist() == [7, 7]
    assert parts.test.known.to_pandas()["item_id"].tolist() == [7, 8, 7]


def test_nothing_from_after_the_cut_is_known_before_it():
    parts = global_time_split(random_log(ties=False))
    for held_out in (parts.validation, parts.test):
        assert max(held_out.known.column(TIME).to_pylist()) < min(
            held_out.targets.column(TIME).to_pylist()
        )
