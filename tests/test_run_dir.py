"""The run folder: made once, resumed by the same settings, opened only when whole."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from idbert.errors import BusyError, CheckpointError, ConfigError
from idbert.run_dir import ESSENTIAL, RunDir
from idbert.run_lock import LOCK, hold, release_all

CONFIG: dict[str, Any] = {"seed": 1, "model": {"hidden_size": 64, "rates": [0.1, 1e-5]}}


def finished_run(path: Path) -> RunDir:
    run = RunDir.create(path, "finetune", CONFIG)
    for name in ESSENTIAL[1:]:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(f"content of {name}")
    run.finish()
    return run


def test_a_new_run_holds_its_settings_and_is_not_complete(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs" / "a", "pretrain", CONFIG)
    assert (run.stage, run.is_complete) == ("pretrain", False)
    assert run.read_config() == CONFIG


def test_the_same_command_returns_to_its_run(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "a", "finetune", CONFIG)
    assert not RunDir.create(tmp_path / "a", "finetune", CONFIG).is_complete
    finished_run(tmp_path / "a")
    assert RunDir.create(tmp_path / "a", "finetune", CONFIG).is_complete


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    def status_of_another() -> int:
        child = os.fork()
        if child == 0:
            try:
                RunDir.create(tmp_path / "a", "x", {})
            except BusyError as error:
                named = f"process (number {os.getppid()}) is at work in {tmp_path / 'a'}"
                os._exit(3 if named in str(error) else 4)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    RunDir.create(tmp_path / "a", "x", {})
    RunDir.create(tmp_path / "a", "x", {})
    assert status_of_another() == 3
    release_all()
    assert list((tmp_path / "a").glob(".*")) == []
    assert status_of_another() == 0
    RunDir.create(tmp_path / "a", "x", {})  # that process has ended


def test_a_folder_that_was_removed_is_held_anew(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "a", "x", {})
    shutil.rmtree(tmp_path / "a")
    RunDir.create(tmp_path / "a", "x", {})
    assert (tmp_path / "a" / LOCK).read_text() == str(os.getpid())
    release_all()


def test_a_forked_process_does_not_hold_on(tmp_path: Path) -> None:
    hold(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)  # alive until the folder has been held anew
        os._exit(0)
    try:
        release_all()
        hold(tmp_path)
        release_all()
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)


def test_a_finished_run_is_not_held(tmp_path: Path) -> None:
    finished_run(tmp_path / "a")
    release_all()
    RunDir.create(tmp_path / "a", "finetune", CONFIG)
    assert not (tmp_path / "a" / LOCK).exists()


def test_a_creation_that_was_killed_is_completed_by_the_next(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", "pretrain", CONFIG)
    run.config.unlink()
    assert RunDir.create(tmp_path / "a", "pretrain", CONFIG).read_config() == CONFIG


def test_a_finished_run_opens_and_knows_its_weights(tmp_path: Path) -> None:
    written = finished_run(tmp_path / "a")
    run = RunDir.open(tmp_path / "a", stages=("pretrain", "finetune"))
    assert run == written
    assert len(run.model_sha256) == 64


def test_json_and_text_come_back_as_written(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", "pretrain", CONFIG)
    run.write_json("metrics.json", {"标题": [1, 0.1, None]})
    assert run.read_json("metrics.json") == {"标题": [1, 0.1, None]}
    run.write_text("report.html", "<p>标题")
    assert run.report.read_text(encoding="utf-8") == "<p>标题"
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("metrics.json", float("nan"))


def test_a_run_with_other_settings_is_not_overwritten(tmp_path: Path) -> None:
    finished_run(tmp_path / "a")
    other = {"seed": 1, "model": {"hidden_size": 32, "rates": [0.1, 1e-5]}}
    with pytest.raises(
        ConfigError,
        match=r"other settings \(1 differ\): model\.hidden_size is 64 there and 32 here\. Name "
        r"another folder with --run",
    ):
        RunDir.create(tmp_path / "a", "finetune", other)


def test_a_run_that_failed_before_its_training_takes_new_settings(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "a", "finetune", {"data": {"user_column": "usr_id"}})
    run = RunDir.create(tmp_path / "a", "pretrain", CONFIG)
    assert (run.stage, run.read_config()) == ("pretrain", CONFIG)


def test_a_run_of_another_stage_is_not_overwritten(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "a", "pretrain", CONFIG).checkpoints.mkdir()
    with pytest.raises(ConfigError, match="holds a run of stage 'pretrain', not 'finetune'"):
        RunDir.create(tmp_path / "a", "finetune", CONFIG)


def test_a_folder_of_other_files_is_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="exists and is not a run folder. Name another one"):
        RunDir.create(tmp_path, "pretrain", CONFIG)
    with pytest.raises(ConfigError, match="exists and is not a run folder"):
        RunDir.create(tmp_path / "thesis.tex", "pretrain", CONFIG)
    with pytest.raises(CheckpointError, match=r"not a run folder: it holds no run\.json"):
        RunDir.open(tmp_path)


def test_a_missing_run_names_those_that_exist(tmp_path: Path) -> None:
    finished_run(tmp_path / "ml-1m")
    finished_run(tmp_path / "beauty")
    with pytest.raises(
        CheckpointError,
        match=r"no run at .*ml-2m\. Did you mean 'ml-1m'\? Runs in .*: beauty, ml-1m\.",
    ):
        RunDir.open(tmp_path / "ml-2m")
    with pytest.raises(CheckpointError, match=r"is not a run folder.*Runs in .*: beauty, ml-1m\."):
        RunDir.open(tmp_path)
    with pytest.raises(CheckpointError, match="The folder .*nowhere does not exist either"):
        RunDir.open(tmp_path / "nowhere" / "ml-1m")


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", "pretrain", CONFIG)
    with pytest.raises(CheckpointError, match="has not finished. Run the same training command"):
        RunDir.open(tmp_path / "a")
    with pytest.raises(
        CheckpointError,
        match=r"cannot be finished without vocabulary\.parquet, model/config\.json, model/model",
    ):
        run.finish()
    with pytest.raises(CheckpointError, match="has not finished, there are no weights"):
        _ = run.model_sha256


def test_a_run_of_another_stage_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / "a")
    with pytest.raises(CheckpointError, match="run of stage 'finetune'; needed: pretrain"):
        RunDir.open(tmp_path / "a", stages=["pretrain"])


@pytest.mark.parametrize("name", ESSENTIAL)
def test_a_half_copied_run_is_refused_by_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    finished_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    whole = (tmp_path / "b" / name).read_bytes()
    (tmp_path / "b" / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=f"{name} has {len(whole) // 2} bytes instead of"):
        RunDir.open(tmp_path / "b")
    (tmp_path / "b" / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing: the folder was copied in part"):
        RunDir.open(tmp_path / "b")


def test_a_marker_of_another_format_is_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a")
    marker = run.read_json("run.json")
    run.write_json("run.json", {**marker, "format": 9, "idbert": "7.0"})
    with pytest.raises(CheckpointError, match=r"format 9 by idbert 7\.0; this idbert reads format"):
        RunDir.open(run.path)
    run.write_text("run.json", json.dumps({"name": "npm package"}))
    with pytest.raises(CheckpointError, match=r"run\.json is not the marker of a run"):
        RunDir.open(run.path)
    run.write_text("run.json", "{half")
    with pytest.raises(CheckpointError, match=r"run\.json is not JSON"):
        RunDir.open(run.path)


def test_a_broken_config_is_refused(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a", "pretrain", CONFIG)
    run.write_text("config.yaml", "a: [1")
    with pytest.raises(CheckpointError, match=r"config\.yaml is not YAML"):
        run.read_config()
    run.write_text("config.yaml", "- 1")
    with pytest.raises(CheckpointError, match=r"config\.yaml does not hold settings"):
        run.read_config()
    run.config.unlink()
    with pytest.raises(CheckpointError, match=r"holds no config\.yaml"):
        run.read_config()
    with pytest.raises(CheckpointError, match=r"holds no metrics\.json"):
        run.read_json("metrics.json")
