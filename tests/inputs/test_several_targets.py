"""Several targets a user: what is withheld, and what each of them is ranked with."""

import logging

import numpy as np
import pandas as pd
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs.cuts import SplitSettings, TimeSplitSettings
from idbert.inputs.interactions import read_interactions
from idbert.inputs.prepared_log import split_from
from idbert.inputs.queries import one_by_one
from idbert.inputs.sequences import SequenceSettings, build_sequences
from idbert.inputs.splits import HeldOut, global_time_split, leave_last_out, split
from idbert.inputs.vocabulary import Vocabulary
from tests.inputs.test_splits import names, random_log, users_of

WHOLE = SequenceSettings(max_length=None, min_length=0)


def asked(held_out: HeldOut, log) -> list[tuple[str, list[str], str]]:
    """Return user, history and target of every query, in the log's names of events."""
    events = held_out.whole()
    vocabulary = Vocabulary.from_interactions(log)
    sequences = build_sequences(events, vocabulary, WHOLE)
    numbered = sequences.__class__(  # numbers of events in the place of items
        sequences.users, np.arange(len(events), dtype=np.int32), sequences.offsets
    )
    queries = one_by_one(numbered, np.diff(held_out.targets.user_offsets()))
    histories = queries.histories.packed()
    named = names(events)
    users = list(dict.fromkeys(queries.histories.users.to_pylist()))
    assert [users[user] for user in queries.users_Q] == queries.histories.users.to_pylist()
    return [
        (users[user], [named[event] for event in history], named[target])
        for user, history, target in zip(
            queries.users_Q,
            np.split(histories.items, histories.offsets[1:-1]),
            queries.targets_Q,
            strict=True,
        )
    ]


def last_by_hand(log, targets: int, behind: int) -> list[tuple[str, list[str], str]]:
    """Return what is asked of the last events, `behind` of them left out, by plain loops."""
    found = []
    for user, events in log.to_pandas().groupby("user_id"):
        events = events.behaviour.tolist()
        if len(events) >= 2 * targets + 1:
            stop = len(events) - behind
            found += [(user, events[:at], events[at]) for at in range(stop - targets, stop)]
    return found


@pytest.mark.parametrize("targets", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_last_events_are_asked_one_by_one_with_the_earlier_ones_in_the_history(seed, targets):
    log = random_log(seed)
    parts = leave_last_out(log, targets)
    assert asked(parts.test, log) == last_by_hand(log, targets, 0)
    assert asked(parts.validation, log) == last_by_hand(log, targets, targets)
    withheld = names(parts.validation.targets) + names(parts.test.targets)
    assert sorted(names(parts.train) + withheld) == sorted(names(log))
    assert len(parts.test) == targets * len(users_of(parts.test.histories))


def time_by_hand(log, first: int, end: int | None, targets: int) -> list[tuple]:
    found = []
    for user, events in log.to_pandas().groupby("user_id"):
        inside = [
            place
            for place, time in enumerate(events.timestamp)
            if time >= first and (end is None or time < end) and (events.timestamp < first).any()
        ]
        named = events.behaviour.tolist()
        found += [(user, named[:at], named[at]) for at in inside[:targets]]
    return found


@pytest.mark.parametrize("targets", [1, 2, 5])
@pytest.mark.parametrize("ties", [True, False])
def test_a_time_split_asks_at_most_so_many_events_of_each_stretch(targets, ties):
    log = random_log(4, ties=ties)
    settings = TimeSplitSettings(0.5, 0.75)
    parts = global_time_split(log, settings, targets)
    times = np.sort(log.column("timestamp").to_numpy())
    first, second = (times[int(share * len(times))] for share in (0.5, 0.75))
    assert asked(parts.validation, log) == time_by_hand(log, first, second, targets)
    assert asked(parts.test, log) == time_by_hand(log, second, None, targets)
    assert max(parts.test.known.column("timestamp").to_pylist()) < second


@pytest.mark.parametrize("ties", [True, False])
def test_the_test_stretch_ends_where_the_settings_say(ties):
    log = random_log(4, ties=ties)
    parts = global_time_split(log, TimeSplitSettings(0.4, 0.6, 0.8), targets=5)
    times = np.sort(log.column("timestamp").to_numpy())
    first, second, end = (times[int(share * len(times))] for share in (0.4, 0.6, 0.8))
    assert asked(parts.validation, log) == time_by_hand(log, first, second, 5)
    assert asked(parts.test, log) == time_by_hand(log, second, end, 5)
    whole = global_time_split(log, TimeSplitSettings(0.4, 0.6), targets=5)
    assert names(parts.train) == names(whole.train)
    assert len(parts.test) < len(whole.test)


def test_what_is_known_ends_before_the_first_target():
    log = random_log()
    parts = leave_last_out(log, 3)
    assert names(parts.validation.known) == names(parts.train)
    together = names(parts.train) + names(parts.validation.targets)
    assert sorted(names(parts.test.known)) == sorted(together)


def test_users_with_too_few_events_are_counted_and_only_trained_on(caplog):
    log = random_log()
    lengths = log.to_pandas().groupby("user_id").size()
    with caplog.at_level(logging.INFO):
        parts = leave_last_out(log, 3)
    short = int((lengths < 7).sum())
    assert f"{short} of {len(lengths)} users have fewer than 7 events" in caplog.text
    assert set(users_of(parts.test.targets)) == set(lengths[lengths >= 7].index)


def test_users_with_fewer_events_in_a_stretch_are_counted_and_tested(caplog):
    log = random_log(ties=False)
    with caplog.at_level(logging.INFO):
        parts = global_time_split(log, TimeSplitSettings(0.5, 0.75), targets=3)
    for name, part in (("validation", parts.validation), ("test", parts.test)):
        counts = np.diff(part.targets.user_offsets())
        few = f"{(counts < 3).sum()} of {len(counts)} users in the {name} part have fewer than 3"
        assert 0 < (counts < 3).sum() < len(counts) and few in caplog.text


def test_more_targets_than_any_user_has_events_for_are_refused():
    frame = pd.DataFrame({"user_id": list("aaaabbb"), "item_id": range(7), "timestamp": range(7)})
    log = read_interactions(frame)
    with pytest.raises(DataError, match="none of the 2 users has 5 events.*lower split.targets"):
        leave_last_out(log, 2)


@pytest.mark.parametrize("targets", [0, -1])
def test_less_than_one_target_is_refused(targets):
    with pytest.raises(ConfigError, match=f"targets is {targets}; withhold 1 event"):
        SplitSettings(targets=targets)


def test_the_split_says_in_words_what_it_holds_out():
    by_time = SplitSettings("global_time", targets=3)
    assert SplitSettings().in_words() == "leave-last-out"
    assert SplitSettings(targets=5).in_words() == "leave-last-5-out"
    assert SplitSettings("global_time").in_words() == "global-time"
    assert by_time.in_words() == "global-time, up to 3 events a user"


def test_split_follows_the_number_of_targets():
    log = random_log()
    assert names(split(log, SplitSettings(targets=3)).train) == names(leave_last_out(log, 3).train)


def test_a_log_prepared_before_there_were_several_targets_has_one():
    cuts = {"validation_from": 0.7, "test_from": 0.8}
    assert split_from({"name": "global_time", "time": cuts}).targets == 1
    assert split_from({"name": "global_time", "time": cuts, "targets": 4}).targets == 4
