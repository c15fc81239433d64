"""A log prepared once by a command is what training would have read itself."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from idbert.inputs.prepared_log import PreparedLog
from pipelines.corridor import CorridorSettings, DataSettings, as_prepared, read_log
from tests.pipelines.commands import TINY, run, succeed, weights
from tests.worlds import cycle_world


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "log.csv"
    cycle_world(num_users=20).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def prepared(log: Path) -> Path:
    folder = log.parent / "prepared"
    succeed("rec_prepare", "--run", folder, f"--data.source={log}")
    return folder


def test_training_on_a_prepared_log_equals_training_on_the_log(
    log: Path, prepared: Path, tmp_path: Path
):
    for name, source in (("read", log), ("mapped", prepared)):
        folder, data = tmp_path / name, f"--data.source={source}"
        succeed("rec_pretrain", "--run", folder / "a", data, *TINY)
        succeed("rec_finetune", "--run", folder / "b", data, "--pretrained", folder / "a", *TINY)
        succeed("rec_evaluate", "--run", folder / "b")
        succeed("rec_recommend", "--run", folder / "b", "--output", folder / "lists.csv")
    read, mapped = tmp_path / "read", tmp_path / "mapped"
    for stage in ("a", "b"):
        assert weights(read / stage) == weights(mapped / stage)
        figures = [(folder / stage / "metrics.json").read_text() for folder in (read, mapped)]
        assert figures[0] == figures[1]
    assert (read / "lists.csv").read_text() == (mapped / "lists.csv").read_text()
    for some in ((), ("--users=3,7",), ("--users=7", "--output", tmp_path / "some.csv")):
        shown = [succeed("rec_recommend", "--run", of / "b", *some).out for of in (read, mapped)]
        assert shown[0] == shown[1]
    missing = run("rec_recommend", "--run", mapped / "b", "--users=3,99,77")
    assert (
        missing.status == 1 and "2 users are not in" in missing.message and "77" in missing.message
    )


def test_lists_and_indexes_of_a_prepared_log_read_no_table(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "run"
    succeed("rec_pretrain", "--run", folder, f"--data.source={prepared}", *TINY)
    monkeypatch.setattr(PreparedLog, "interactions", lambda *_: pytest.fail("a table was made"))
    succeed("rec_recommend", "--run", folder, "--output", tmp_path / "lists.csv")
    auto = ("--factory=auto", "--auto.exact_below=1", "--auto.queries=5")
    assert "items in place of users" not in succeed("rec_index", "--run", folder, *auto).err
    succeed("rec_index", "--run", folder, "--users=true")


def test_a_finished_preparation_is_not_done_again_and_keeps_no_stages(log: Path, prepared: Path):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    again = succeed("rec_prepare", "--run", prepared, f"--data.source={log}")
    assert "is finished" in again.err
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before
    assert {path.name for path in before} == {
        *("run.json", "config.yaml", "log.json", "vocabulary.parquet", "sequences.arrow")
    }


def test_settings_of_the_preparation_stand_and_others_are_refused(log: Path, tmp_path: Path):
    folder = tmp_path / "prepared"
    made_by = ("--data.min_user_events=7", "--split.name=global_time")
    succeed("rec_prepare", "--run", folder, f"--data.source={log}", *made_by)
    found = as_prepared(_corridor(folder, tmp_path))
    assert found.data.min_user_events == 7 and found.split.name == "global_time"
    assert found.data.source == str(folder)
    for setting, words in [
        ("--data.min_user_events=5", r"data.min_user_events \(7 there\)"),
        ("--data.drop_repeats=true", r"data.drop_repeats \(False there\)"),
        (
            "--split={name: global_time, time: {validation_from: 0.5}}",
            r"split.time.validation_from \(0.8 there\)\. ",
        ),
        ("--split.targets=2", r"split.targets \(1 there\)\. "),
    ]:
        refused = run(
            *("rec_pretrain", "--run", tmp_path / "run", f"--data.source={folder}", setting),
        )
        assert refused.status == 2, refused.err
        assert re.search(f"prepared with other settings.*{words}", refused.message)
    assert not (tmp_path / "run").exists()


def test_an_unfinished_preparation_is_no_log_and_goes_on(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "prepared"
    command = ("rec_prepare", "--run", folder, f"--data.source={log}")
    with monkeypatch.context() as patch:
        patch.setattr("idbert.inputs.preparation.Sequences.save", _interrupted)
        assert run(*command).status == 130
    refused = run("rec_pretrain", "--run", tmp_path / "run", f"--data.source={folder}", *TINY)
    assert "the preparation has not finished. Give the same rec_prepare command" in refused.message
    again = succeed(*command)
    assert "sorted: found finished" in again.err and "rows: found finished" in again.err
    assert len(PreparedLog.open(folder).events) == 20


def test_more_memory_may_be_given_to_an_unfinished_preparation(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = ("rec_prepare", "--run", tmp_path / "made", f"--data.source={log}")
    with monkeypatch.context() as patch:
        patch.setattr("idbert.inputs.preparation.Sequences.save", _interrupted)
        assert run(*command).status == 130
    assert "sorted: found finished" in succeed(*command, "--data.memory_limit=3GB").err


def test_a_log_that_has_changed_since_is_not_passed_off_as_prepared(tmp_path: Path):
    log = tmp_path / "log.csv"
    cycle_world(num_users=5).to_csv(log, index=False)
    command = ("rec_prepare", "--run", tmp_path / "made", f"--data.source={log}")
    succeed(*command)
    cycle_world(num_users=6).to_csv(log, index=False)
    refused = run(*command)
    assert refused.status == 2
    assert "log.csv has changed since" in refused.message


def test_a_damaged_file_and_a_foreign_run_are_refused(prepared: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    sequences = copy / "sequences.arrow"
    sequences.write_bytes(sequences.read_bytes()[:-1])
    start = ("rec_pretrain", "--run", tmp_path / "run", f"--data.source={copy}", *TINY)
    assert "sequences.arrow has" in run(*start).message
    marker = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(marker | {"stage": "rec_finetune"}))
    assert "a run of rec_finetune. Name a log, or the folder" in run(*start).message


def test_a_run_is_not_evaluated_on_a_log_that_was_prepared_anew(log: Path, tmp_path: Path):
    events, folder = tmp_path / "log.csv", tmp_path / "made"
    shutil.copy(log, events)
    prepare = ("rec_prepare", "--run", folder, f"--data.source={events}")
    succeed(*prepare)
    succeed("rec_pretrain", "--run", tmp_path / "run", f"--data.source={folder}", *TINY)
    shutil.rmtree(folder)
    pd.read_csv(events).query("item_id != 'item 03'").to_csv(events, index=False)
    succeed(*prepare)
    refused = run("rec_evaluate", "--run", tmp_path / "run")
    assert "holds another catalogue than the run was trained on: 11 items there" in refused.message


def test_a_prepared_log_becomes_the_table_that_it_was_made_of(log: Path, prepared: Path):
    read, mapped = (read_log(DataSettings(source=str(source))) for source in (log, prepared))
    assert mapped.table.equals(read.table)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _corridor(folder: Path, tmp_path: Path) -> CorridorSettings:
    return CorridorSettings(run=str(tmp_path / "run"), data=DataSettings(source=str(folder)))
