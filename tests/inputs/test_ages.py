"""Events that count less in the loss the older they are."""

from pathlib import Path

import numpy as np
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs import flat_arrays
from idbert.inputs.cuts import SplitSettings
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.sequences import SequenceSettings, build_sequences
from idbert.inputs.splits import split
from idbert.inputs.vocabulary import Vocabulary
from tests.inputs.test_preparation import BY_TIME, EXTRA, prepared, random_frame, write_parts
from tests.inputs.test_sequences import random_log

HALF_LIFE = 1000.0


@pytest.mark.parametrize("chunk", [7, 2_000_000])
def test_a_weight_halves_with_each_half_life_before_the_newest_event(chunk, monkeypatch):
    monkeypatch.setattr(flat_arrays, "CHUNK_EVENTS", chunk)
    log = random_log()
    vocabulary = Vocabulary.from_interactions(log)
    plain = build_sequences(log, vocabulary, SequenceSettings(max_length=5))
    aged = build_sequences(
        log, vocabulary, SequenceSettings(max_length=5, half_life_days=HALF_LIFE)
    )
    days = (plain.times.max() - plain.times) / 86_400e6
    expected = plain.weights * 0.5 ** (days / HALF_LIFE)
    np.testing.assert_allclose(aged.weights, expected / expected.mean(), rtol=1e-4)
    assert aged.weights.dtype == np.float32 and days.max() > 10 * HALF_LIFE
    assert np.array_equal(aged.items, plain.items)


@pytest.mark.parametrize("cut", [None, BY_TIME])
@pytest.mark.parametrize("columns", [EXTRA, {"behaviour_column": "behaviour"}])
def test_a_prepared_log_gives_the_weights_of_the_table(cut, columns, tmp_path: Path):
    source = write_parts(random_frame(1), tmp_path / "log")
    log = prepared(source, tmp_path / "made", cut, **columns)
    table = read_interactions(source, InteractionSettings(**columns))
    train = split(table, cut or SplitSettings()).train
    for more in ({}, {"session_gap_s": 10.0}, {"max_length": 3, "window_stride": 2}):
        settings = SequenceSettings(half_life_days=2e-4, **more)
        expected = build_sequences(train, log.vocabulary, settings).packed()
        found = log.train(settings).packed()
        assert np.array_equal(found.items, expected.items)
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-5)
        assert found.weights.max() > 3 * found.weights.min()


def test_events_without_times_have_no_age():
    log = random_log(real_times=False)
    with pytest.raises(DataError, match="only an order. Leave half_life_days out"):
        build_sequences(
            log, Vocabulary.from_interactions(log), SequenceSettings(half_life_days=1.0)
        )
    with pytest.raises(ConfigError, match="half_life_days is 0.*above 0 days"):
        SequenceSettings(half_life_days=0.0)
