import numpy as np
import pytest

from idbert.errors import ConfigError, ShapeError
from idbert.evaluation import bootstrap
from idbert.evaluation.bootstrap import interval, intervals, paired


def test_the_interval_is_that_of_the_normal_approximation_for_many_users():
    values = np.random.default_rng(0).random(4000)
    low, high = interval(values, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_about_95_of_100_intervals_hold_the_true_mean():
    rng = np.random.default_rng(1)
    samples = {str(number): rng.random(200) for number in range(200)}
    bounds = [interval(values, resamples=300) for values in samples.values()]
    held = np.mean([low <= 0.5 <= high for low, high in bounds])
    assert 0.90 <= held <= 0.99


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(2).random(50)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_more_resamples_and_another_level_act():
    values = np.random.default_rng(2).random(50)
    assert interval(values, resamples=10) != interval(values)
    narrow, wide = interval(values, level=0.5), interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_an_interval_does_not_depend_on_the_chunks(monkeypatch):
    values = {name: np.random.default_rng(5).random(37) for name in ("a", "b")}
    whole = intervals(values)
    monkeypatch.setattr(bootstrap, "CHUNK_BYTES", 8 * 37 * 3)
    chunked = intervals(values)
    assert list(chunked) == ["a", "b"]
    np.testing.assert_allclose(list(whole.values()), list(chunked.values()), rtol=1e-12)


def test_equal_values_have_an_interval_without_width():
    assert interval(np.full(10, 0.25)) == (0.25, 0.25)


def test_pairing_finds_a_small_difference_that_separate_intervals_hide():
    easy = np.random.default_rng(6).random(300)
    better, worse = easy + 0.01, easy
    assert interval(worse).high > interval(better).low
    difference, low, high = paired(better, worse)
    assert difference == pytest.approx(0.01)
    assert low == pytest.approx(0.01) and high == pytest.approx(0.01)


def test_a_paired_difference_changes_its_sign_with_the_order():
    a, b = np.random.default_rng(7).random((2, 80))
    forward, backward = paired(a, b), paired(b, a)
    np.testing.assert_allclose(
        [forward.difference, forward.low, forward.high],
        [-backward.difference, -backward.high, -backward.low],
    )


def test_no_users_are_refused():
    with pytest.raises(ShapeError, match="There are no users to resample"):
        interval(np.zeros(0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resamples": 0}, "resamples is 0; give 1 or more"),
        ({"level": 1.0}, "level is 1.0; give a share between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        interval(np.ones(3), **settings)
