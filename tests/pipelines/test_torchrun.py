"""The commands in the processes of torchrun."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.commands import run, succeed
from tests.worlds import cycle_world

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "--model.hidden_size=16",
    "--model.hidden_dropout=0",
    "--batches.token_budget=200",
    "--training.epochs=2",
    "--training.log_every_steps=1",
    "--training.checkpoint_every_steps=1",
    "--plugins=[tests.pipelines.killed_rank]",
)


def torchrun(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # Behind -- torchrun does not take our --run for the start of its own --run-path.
    command = [*launcher, "--nproc-per-node=2", "-m", "--", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=400,
    )


def curve_of(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "curve.json").read_text())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    cycle_world().to_csv(tmp_path / "log.csv", index=False)
    return tmp_path / "log.csv"


def test_a_run_whose_process_was_killed_goes_on_and_ends_as_that_of_one_process(log, tmp_path):
    data = f"--data.source={log}"
    command = ("pipelines.rec_pretrain", "--run", tmp_path / "two", data, *SETTINGS)

    killed = torchrun(*command, DIE_AT="6")
    lines = killed.stderr.splitlines()
    said = [place for place, line in enumerate(lines) if line.startswith("ProcessError: ")]
    assert killed.returncode != 0 and len(said) == 1, killed.stderr
    assert "when the same command is given again" in lines[said[0]]
    assert "Traceback" not in "\n".join(lines[: said[0] + 1])
    assert any("ChildFailedError" in line for line in lines[said[0] :])
    assert not json.loads((tmp_path / "two/run.json").read_text())["complete"]

    resumed = torchrun(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("resuming from") == resumed.stderr.count("is finished: ") == 1
    assert not list((tmp_path / "two").rglob(".*"))

    succeed("rec_pretrain", "--run", tmp_path / "one", data, *SETTINGS)
    one, two = curve_of(tmp_path / "one"), curve_of(tmp_path / "two")
    assert [row.get("ndcg@10") for row in two] == [row.get("ndcg@10") for row in one]
    losses = [[row["loss"] for row in curve] for curve in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_a_command_that_is_for_one_process_says_so_before_it_does_anything(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    handler = signal.getsignal(signal.SIGTERM)
    refused = run("rec_index", "--run", tmp_path / "none")
    assert refused.status == 2
    assert "pipelines.rec_index runs in one process, and torchrun started 2" in refused.message
    monkeypatch.setenv("RANK", "1")  # the other one keeps quiet
    assert run("rec_index", "--run", tmp_path / "none").err == ""
    assert signal.getsignal(signal.SIGTERM) is handler
