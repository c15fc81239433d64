"""The shift from the popularity of a whole log to that of its last days."""

from pathlib import Path

import numpy as np
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs import flat_arrays
from idbert.inputs.cuts import SplitSettings
from idbert.inputs.popularity import PopularitySettings, popularity_shift
from idbert.inputs.sequences import Sequences, SequenceSettings
from idbert.inputs.user_slices import offsets_of
from tests.inputs.test_preparation import BY_TIME, prepared, random_frame, write_parts

DAY = 86_400 * 10**6
WHOLE = SequenceSettings(max_length=None, min_length=0)


def events(*users: list[tuple[int, float]]) -> Sequences:
    """Make users' events of pairs: row, day."""
    flat = [event for user in users for event in user]
    return Sequences.from_histories([[row for row, _ in user] for user in users]).replaced(
        times=np.array([int(day * DAY) for _, day in flat])
    )


LOG = events([(4, 0), (5, 1), (4, 9.5)], [(4, 2), (6, 8.5), (6, 10)], [])


def test_the_shift_is_the_log_of_what_an_item_had_recently_over_its_usual_events():
    settings = PopularitySettings(recent_days=2.0, strength=1.0, prior_events=0.5)
    usual = np.array([3, 1, 2]) * 3 / 6
    found = popularity_shift(LOG, 8, settings)
    expected = np.log((np.array([1, 0, 2]) + 0.5) / (usual + 0.5))
    np.testing.assert_allclose(found[4:7], expected, rtol=1e-6)
    assert not found[[0, 1, 2, 3, 7]].any() and found.dtype == np.float32


def test_strength_prior_events_and_days_act(monkeypatch):
    usual = popularity_shift(LOG, 8, PopularitySettings(recent_days=2.0))
    half = popularity_shift(LOG, 8, PopularitySettings(recent_days=2.0, strength=0.75))
    np.testing.assert_allclose(half, usual / 2, rtol=1e-6)
    for change in ({"prior_events": 0.5}, {"recent_days": 9.0}):
        other = popularity_shift(LOG, 8, PopularitySettings(**{"recent_days": 2.0} | change))
        assert np.abs(other - usual).max() > 0.1
    whole = popularity_shift(LOG, 8, PopularitySettings(recent_days=99.0))
    np.testing.assert_allclose(whole, 0, atol=1e-6)
    monkeypatch.setattr(flat_arrays, "CHUNK_EVENTS", 2)
    np.testing.assert_array_equal(
        popularity_shift(LOG, 8, PopularitySettings(recent_days=2.0)), usual
    )


@pytest.mark.parametrize("cut", [SplitSettings(), BY_TIME])
def test_of_a_mapped_log_only_what_is_trained_on_counts(cut, tmp_path: Path):
    log = prepared(write_parts(random_frame(1), tmp_path / "log"), tmp_path / "made", cut)
    train = log.train(WHOLE)
    settings = PopularitySettings(recent_days=2e-4, prior_events=0.01)
    found = popularity_shift(train, len(log.vocabulary), settings)
    packed = train.packed()
    assert len(packed.items) < len(log.events.items)
    np.testing.assert_array_equal(popularity_shift(packed, len(log.vocabulary), settings), found)
    assert np.abs(found).max() > 1 and (found[log.vocabulary.counts_V == 0] == 0).all()


def test_what_cannot_act_is_refused():
    order = Sequences(LOG.users, LOG.items, offsets_of(LOG.lengths))
    with pytest.raises(DataError, match="recent_days counts days, and these events only have an"):
        popularity_shift(order, 8, PopularitySettings(recent_days=1.0))
    for change, words in (
        ({"recent_days": 0.0}, "recent_days is 0.0; it must be above 0"),
        ({"recent_days": 1.0, "prior_events": 0}, "prior_events is 0; it must be above 0"),
        ({"recent_days": 1.0, "strength": 0.0}, "strength is 0.0; it must be above 0"),
        ({"strength": 0.5}, "cannot act without popularity.recent_days"),
    ):
        with pytest.raises(ConfigError, match=words):
            PopularitySettings(**change)
