"""The k-core and the dropping of repeats."""

import numpy as np
import pandas as pd
import pytest

from idbert.errors import DataError
from idbert.inputs.filters import drop_consecutive_repeats, filter_interactions, k_core
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.tables import Interactions


def log_of(users: str, items: str, behaviours: str | None = None) -> Interactions:
    frame = pd.DataFrame({"user_id": list(users), "item_id": list(items)})
    frame["timestamp"] = range(len(frame))
    if behaviours is None:
        return read_interactions(frame)
    frame["behaviour"] = list(behaviours)
    return read_interactions(frame, InteractionSettings(behaviour_column="behaviour"))


def items(log: Interactions) -> str:
    return "".join(log.column("item_id").to_pylist())


def random_log(seed: int) -> Interactions:
    rng = np.random.default_rng(seed)
    return read_interactions(
        pd.DataFrame(
            {
                "user_id": rng.integers(0, 80, 500),
                "item_id": rng.zipf(1.4, 500) % 100,
                "timestamp": range(500),
            }
        )
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_k_core_is_what_dropping_in_turns_leaves(seed: int):
    log = random_log(seed)
    frame = log.to_pandas()
    before = None
    while before is None or len(frame) < before:
        before = len(frame)
        frame = frame[frame.groupby("user_id").user_id.transform("size") >= 3]
        frame = frame[frame.groupby("item_id").item_id.transform("size") >= 5]
    assert 0 < len(frame) < len(log)
    assert k_core(log, 3, 5).column("timestamp").to_pylist() == frame.timestamp.tolist()


def test_dropping_an_item_can_make_its_users_rare():
    # z is rare; without it user b has one event; without b item y is rare; x remains with a and c.
    log = log_of("aaabbcc", "xxyyzxx")
    assert items(k_core(log, 2, 2)) == "xxxx"


def test_a_minimum_of_one_keeps_all():
    log = random_log(0)
    assert k_core(log, 1, 1).table.equals(log.table)


def test_repeats_in_a_row_are_dropped_within_a_user_only():
    assert items(drop_consecutive_repeats(log_of("aaaaabb", "xxyxxxx"))) == "xyxx"


def test_another_behaviour_with_the_same_item_is_no_repeat():
    assert items(drop_consecutive_repeats(log_of("aaa", "xxx", "vvb"))) == "xx"


def test_the_filters_feed_each_other_until_nothing_changes():
    # Without the rare z the two x become neighbours, and one of them goes as a repeat.
    log = log_of("aaaabbb", "xzxyxyx")
    filtered = filter_interactions(log, 2, 2, True)
    assert items(filtered) == "xyxyx"


def test_nothing_left_is_refused():
    with pytest.raises(DataError, match="nothing is left of 3 .*min_item_events=9.*Lower"):
        filter_interactions(log_of("abc", "xyz"), 1, 9, False)
