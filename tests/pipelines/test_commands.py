"""The commands, one after the other, on a log whose right answer is known."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from idbert.inputs.vocabulary import Vocabulary
from idbert.retrieval.histories import read_histories
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.recommender import Recommender
from idbert.run_dir import RunDir
from tests.pipelines.commands import SMALL, TINY, run, succeed, weights
from tests.pipelines.conftest import World
from tests.worlds import cycle_world, next_in_cycle

ODD_ITEMS = ["007", "7", "a,b", 'say "hi"', "two\nlines", "电影", " padded ", "null?", "x", "y"]
ODD_USERS = ["001", "1", "用户,一", 'the "u"', "line\nbreak"]


def recommendations(*arguments: object, path: Path) -> pd.DataFrame:
    """Run rec_recommend into a file and read it, ids as text."""
    succeed("rec_recommend", *arguments, "--output", path)
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, dtype={"user_id": str, "item_id": str}, keep_default_na=False)


def test_the_withheld_item_is_recommended_first(world: World, tmp_path: Path) -> None:
    last = world.events.groupby("user_id").tail(1)
    world.events.drop(last.index).to_csv(tmp_path / "before.csv", index=False)
    table = recommendations(
        *("--run", world.finetuned, "--histories", tmp_path / "before.csv", "--k", 1),
        path=tmp_path / "best.csv",
    )
    assert table["item_id"].tolist() == last["item_id"].tolist()


def test_the_evaluation_prints_both_stages_and_the_baselines(world: World) -> None:
    finished = succeed(
        "rec_evaluate", "--run", world.finetuned, "--compare", f"[{world.pretrained}]"
    )
    rows = [line.split("|") for line in finished.out.splitlines() if line.startswith("|")]
    names = [row[1].strip() for row in rows[2:]]
    assert names[:3] == ["finetuned", "pretrained", "popularity"]
    assert {"recent popularity", "item-kNN", "item-kNN, decayed", "EASE"} <= set(names)
    assert rows[2][2].split() == ["1.0000", "[1.0000,", "1.0000]"]
    assert "leave-last-out, test; 64 users" in finished.out
    assert "seen items filtered" in finished.out
    metrics = json.loads((world.finetuned / "metrics.json").read_text())
    assert set(metrics) == {"validation", "test"}
    found = {name: of["metrics"] for name, of in metrics["test"].items()}
    assert all({"diversity@10", "serendipity@10"} <= set(of) for of in found.values())
    assert found["popularity"]["serendipity@10"] == 0 < found["finetuned"]["diversity@10"]


def test_runs_before_and_after_a_change_of_the_log_are_not_compared(
    world: World, tmp_path: Path
) -> None:
    log = tmp_path / "log.csv"
    world.events.to_csv(log, index=False)
    data = f"--data.source={log}"
    succeed("rec_pretrain", "--run", tmp_path / "before", data, *TINY)
    item = world.events["item_id"].max()
    more = pd.DataFrame({"user_id": range(900, 930), "item_id": item, "timestamp": 2_000_000_000})
    pd.concat([world.events, more]).to_csv(log, index=False)
    succeed("rec_pretrain", "--run", tmp_path / "after", data, *TINY)
    finished = run(
        "rec_evaluate", "--run", tmp_path / "after", "--compare", f"[{tmp_path / 'before'}]"
    )
    assert finished.status == 2 and "knows another catalogue" in finished.message


def test_without_a_file_the_first_users_are_shown_and_the_others_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    read = Recommender.recommend_batches
    monkeypatch.setattr(
        *(Recommender, "recommend_batches"),
        lambda self, histories, *of, **options: (
            asked.append(histories) or read(self, histories, *of, **options)
        ),
    )
    out = succeed("rec_recommend", "--run", world.finetuned, "--k=1").out
    assert out.count("newest events:") == 20 and "... and 44 more; --output FILE" in out
    assert len(asked[0].user_offsets()) == 20 + 1


def test_two_runs_of_one_name_both_stand_in_the_table(world: World, tmp_path: Path) -> None:
    twin = shutil.copytree(world.finetuned, tmp_path / "finetuned")
    out = succeed("rec_evaluate", "--run", world.finetuned, "--compare", f"[{twin}]").out
    assert f"| {world.finetuned} " in out and f"| {twin} " in out


def test_a_run_folder_holds_everything(world: World) -> None:
    names = "config.yaml data_files.json vocabulary.parquet model curve.json metrics.json index"
    assert {*names.split(), "report.html", "run.json", "checkpoints"} == set(
        os.listdir(world.finetuned)
    )
    report = (world.finetuned / "report.html").read_text()
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?https?:""", report)
    last = json.loads((world.finetuned / "curve.json").read_text())[-1]
    assert last["epoch"] == 10 and {"loss", "ndcg@10"} <= last.keys()


