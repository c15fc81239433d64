"""The generated log is what it says."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import power_law_log
from benchmarks.power_law_log import LogOptions, part, power_law, scrambled, write_log

SMALL = LogOptions(rows=5000, rows_a_part=2000, seed=3)


def test_the_parts_hold_all_rows_in_the_order_of_time(tmp_path: Path):
    paths = list(write_log(SMALL, tmp_path))
    assert [pq.read_metadata(path).num_rows for path in paths] == [2000, 2000, 1000]
    table = pa.concat_tables(pq.read_table(path) for path in paths)
    times = table["timestamp"].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert times[-1] - times[0] > 0.99 * SMALL.days * power_law_log.SECONDS_A_DAY


def test_a_seed_gives_the_same_log_whatever_is_written_beside_it():
    assert part(SMALL, 1).equals(part(SMALL, 1))
    assert not part(SMALL, 1).equals(part(LogOptions(5000, rows_a_part=2000, seed=4), 1))
    text = part(LogOptions(5000, rows_a_part=2000, seed=3, id_type="string"), 1)
    numbers = [int(name.split("-")[1]) for name in text["item_id"].to_pylist()]
    assert numbers == part(SMALL, 1)["item_id"].to_pylist()


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.4])
def test_the_share_of_a_rank_falls_by_the_power_law(exponent: float):
    ranks = power_law(np.random.default_rng(0), 400_000, 1000, exponent)
    assert ranks.min() == 0 and ranks.max() == 999
    edges = np.arange(1, 1002)
    primitive = np.log(edges) if exponent == 1 else edges ** (1 - exponent) / (1 - exponent)
    expected = np.diff(primitive) / (primitive[-1] - primitive[0])
    shares = np.bincount(ranks, minlength=1000) / len(ranks)
    np.testing.assert_allclose(shares[:20], expected[:20], rtol=0.06)


@pytest.mark.parametrize("size", [10, 997, 1000, 12_345])
def test_scrambled_ranks_are_a_permutation(size: int):
    numbers = scrambled(np.arange(size), size)
    assert np.array_equal(np.sort(numbers), np.arange(size))
    assert not np.array_equal(numbers, np.arange(size))
