"""The benchmark of several processes runs in small, and compares what it measures."""

import sys
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.scaling import FORMS, Outcome, table
from tests.worlds import cycle_world


def test_the_table_has_ratios_to_the_first_form_and_the_largest_difference_of_a_loss() -> None:
    outcomes = {
        FORMS[0]: [Outcome(100.0, [2.0, 1.0]), Outcome(300.0, [2.0, 1.0])],
        FORMS[2]: [Outcome(500.0, [2.0, 1.0]), Outcome(100.0, [2.25, 1.0])],
    }
    assert table(outcomes).splitlines()[2:] == [
        "| 1 process, 1 thread | 200 | 1.00 | 100 to 300 | 0.0e+00 |",
        "| 2 processes, 1 thread each | 300 | 1.50 | 100 to 500 | 2.5e-01 |",
    ]


def test_the_benchmark_trains_and_prints_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cycle_world().to_csv(tmp_path / "log.csv", index=False)
    small = ["--steps=6", "--passes=1", "--forms=1", "--token-budget=200", "--hidden-size=16"]
    monkeypatch.setattr(sys, "argv", ["scaling", f"--source={tmp_path / 'log.csv'}", *small])
    scaling.main()
    assert "| 1 process, 1 thread | " in capsys.readouterr().out
