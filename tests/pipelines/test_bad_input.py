"""What a command says about bad input: one error, no traceback, and nothing half written."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest

from idbert import files
from tests.pipelines.commands import TINY, Finished, run, succeed, weights
from tests.pipelines.conftest import World

HEADER = "user_id,item_id,timestamp\n"


def refused(finished: Finished, status: int, kind: str, *words: str) -> None:
    """Check that a command ended with one error of the agreed form that holds all the words."""
    assert finished.status == status, finished.err
    assert finished.message.startswith(f"{kind}: ")
    for word in words:
        assert word in finished.message
    assert "Traceback" not in finished.err
    assert finished.out == ""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("log.csv", "user_id,itemid,timestamp\na,b,1\n", ["no column 'item_id'", "'itemid'?"]),
        ("log.csv", "user,product,when\na,b,1\n", ["user, product, when", "user_column"]),
        ("log.csv", "user_id;item_id;timestamp\na;b;1\n", ["separated by semicolons"]),
        ("log.csv", "", ["log.csv is empty (0 bytes)"]),
        ("log.csv", HEADER, ["a header but no rows"]),
        ("log.txt", HEADER + "a,b,1\n", ["unknown ending '.txt'", ".csv (commas)"]),
        ("log.parquet", HEADER + "a,b,1\n", ["not a parquet file", "It looks like text"]),
        ("log.csv", HEADER + "a,b,1\n,c,2\na,,3\n", ["row 2: column 'user_id' holds no value"]),
        ("log.csv", HEADER + "a,b,1\na,nan,2\n", ["row 2: column 'item_id' holds no value"]),
        ("log.csv", HEADER + "a,b,1\na,c,-2\n", ["row 2", "'-2', which is negative"]),
        ("log.csv", HEADER + "a,b,1\na,c,yesterday\n", ["row 2", "'yesterday'", "time_column"]),
        ("log.csv", HEADER + "a,b,1\na,c,2\n", ["none of the 1 users has 3 events", "Give a log"]),
        ("log.csv", HEADER + "a,b,1\na,c\n", ["lines that cannot be read: 1"]),
    ],
)
def test_a_log_that_cannot_be_used_is_refused(
    name: str, content: str, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    finished = run("rec_pretrain", "--run", tmp_path / "run", f"--data.source={tmp_path / name}")
    refused(finished, 1, "DataError", *words)
    assert sorted(os.listdir(tmp_path / "run")) == ["config.yaml", "run.json"]


def test_a_log_that_is_not_there_names_the_nearest(world: World, tmp_path: Path) -> None:
    source = world.log.with_name("lgo.csv")
    finished = run("rec_pretrain", "--run", tmp_path / "run", f"--data.source={source}")
    refused(finished, 1, "DataError", f"no file or folder '{source}'. Did you mean 'log.csv'?")


def test_one_column_of_numbers_and_text_is_refused(tmp_path: Path) -> None:
    for name, item in (("a", 1), ("b", "1")):
        events = pd.DataFrame({"user_id": [1], "item_id": [item], "timestamp": [1]})
        events.to_parquet(tmp_path / f"{name}.parquet")
    finished = run("rec_pretrain", "--run", tmp_path / "run", f"--data.source={tmp_path}/*.parquet")
    refused(finished, 1, "DataError", "'item_id' holds integers in", "but text in", "one type")


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("rec_pretrain", ["--model.hiden_size=8"], ["Did you mean 'model.hidden_size'?", "--help"]),
        ("rec_pretrain", ["--model.hidden_size=wide"], ["model.hidden_size", "int", "wide"]),
        ("rec_pretrain", ["--model.hidden_size=63"], ["63 cannot be shared evenly by 2 heads"]),
        ("rec_pretrain", ["--model.fusion.name=maen"], ["Did you mean 'mean'?"]),
        ("rec_pretrain", ["--masking.probability=1.5"], ["probability is 1.5", "from 0 to 1"]),
        ("rec_pretrain", ["--training.schedule=cosin"], ["Did you mean 'cosine'?"]),
        ("rec_pretrain", ["--split.name=random"], ["split.name", "leave_last_out", "random"]),
        ("rec_pretrain", ["--model.kind=nezha", "--model.attention=sdpa"], ["value term", "eager"]),
        ("rec_pretrain", ["--output_dir=x"], ["unrecognized", "--help` lists all settings"]),
        ("rec_finetune", ["--masking.probability=0.5"], ["unrecognized arguments: --masking"]),
        ("rec_finetune", ["--config=nowhere.yaml"], ["File does not exist", "nowhere.yaml"]),
        ("rec_evaluate", ["--part=train"], ["part", "'validation', 'test'", "train"]),
        ("rec_evaluate", ["--compare=runs/a"], ["compare", "Write a list in brackets: '[a, b]'"]),
        ("rec_evaluate", ["--cutoffs=[50,0]"], ["cutoffs are lengths of lists", "got 0"]),
        ("rec_recommend", ["--k=ten"], ["k", "int", "ten"]),
        ("rec_recommend", ["--items=a", "--users=b"], ["leave histories and users out"]),
        ("rec_recommend", ["--output=best.xls"], ["must end in .csv or .parquet"]),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_made(
    command: str,
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run(command, *arguments), 2, "ConfigError", *words)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", ["rec_index", "rec_evaluate", "rec_recommend"])
def test_a_wrong_run_folder_is_refused(world: World, command: str, tmp_path: Path) -> None:
    missing = run(command, "--run", world.finetuned.with_name("fintuned"))
    refused(missing, 1, "CheckpointError", "no run at", "Did you mean 'finetuned'?")
    (tmp_path / "thesis.tex").touch()
    other = run(command, "--run", tmp_path)
    refused(other, 1, "CheckpointError", "is not a run folder: it holds no run.json")


def truncate(run_folder: Path) -> str:
    whole = weights(run_folder)
    (run_folder / "model" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    return f"{len(whole) // 2} bytes instead of {len(whole)}. Copy it again"


def change_one_byte(run_folder: Path) -> str:
    path = run_folder / "vocabulary.parquet"
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    return "vocabulary.parquet is damaged: its SHA-256 is another"


def forget_the_weights(run_folder: Path) -> str:
    (run_folder / "model" / "model.safetensors").unlink()
    return "model.safetensors is missing: the folder was copied in part"


@pytest.mark.parametrize("damage", [truncate, change_one_byte, forget_the_weights])
@pytest.mark.parametrize("command", ["rec_index", "rec_evaluate", "rec_recommend"])
def test_a_half_copied_run_is_refused(
    copied: Path, command: str, damage: Callable[[Path], str]
) -> None:
    words = damage(copied)
    refused(run(command, "--run", copied), 1, "CheckpointError", words)


def test_an_index_of_another_model_is_refused_and_hinders_no_evaluation(
    world: World, tmp_path: Path
) -> None:
    mixed = shutil.copytree(world.pretrained, tmp_path / "mixed")
    shutil.copytree(world.finetuned / "index", mixed / "index")
    finished = run("rec_recommend", "--run", mixed, "--items=item 01", "--k=1")
    refused(finished, 1, "CheckpointError", "is the index of another model", "Build it again")
    succeed("rec_evaluate", "--run", mixed)
    succeed("rec_index", "--run", mixed)
    succeed("rec_recommend", "--run", mixed, "--items=item 01", "--k=1")


def test_a_half_copied_index_is_refused(copied: Path) -> None:
    (copied / "index" / "index.faiss").write_bytes(b"IxF")
    finished = run("rec_recommend", "--run", copied, "--items=item 01", "--k=1")
    refused(finished, 1, "CheckpointError", "index.faiss has 3 bytes instead of")


@pytest.mark.parametrize(
    ("arguments", "status", "kind", "words"),
    [
        (["--k=13"], 1, "DataError", ["k is 13", "the catalogue has 12"]),
        (["--k=0"], 2, "ConfigError", ["k is 0; it must be at least 1"]),
        (["--k=1", "--users=1,999,1000"], 1, "DataError", ["2 users are not in", "is 999"]),
        (["--k=1", "--users=anna"], 2, "ConfigError", ["'anna', but the log's ids are integers"]),
        (["--k=1", "--users=007"], 2, "ConfigError", ["'007', but the log's ids are integers"]),
        (["--k=1", f"--users={2**63}"], 2, "ConfigError", ["but the log's ids are integers"]),
        (["--k=1", "--users="], 2, "ConfigError", ["users is empty. Name at least one"]),
        (["--k=1", '--items="item 01'], 2, "ConfigError", ["not ids separated by commas"]),
        (["--k=1", "--allow=nothing"], 1, "DataError", ["none of the 1 allowed items"]),
        (["--k=1", "--histories=nowhere.csv"], 1, "DataError", ["no file or folder 'nowhere.csv'"]),
    ],
)
def test_a_question_that_has_no_answer_is_refused_and_writes_no_file(
    world: World,
    arguments: list[str],
    status: int,
    kind: str,
    words: list[str],
    tmp_path: Path,
) -> None:
    output = tmp_path / "best.csv"
    finished = run("rec_recommend", "--run", world.finetuned, *arguments, "--output", output)
    refused(finished, status, kind, *words)
    assert os.listdir(tmp_path) == []


def test_a_user_whom_the_runs_filter_left_out_is_told_so(world: World, tmp_path: Path) -> None:
    few = pd.DataFrame({"user_id": 999, "item_id": ["item 01", "item 02"], "timestamp": [1, 2]})
    log = tmp_path / "log.csv"
    pd.concat([world.events, few]).to_csv(log, index=False)
    arguments = (f"--data.source={log}", "--data.min_user_events=3", *TINY)
    succeed("rec_finetune", "--run", tmp_path / "run", *arguments)
    asked = ("rec_recommend", "--run", tmp_path / "run", "--k=1", "--users=999")
    words = ["trained with data.min_user_events=3", f"add --histories {log}"]
    refused(run(*asked), 1, "DataError", *words)
    succeed(*asked, "--histories", log)


def test_a_factory_string_that_cannot_be_built_leaves_the_old_index(copied: Path) -> None:
    before = json.loads((copied / "index" / "manifest.json").read_text())
    wrong = run("rec_index", "--run", copied, "--factory=HSNW32")
    refused(wrong, 2, "ConfigError", "'HSNW32' is not a FAISS factory string")
    large = run("rec_index", "--run", copied, "--factory=IVF1024,Flat")
    refused(large, 2, "ConfigError", "at least 1024 vectors to train on, there are 12")
    assert json.loads((copied / "index" / "manifest.json").read_text()) == before


def test_a_pretrained_run_that_does_not_fit_is_refused(world: World, tmp_path: Path) -> None:
    def start_from(pretrained: Path, log: Path = world.log) -> Finished:
        arguments = ("--run", tmp_path / "run", f"--data.source={log}", *TINY)
        return run("rec_finetune", *arguments, "--pretrained", pretrained)

    refused(start_from(tmp_path / "none"), 1, "CheckpointError", "no run at")
    assert not (tmp_path / "run").exists()
    width = start_from(world.pretrained)
    refused(width, 2, "ConfigError", "tensors differ", "[32] there, [8] here", "same settings")
    others = {item: f"other {item}" for item in world.events["item_id"].unique()}
    world.events.replace(others).to_csv(tmp_path / "other.csv", index=False)
    other = start_from(world.pretrained, tmp_path / "other.csv")
    refused(other, 2, "ConfigError", "trained on another catalogue: none of this log's 12 items")
    config = ("--split.name", "global_time", *TINY)
    data = (f"--data.source={world.log}", "--pretrained", world.pretrained)
    split = run("rec_finetune", "--run", tmp_path / "split", *data, *config)
    refused(split, 2, "ConfigError", "another catalogue of the same log", "Use the same --data")


def test_runs_of_different_logs_are_not_compared(world: World, from_parquet: Path) -> None:
    finished = run("rec_evaluate", "--run", world.finetuned, "--compare", f"[{from_parquet}]")
    refused(finished, 2, "ConfigError", "cannot be compared", "data or split settings differ")


def test_a_folder_that_is_no_run_is_not_written_into(world: World, tmp_path: Path) -> None:
    data = f"--data.source={world.log}"
    (tmp_path / "thesis.tex").touch()
    folder = run("rec_pretrain", "--run", tmp_path, data)
    refused(folder, 2, "ConfigError", "exists and is not a run folder. Name another one")
    inside_a_file = run("rec_pretrain", "--run", tmp_path / "thesis.tex" / "run", data)
    refused(inside_a_file, 1, "NotADirectoryError", "Not a directory. Name another place")
    stage = run("rec_pretrain", "--run", world.finetuned, data)
    refused(stage, 2, "ConfigError", "holds a run of stage 'rec_finetune', not 'rec_pretrain'")
    assert os.listdir(tmp_path) == ["thesis.tex"]


@contextlib.contextmanager
def full_disk(name: str) -> Iterator[None]:
    """Let every write of a file or folder whose name begins so fail for room."""
    sync = files._sync

    def sync_or_fail(path: Path) -> None:
        if path.name.startswith(f".{name}"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        sync(path)

    with mock.patch.object(files, "_sync", sync_or_fail):
        yield


def test_a_disk_without_room_stops_a_training_anywhere_and_room_lets_it_go_on(
    world: World, tmp_path: Path
) -> None:
    command = ("rec_pretrain", "--run", tmp_path / "run", f"--data.source={world.log}", *TINY)
    for name, kind, words in (
        ("run.json", "DataError", "to write run.json. Free some space"),
        ("checkpoint-", "CheckpointError", "make room, and start the same command again"),
        ("model", "DataError", "to write model. Free some space and run the same command again"),
        ("report.html", "DataError", "to write report.html. Free some space"),
    ):
        with full_disk(name):
            refused(run(*command), 1, kind, words)
        assert not list((tmp_path / "run").rglob("*.partial"))
        assert not (tmp_path / "run" / "report.html").exists()
    succeed(*command)
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_disk_without_room_leaves_the_earlier_recommendations(
    world: World, ending: str, tmp_path: Path
) -> None:
    output = tmp_path / f"best.{ending}"
    output.write_text("earlier")
    question = ("--run", world.finetuned, "--items=item 01", "--k=1", "--output", output)
    with full_disk(output.name):
        finished = run("rec_recommend", *question)
    refused(finished, 1, "DataError", f"no room on the disk of {tmp_path} to write {output.name}")
    assert output.read_text() == "earlier"
    assert os.listdir(tmp_path) == [output.name]


def test_a_table_of_titles_that_cannot_be_used_is_refused_before_training(
    world: World, tmp_path: Path
) -> None:
    items = tmp_path / "items.csv"
    items.write_text("sku,name\nitem 00,First\n")
    run_folder = tmp_path / "run"
    finished = run(
        *("rec_pretrain", "--run", run_folder, f"--data.source={world.log}"),
        *(f"--data.items={items}", *TINY),
    )
    refused(finished, 1, "DataError", "items.csv has no column 'item_id'")
    assert sorted(os.listdir(run_folder)) == ["config.yaml", "run.json"]


@pytest.mark.parametrize("rows", ["", "0,First\n1,Second\n"])
def test_a_table_with_no_items_title_is_refused_before_training(
    world: World, tmp_path: Path, rows: str
) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n" + rows)
    finished = run(
        *("rec_finetune", "--run", tmp_path / "run", f"--data.source={world.log}"),
        *(f"--data.items={items}", *TINY),
    )
    refused(finished, 1, "DataError", "items.csv has a title of none of the 12 items")


def test_titles_of_text_ids_fit_no_log_of_integers(world: World, tmp_path: Path) -> None:
    events = world.events.assign(item_id=world.events["item_id"].str[5:].astype(int))
    events.to_parquet(tmp_path / "log.parquet")
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\na1,First\nb2,Second\n")
    finished = run(
        *("rec_finetune", "--run", tmp_path / "run", f"--data.source={tmp_path / 'log.parquet'}"),
        *(f"--data.items={items}", *TINY),
    )
    refused(finished, 1, "DataError", "items.csv has a title of none of the 12 items")