def test_the_config_of_a_run_given_back_makes_the_same_weights(
    world: World, tmp_path: Path
) -> None:
    config = world.finetuned / "config.yaml"
    succeed("rec_finetune", "--config", config, "--run", tmp_path / "again")
    assert weights(tmp_path / "again") == weights(world.finetuned)
    assert (tmp_path / "again" / "config.yaml").read_text() == config.read_text()


def test_csv_and_parquet_make_the_same_weights(world: World, from_parquet: Path) -> None:
    assert weights(from_parquet) == weights(world.pretrained)


def test_the_printed_config_is_the_config_of_the_run(world: World) -> None:
    config = world.pretrained / "config.yaml"
    printed = run("rec_pretrain", "--config", config, "--print_config").out
    assert yaml.safe_load(printed) == {
        "run": "runs/rec_pretrain",
        **yaml.safe_load(config.read_text()),
    }


@pytest.mark.parametrize("command", ["rec_pretrain", "rec_finetune"])
def test_a_finished_run_is_left_alone_and_says_so(
    world: World, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = {"rec_pretrain": world.pretrained, "rec_finetune": world.finetuned}[command]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr("pipelines.corridor.read_interactions", lambda *_: pytest.fail("slow"))
    finished = succeed(command, "--config", folder / "config.yaml", "--run", folder)
    assert f"{folder} is finished already; nothing is left to do" in finished.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_next_weeks_training_starts_from_this_weeks_items(world: World, tmp_path: Path) -> None:
    renamed = world.events.replace("item 03", "item 99")
    renamed.to_csv(tmp_path / "next.csv", index=False)
    data = (f"--data.source={tmp_path / 'next.csv'}", *SMALL, "--training.max_steps=1")
    slow = ("--training.learning_rate=1e-9", "--pretrained", world.finetuned)
    finished = succeed("rec_finetune", "--run", tmp_path / "next", *data, *slow)
    assert "11 of 12 items start as" in finished.err
    opened = {"then": world.finetuned, "now": tmp_path / "next"}
    vectors = {
        name: dict(
            zip(found.vocabulary.ids.to_pylist(), found.model.item_vectors()[4:], strict=True)
        )
        for name, found in ((name, Recommender.load(path)) for name, path in opened.items())
    }
    assert "item 99" in vectors["now"] and "item 03" not in vectors["now"]
    for item in vectors["then"].keys() & vectors["now"].keys():
        assert abs(vectors["then"][item] - vectors["now"][item]).max() < 1e-4


def test_a_log_that_has_changed_is_not_passed_off_as_trained_on(tmp_path: Path) -> None:
    events = cycle_world()
    log, folder = tmp_path / "log.csv", tmp_path / "run"
    events.to_csv(log, index=False)
    command = ("rec_finetune", "--run", folder, f"--data.source={log}", *TINY)
    succeed(*command)
    os.utime(log)  # the same content
    assert "nothing is left to do" in succeed(*command).err
    assert "has changed since" not in succeed("rec_evaluate", "--run", folder).err
    events.iloc[:-1].to_csv(log, index=False)
    refused = run(*command)
    assert refused.status == 2
    assert "its data have changed since. Name another folder with --run" in refused.message
    assert "has changed since" in succeed("rec_evaluate", "--run", folder).err
    log.unlink()
    assert "nothing is left to do" in succeed(*command).err


def test_repeats_are_ranked_where_seen_items_are_not_left_out(tmp_path: Path) -> None:
    cycle_world(num_items=5).to_csv(tmp_path / "log.csv", index=False)
    command = ("rec_finetune", f"--data.source={tmp_path / 'log.csv'}", *TINY)
    filtered = succeed(*command, "--run", tmp_path / "filtered")
    whole = succeed(*command, "--run", tmp_path / "whole", "--filter_seen", "false")
    said = "% of the targets of the validation part repeat an item of their history"
    assert said in filtered.err and said not in whole.err
    best = {}
    for name, words in (("filtered", "seen items filtered"), ("whole", "seen items not filtered")):
        assert words in (tmp_path / name / "report.html").read_text()
        curve = json.loads((tmp_path / name / "curve.json").read_text())
        best[name] = max(point["ndcg@10"] for point in curve if "ndcg@10" in point)
        evaluated = json.loads((tmp_path / name / "metrics.json").read_text())["validation"][name]
        assert evaluated["metrics"]["ndcg@10"] == pytest.approx(best[name])
    # Of five items a walker has seen all: a repeat is alone in its ranking.
    assert best["filtered"] > best["whole"]


def test_a_missing_report_is_written_without_training_again(copied: Path) -> None:
    (copied / "report.html").unlink()
    trained = weights(copied)
    finished = succeed("rec_finetune", "--config", copied / "config.yaml", "--run", copied)
    assert f"{copied} is finished: {copied / 'report.html'}" in finished.err
    assert (copied / "report.html").exists() and weights(copied) == trained
    assert "step " not in finished.err


def test_a_damaged_run_is_mended_from_its_checkpoint(world: World, copied: Path) -> None:
    (copied / "model" / "model.safetensors").unlink()
    finished = succeed("rec_finetune", "--config", copied / "config.yaml", "--run", copied)
    assert "model.safetensors is missing" in finished.err
    assert weights(copied) == weights(world.finetuned)


def test_other_settings_in_the_same_folder_are_refused(world: World) -> None:
    before = weights(world.pretrained)
    config = world.pretrained / "config.yaml"
    finished = run(
        *("rec_pretrain", "--config", config, "--run", world.pretrained, "--training.seed", 5)
    )
    assert finished.status == 2
    assert "other settings (1 differ): training.seed is 0 there and 5 here" in finished.message
    assert weights(world.pretrained) == before


def test_a_misspelt_column_is_mended_by_the_same_command_with_the_right_one(
    world: World, tmp_path: Path
) -> None:
    arguments = ("--run", tmp_path / "run", f"--data.source={world.log}", *TINY)
    failed = run("rec_pretrain", *arguments, "--data.user_column=usr_id")
    assert failed.status == 1 and "Did you mean 'user_id'?" in failed.message
    succeed("rec_pretrain", *arguments)


def test_a_training_stopped_by_sigterm_resumes_to_the_same_weights(
    world: World, tmp_path: Path
) -> None:
    settings = (f"--data.source={world.log}", *SMALL, "--training.epochs=50")
    command = ("--run", str(tmp_path / "stopped"), *settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.rec_finetune", *command, "--training.log_every_steps=1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " step 3 of " in line:
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Stopped by SIGTERM after step" in err and "The same command resumes there." in err
    assert "Traceback" not in err
    assert not (tmp_path / "stopped" / "model").exists()
    unfinished = run("rec_index", "--run", tmp_path / "stopped")
    assert unfinished.status == 1 and "training has not finished" in unfinished.message

    resumed = succeed("rec_finetune", *command, "--training.log_every_steps=1")
    assert "resuming from" in resumed.err
    succeed("rec_finetune", "--run", tmp_path / "whole", *settings, "--training.log_every_steps=1")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


@pytest.fixture(scope="module")
def rich_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with what was done and how much it counts, spread over time."""
    events = cycle_world()
    places = events.groupby("user_id").cumcount()
    events["timestamp"] += events["user_id"] * 1000
    path = tmp_path_factory.mktemp("rich") / "log.csv"
    events.assign(
        action=["buy" if place % 3 == 2 else "view" for place in places],
        amount=0.5 + places % 4,
    ).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("settings", "saved"),
    [
        (
            "--model.kind=nezha --sequences.max_length=null --loss.name=full",
            {"encoder_kind": "nezha", "max_position_embeddings": None, "loss": "full"},
        ),
        (
            "--model.norm=pre --model.fusion.name=gate --data.weight_column=amount",
            {"norm": "pre", "fusion": "gate"},
        ),
        (
            "--split.name=global_time --model.fusion.name=mean --model.fusion.layers=[1,2]",
            {"fusion": "mean", "fusion_layers": [1, 2]},
        ),
        (
            "--data.behaviour_column=action --model.fusion.name=softmax"
            " --model.position_origin=oldest",
            {"fusion": "softmax", "type_vocab_size": 2, "position_origin": "oldest"},
        ),
    ],
    ids=["nezha, full loss", "pre-norm, gate, weights", "global time, mean", "behaviours, softmax"],
)
def test_every_kind_of_model_and_log_goes_through_the_corridor(
    settings: str, saved: dict[str, object], rich_log: Path, tmp_path: Path
) -> None:
    data = (f"--data.source={rich_log}", *TINY, *settings.split())
    pretrained, finetuned = tmp_path / "pretrained", tmp_path / "finetuned"
    succeed("rec_pretrain", "--run", pretrained, *data)
    succeed("rec_finetune", "--run", finetuned, "--pretrained", pretrained, *data)
    for folder in (pretrained, finetuned):
        config = json.loads((folder / "model" / "config.json").read_text())
        assert {name: config[name] for name in saved} == saved
    if "softmax" in settings:
        assert "layer 2" in (finetuned / "report.html").read_text()
    succeed("rec_index", "--run", finetuned, "--users=true")
    out = succeed("rec_evaluate", "--run", finetuned).out
    assert ("global-time, test" if "global_time" in settings else "leave-last-out, test") in out
    table = recommendations("--run", finetuned, "--k", 2, path=tmp_path / "best.parquet")
    assert table.groupby("user_id").size().tolist() == [2] * 64


def test_the_reports_examples_are_asked_for_with_their_behaviours(
    rich_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, recommend = [], Recommender.recommend

    def spy(self: Recommender, histories: Any, *more: Any, **named: Any) -> pd.DataFrame:
        asked.append(read_histories(histories, self.vocabulary))
        return recommend(self, histories, *more, **named)

    monkeypatch.setattr(Recommender, "recommend", spy)
    data = (f"--data.source={rich_log}", "--data.behaviour_column=action", *TINY)
    succeed("rec_pretrain", "--run", tmp_path / "run", *data)
    (histories,) = asked
    behaviours = Vocabulary.load(tmp_path / "run").behaviours
    known = histories.behaviours_T[: histories.lengths[0]]
    words = ["buy" if place % 3 == 2 else "view" for place in range(len(known))]
    assert [behaviours[row] for row in known] == words


def test_the_users_index_holds_every_user_of_the_log(world: World, copied: Path) -> None:
    succeed("rec_index", "--run", copied, "--users=true", "--factory=HNSW8")
    index = VectorIndex.load(copied / "user_index", RunDir(copied).model_sha256)
    assert index.ids.to_pylist() == world.events["user_id"].drop_duplicates().tolist()


def test_an_index_that_is_built_again_takes_the_place_of_the_old_one(copied: Path) -> None:
    succeed("rec_index", "--run", copied, "--factory=HNSW8")
    manifest = json.loads((copied / "index" / "manifest.json").read_text())
    assert "HNSW8" in manifest.values()
    succeed("rec_recommend", "--run", copied, "--items=item 01", "--k", 1)


def test_users_that_training_never_saw_are_recommended_to(world: World, tmp_path: Path) -> None:
    pd.DataFrame(
        {
            "user_id": ["new", "new", "newer", "strange"],
            "item_id": ["item 03", "item 04", "item 11", "no such item"],
            "timestamp": [1, 2, 3, 4],
        }
    ).to_csv(tmp_path / "new.csv", index=False)
    finished = succeed(
        *("rec_recommend", "--run", world.finetuned, "--histories", tmp_path / "new.csv"),
        *("--k", 1, "--output", tmp_path / "best.csv"),
    )
    best = pd.read_csv(tmp_path / "best.csv").set_index("user_id")["item_id"]
    popular = world.events.groupby("user_id").head(-2)["item_id"].value_counts()
    assert best["new"] == "item 05" and best["newer"] == "item 00"
    assert popular[best["strange"]] == popular.max()
    assert "1 of 4 events skipped: the model does not know their items" in finished.err
    assert "1 of 3 histories hold no known item and got the most popular ones" in finished.err


def test_recommendations_are_printed_with_histories_and_titles(
    world: World, tmp_path: Path
) -> None:
    events = world.events
    out = succeed("rec_recommend", "--run", world.finetuned, "--users=3,5", "--k", 2).out
    assert out.count("newest events:") == 2 and "title" not in out
    newest = events.loc[events["user_id"] == 3, "item_id"].iloc[-1]
    assert f"user_id 3, newest events: item {int(newest[-2:]) - 4:02d}" in out or newest in out
    assert next_in_cycle(newest) in out.split("user_id 5")[0]

    titles = pd.DataFrame({"item_id": sorted(set(events["item_id"]))})
    titles["title"] = titles["item_id"].str.replace("item", "Film No.")
    titles.to_csv(tmp_path / "items.csv", index=False)
    settings = (f"--data.source={world.log}", f"--data.items={tmp_path / 'items.csv'}", *TINY)
    succeed("rec_finetune", "--run", tmp_path / "titled", *settings)
    out = succeed("rec_recommend", "--run", tmp_path / "titled", "--users=3", "--k", 2).out
    assert f"Film No. {newest[-2:]}" in out
    assert "Film No. 0" in (tmp_path / "titled" / "report.html").read_text()


def test_a_history_by_hand_and_an_empty_one(world: World) -> None:
    by_hand = succeed(
        "rec_recommend", "--run", world.finetuned, "--items=item 01,item 02", "--k", 1
    )
    assert "newest events: item 01; item 02" in by_hand.out and "1 item 03" in by_hand.out
    empty = succeed("rec_recommend", "--run", world.finetuned, "--items=", "--k", 1)
    assert "1 of 1 histories hold no known item and got the most popular ones" in empty.err
    assert empty.out.count("item ") == 1


def test_the_allow_and_the_deny_list_hold(world: World, tmp_path: Path) -> None:
    base = ("--run", world.finetuned, "--filter_seen=false", "--k", 2)
    allowed = recommendations(
        *(*base, "--allow=item 03,item 04,no such item"), path=tmp_path / "allowed.csv"
    )
    assert set(allowed["item_id"]) == {"item 03", "item 04"}
    denied = recommendations(*base, "--deny=item 03,item 04", path=tmp_path / "denied.csv")
    frame = pd.DataFrame({"item_id": ["item 03", "item 04", "none"], "stock": [0, 0, 0]})
    frame.to_csv(tmp_path / "no.csv", index=False)
    frame.to_parquet(tmp_path / "no.parquet")
    (tmp_path / "no.txt").write_text("item 03\nitem 04\nnone\n")
    for name in ("no.csv", "no.parquet", "no.txt"):
        by_file = (*base, f"--deny=@{tmp_path / name}")
        assert recommendations(*by_file, path=tmp_path / "by-file.csv").equals(denied)
    said = succeed("rec_recommend", *base, f"--deny=@{tmp_path / 'no.csv'}").err
    assert "1 of 3 denied items are not in the catalogue" in said
    frame.rename(columns={"item_id": "id"}).to_csv(tmp_path / "bad.csv", index=False)
    refused = run("rec_recommend", *base, f"--deny=@{tmp_path / 'bad.csv'}")
    assert refused.status == 1 and "with a column item_id" in refused.message
    assert not {"item 03", "item 04"} & set(denied["item_id"])
    assert len(denied) == 2 * 64


@pytest.fixture(scope="module")
def odd_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The circle again, under names that break careless readers and writers of CSV."""
    folder = tmp_path_factory.mktemp("odd")
    events = cycle_world(len(ODD_USERS), len(ODD_ITEMS), min_length=10)
    events["item_id"] = [ODD_ITEMS[int(item.split()[1])] for item in events["item_id"]]
    events["user_id"] = [ODD_USERS[user] for user in events["user_id"]]
    events.to_csv(folder / "log.csv", index=False)
    succeed("rec_finetune", "--run", folder / "run", f"--data.source={folder / 'log.csv'}", *TINY)
    succeed("rec_index", "--run", folder / "run")
    return folder / "run"


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_odd_ids_come_back_exactly(odd_world: Path, ending: str, tmp_path: Path) -> None:
    table = recommendations(
        *("--run", odd_world, "--k", len(ODD_ITEMS), "--filter_seen=false"),
        path=tmp_path / f"all{ending}",
    )
    assert set(table["user_id"]) == set(ODD_USERS)
    for _, best in table.groupby("user_id"):
        assert sorted(best["item_id"]) == sorted(ODD_ITEMS)


def test_odd_ids_are_understood_on_the_command_line(odd_world: Path, tmp_path: Path) -> None:
    table = recommendations(
        *("--run", odd_world, '--users="用户,一", 001, "line\nbreak","the ""u"""', "--k=3"),
        *("--filter_seen=false", '--allow=电影,"two\nlines","a,b"," padded "', "--deny=电影"),
        path=tmp_path / "best.csv",
    )
    assert set(table["user_id"]) == {"用户,一", "001", "line\nbreak", 'the "u"'}
    assert set(table["item_id"]) == {"two\nlines", "a,b", " padded "}
    finished = succeed("rec_recommend", "--run", odd_world, '--items=007,"say ""hi""",7', "--k=2")
    assert "skipped" not in finished.err
    assert 'newest events: 007; say "hi"; 7' in finished.out


def test_an_item_that_is_no_integer_is_unknown_to_a_catalogue_of_integers(tmp_path: Path) -> None:
    events = cycle_world()
    events["item_id"] = events["item_id"].str[-2:].astype(int)
    events.to_csv(tmp_path / "log.csv", index=False)
    command = ("rec_finetune", "--run", tmp_path / "run", *TINY)
    succeed(*command, f"--data.source={tmp_path / 'log.csv'}")
    (tmp_path / "new.csv").write_text("user_id,item_id,timestamp\na,3,1\na,new,2\nb,new,1\n")
    asked = ("--run", tmp_path / "run", "--histories", tmp_path / "new.csv", "--k", 2)
    table = recommendations(*asked, path=tmp_path / "lists.parquet")
    assert table["user_id"].tolist() == ["a", "a", "b", "b"]
    assert (
        set(table["item_id"]) <= set(events["item_id"]) and 3 not in table["item_id"][:2].tolist()
    )
    assert "1 of 2 items are no integers" in succeed("rec_recommend", *asked).err


def test_text_ids_that_look_like_integers_in_a_short_file_stay_text(
    odd_world: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.csv").write_text("user_id,item_id,timestamp\n12,7,1\n")
    finished = succeed("rec_recommend", "--run", odd_world, "--histories", tmp_path / "short.csv")
    assert "user_id 12, newest events: 7" in finished.out and "skipped" not in finished.err
