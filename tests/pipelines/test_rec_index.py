"""The commands choose an index by what it finds, and search it as they are told."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.pipelines.commands import run, succeed
from tests.pipelines.conftest import World

CHOICE = ("--factory=auto", "--auto.exact_below=1", "--auto.target_recall=0.9", "--auto.k=3")


def test_an_index_is_chosen_with_users_of_the_log(world: World, copied: Path) -> None:
    finished = succeed("rec_index", "--run", copied, *CHOICE)
    manifest = json.loads((copied / "index" / "manifest.json").read_text())
    assert manifest["factory"] == "HNSW32" and manifest["search"]["ef_search"] >= 3
    measured = manifest["recall"]
    assert measured["reached"] and measured["queries_are"] == "users"
    assert measured["queries"] == world.events["user_id"].nunique()
    assert (copied / "index" / "recall.svg").is_file()
    assert "recall@3 of 1.0000" in finished.err
    recommended = [
        succeed("rec_recommend", "--run", copied, "--items=item 01", "--k=3", *search).out
        for search in ((), ("--search.ef_search=64",), ("--mapped=true",), ("--index=false",))
    ]
    assert all(out == recommended[0] for out in recommended)


def test_few_items_are_searched_exactly(copied: Path) -> None:
    finished = succeed("rec_index", "--run", copied, "--factory=auto", "--users=true")
    assert "12 vectors: few enough to search all" in finished.err
    for folder in ("index", "user_index"):
        manifest = json.loads((copied / folder / "manifest.json").read_text())
        assert (manifest["factory"], manifest["recall"]) == ("Flat", None)


def test_where_the_log_is_gone_items_stand_in_for_users(copied: Path) -> None:
    config = copied / "config.yaml"
    source = next(line for line in config.read_text().splitlines() if "source:" in line)
    run_json = json.loads((copied / "run.json").read_text())
    run_json["files"].pop("config.yaml")
    (copied / "run.json").write_text(json.dumps(run_json))
    config.write_text(config.read_text().replace(source, "  source: gone.csv"))
    finished = succeed("rec_index", "--run", copied, *CHOICE)
    assert "recall will be measured with items in place of users" in finished.err
    manifest = json.loads((copied / "index" / "manifest.json").read_text())
    assert manifest["recall"]["queries_are"] == "stored vectors"


def test_all_users_are_written_a_row_group_at_a_time(world: World, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    tables = []
    for name, settings in (("whole", ()), ("parts", ("--users_at_once=10",))):
        path = tmp_path / f"{name}.parquet"
        succeed("rec_recommend", "--run", world.finetuned, "--k=4", "--output", path, *settings)
        tables.append(pd.read_parquet(path))
    pd.testing.assert_frame_equal(*(t.drop(columns="score") for t in tables))
    users = world.events["user_id"].nunique()
    assert pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups == -(-users // 10)
    assert tables[0]["user_id"].nunique() == users


def test_a_folder_is_not_written_over(world: World, tmp_path: Path) -> None:
    (tmp_path / "lists.parquet").mkdir()
    output = ("--output", tmp_path / "lists.parquet")
    finished = run("rec_recommend", "--run", world.finetuned, "--k=4", *output)
    assert finished.status == 1 and "lists.parquet is a folder" in finished.message


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("rec_index", ["--auto.k=3"], "--auto choose an index, and factory=Flat is chosen"),
        ("rec_index", ["--factory=auto", "--auto.k=0"], "k is 0; it must be at least 1"),
        ("rec_index", ["--at=2020-10-01"], "and none are made here"),
        ("rec_index", ["--at=2020-10-01", "--users=true"], "at='2020-10-01' cannot act"),
        ("rec_recommend", ["--users_at_once=0"], "users_at_once is 0; it must be at least 1"),
        ("rec_recommend", ["--search.nprobe=2"], "nprobe cannot act on an index 'Flat'"),
        ("rec_recommend", ["--index=false", "--mapped=true"], "is searched without an index"),
        ("rec_recommend", ["--index=false", "--search.nprobe=2"], "and there is none"),
        ("rec_recommend", ["--mapped=true", "--index_device=cuda"], "a mapped index stays on disk"),
    ],
)
def test_settings_that_cannot_act_are_refused(
    world: World, command: str, arguments: list[str], words: str
) -> None:
    finished = run(command, "--run", world.finetuned, *arguments)
    assert finished.status == 2 and words in " ".join(finished.message.split()), finished.err
