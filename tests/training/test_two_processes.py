"""Two processes train what one would, agree before they begin, and resume."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from idbert import processes
from idbert.errors import ConfigError
from idbert.training.launch import check_launch
from tests.training.small import build
from tests.training.two_processes import SETTINGS, found, train

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have trained, once for all tests: their start takes seconds."""
    folder = tmp_path_factory.mktemp("two")
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.training.two_processes", str(folder)]
    running = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | meeting | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    return folder


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict]:
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_losses_are_those_of_one_process_and_the_rankings_too(name, two, tmp_path):
    one = found(train(tmp_path, **SETTINGS[name]))
    assert two[0][name] == two[1][name]
    assert len(one["losses"]) >= 2
    assert two[0][name]["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two[0][name]["metrics"] == one["metrics"]


def test_sparse_rows_leave_all_processes_with_the_same_weights(two):
    assert two[0]["sparse"] == two[1]["sparse"]
    assert two[0]["exchanged"] == pytest.approx([0, 0], abs=1e-6)


def test_processes_drop_out_different_units_and_a_resumed_run_the_same_as_before(two):
    assert two[0]["with dropout"] == two[1]["with dropout"] == two[0]["killed and resumed"]


def test_fewer_processes_go_on_with_a_run(folder, tmp_path, caplog):
    one = found(train(tmp_path, checkpoint_every_steps=1))
    resumed = found(train(folder / "fewer", checkpoint_every_steps=1))
    assert "was written by another number of processes" in caplog.text
    assert resumed["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert resumed["metrics"] == one["metrics"]


def test_processes_that_disagree_train_nothing_and_name_the_ranks(two, folder):
    for facts in two:
        assert "training.seed is 0 in rank 0; 1 in rank 1" in facts["other seeds"]
        assert facts["other data"].startswith("DataError: The 2 processes do not agree (1 differ")
        assert "the data is" in facts["other data"] and "in rank 1" in facts["other data"]
    assert not [*(folder / "seeds").iterdir(), *(folder / "data").iterdir()]


def test_what_cannot_act_in_several_processes_is_refused(two):
    assert "unfreeze_every cannot act in several processes" in two[0]["frozen"]


def test_what_the_writer_returns_or_raises_comes_to_all(two):
    for facts in two:
        assert facts["written"] == {"by": 0, "text": "ü"}
        assert facts["raised"] == "CheckpointError: said by rank 0"
        assert facts["any"] == [True, False]


def test_one_process_waits_for_nobody():
    assert processes.by_writer(lambda: 7) == 7
    assert processes.place() == (0, 1) and not processes.any_of(False)
    with processes.writer_first():
        processes.wait()
    processes.check_agreement({"the data": "a"})
    assert processes.seed_of_process(5) == 5
    assert not processes.is_loss_of_process(RuntimeError("Connection closed by peer"))


def test_each_process_has_a_seed_of_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    seeds = set()
    for rank in "012":
        monkeypatch.setenv("RANK", rank)
        seeds |= {processes.seed_of_process(5), processes.seed_of_process(5, 1)}
    assert len(seeds) == 6


def test_processes_that_cannot_meet_are_told_to_start_by_torchrun(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2.* cannot meet.* Start them by torchrun"):
        processes.join()


def test_sharded_weights_are_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="FSDP is asked for .* Start with torchrun"):
        build(tmp_path)
    assert not list(tmp_path.iterdir())


def test_more_processes_than_gpus_are_refused(tmp_path, monkeypatch):
    settings = build(tmp_path)._settings
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="started 2 processes on this machine, which has 1 GPUs"):
        check_launch(settings)
