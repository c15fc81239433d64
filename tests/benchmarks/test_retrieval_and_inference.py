"""The benchmarks run in small, and leave out what is not there. No time is asserted."""

import json
import stat
import sys
from pathlib import Path

import pytest

from benchmarks import inference, retrieval
from tests.worlds import cycle_world


def test_the_benchmark_of_indexes_prints_recall_and_speed_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--vectors=3000", "--dimension=16", "--queries=64", "--seconds=0.01"]
    plot = tmp_path / "recall.svg"
    retrieval.main([*small, "--exact_below=1000", "--plot", str(plot)])
    printed = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| ")]
    found = {row[0].strip(): float(row[1]) for row in rows[1:5]}
    assert found["exact, torch"] == found["exact, FAISS Flat"] == 1
    assert 0.9 < found["all, bfloat16"] <= 1
    assert next(value for name, value in found.items() if name.startswith("auto: HNSW32 ef")) > 0.95
    assert "256 at once: auto is" in printed
    assert plot.read_text().startswith("<svg")


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    """A folder in which one peer is installed, and its driver says that it is slow."""
    folder = tmp_path / "peers"
    (folder / "drivers").mkdir(parents=True)
    python = folder / "venvs" / "replay" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IEXEC)
    result = json.dumps({"users_per_s": 0.5, "eval_foreign_cpu": 0.01})
    (folder / "drivers" / "drive_replay.py").write_text(
        "import sys\n"
        "if 'sasrec' in sys.argv: sys.exit('no such model')\n"
        f"print('RESULT ' + {result!r})\n"
    )
    return folder


def test_the_benchmark_of_scoring_runs_ours_and_the_peers_that_are_there(
    tmp_path: Path, peers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "log.parquet"
    cycle_world(num_users=20).to_parquet(data)
    small = ["--hidden=8", "--layers=1", "--maxlen=8", "--passes=1", "--bfloat16"]
    inference.main(["--data", str(data), "--peers", str(peers), *small])
    printed = capsys.readouterr().out
    rows = [line.split(" | ")[:2] for line in printed.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        ["| idbert", "bert4rec"],
        ["| idbert, items in bfloat16", "bert4rec"],
        ["| replay", "bert4rec"],
        ["| idbert", "sasrec"],
        ["| idbert, items in bfloat16", "sasrec"],
    ]
    assert "bert4rec: idbert is" in printed and "sasrec: idbert is" not in printed
    assert "rectools is left out" in printed
    assert "replay, sasrec failed: no such model" in printed
