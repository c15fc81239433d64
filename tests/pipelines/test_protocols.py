"""Other protocols than the usual one, through the commands."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from idbert.inputs.vocabulary import Vocabulary
from pipelines import reporting
from tests.pipelines.commands import TINY, run, succeed
from tests.pipelines.conftest import World
from tests.worlds import cycle_world


def test_the_evaluation_leaves_ease_out_where_it_is_told_to(world: World, copied: Path) -> None:
    finished = succeed("rec_evaluate", "--run", copied, "--baselines.ease_max_items=11")
    assert "| EASE" not in finished.out and "EASE is left out" in finished.err


def test_longer_lists_are_measured_where_they_are_asked_for(world: World, copied: Path) -> None:
    out = succeed("rec_evaluate", "--run", copied, "--cutoffs=[50,3]").out
    assert re.search(r"\| +\| NDCG@3 +\| Recall@3 +\| NDCG@50 +\| Recall@50 +\|", out)
    found = json.loads((copied / "metrics.json").read_text())["test"]["popularity"]["metrics"]
    assert found["recall@3"] < 1 == found["recall@50"], "all of the few items are in 50"
    assert found["recall@1"] <= found["recall@3"] <= found["recall@5"]


def test_a_run_that_is_called_as_a_baseline_is_told_from_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(reporting, "device_type", lambda device: asked.append(device) or "cpu")
    folder = Path(shutil.copytree(world.finetuned, tmp_path / "popularity"))
    expected = json.loads((folder / "metrics.json").read_text())["validation"]
    out = succeed("rec_evaluate", "--run", folder, "--part=validation").out
    assert re.search(r"\| popularity \(run\) +\| [01].*\n\| popularity +\| 0", out)
    found = json.loads((folder / "metrics.json").read_text())["validation"]
    assert found["popularity (run)"]["metrics"] == expected["finetuned"]["metrics"]
    assert found["popularity"]["metrics"] == expected["popularity"]["metrics"]
    assert asked == ["auto"], "it is evaluated where it was trained"


@pytest.mark.parametrize("name", ["leave_last_out", "global_time"])
def test_several_targets_a_user_are_evaluated_with_users_as_clusters(
    name: str, world: World, tmp_path: Path
) -> None:
    split = ("--split.targets=2", f"--split.name={name}")
    log, folder = tmp_path / "log", tmp_path / "run"
    succeed("rec_prepare", "--run", log, f"--data.source={world.log}", *split)
    succeed("rec_pretrain", "--run", folder, f"--data.source={world.log}", *split, *TINY)
    succeed("rec_pretrain", "--run", tmp_path / "mapped", f"--data.source={log}", *TINY)
    figures = [json.loads((tmp_path / of / "metrics.json").read_text()) for of in ("run", "mapped")]
    assert figures[0]["validation"]["run"] == figures[1]["validation"]["mapped"]
    for baseline in ("popularity", "recent popularity", "item-kNN", "EASE", "EASE, decayed"):
        assert figures[0]["validation"][baseline] == figures[1]["validation"][baseline]
    protocol = figures[0]["validation"]["run"]["protocol"]
    assert protocol["users"] < protocol["targets"] <= 2 * protocol["users"]
    out = succeed("rec_evaluate", "--run", folder).out
    words = "leave-last-2-out" if name == "leave_last_out" else "global-time, up to 2 events a user"
    assert out.startswith(f"{words}, test; ") and "means over users of means over targets" in out
    report = (folder / "report.html").read_text()
    assert report.count("<h3>User ") == 5 and words in report


@pytest.mark.parametrize("command", ["rec_pretrain", "rec_finetune"])
def test_until_the_test_the_validation_targets_are_trained_on_too(
    command: str, world: World, tmp_path: Path
) -> None:
    until = "--split.train_until=test"
    source, log = f"--data.source={world.log}", tmp_path / "log"
    more = (until, "--training.patience=null", *TINY)
    usual = ("--training.patience=null", *TINY)
    succeed("rec_prepare", "--run", log, source, until)
    succeed(command, "--run", tmp_path / "usual", source, *usual)
    succeed(command, "--run", tmp_path / "run", source, *more)
    succeed(command, "--run", tmp_path / "mapped", f"--data.source={log}", *more)
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    mapped = json.loads((tmp_path / "mapped" / "metrics.json").read_text())
    assert list(figures) == ["test"] and figures["test"]["run"] == mapped["test"]["mapped"]
    words = figures["test"]["run"]["protocol"]["split"]
    assert words == "leave-last-out, validation trained on too, test"
    curve = json.loads((tmp_path / "run" / "curve.json").read_text())
    assert all("ndcg@10" not in point for point in curve)
    counts = [Vocabulary.load(tmp_path / of).counts_V.sum() for of in ("usual", "run", "mapped")]
    users = figures["test"]["run"]["protocol"]["users"]
    assert counts == [counts[0], counts[0] + users, counts[0] + users]
    refused = run("rec_evaluate", "--run", tmp_path / "run", "--part=validation")
    assert refused.status == 2 and "was trained on the validation part too" in refused.message
    for folder, ours in ((log, "validation"), (tmp_path / "usual-log", "test")):
        if folder != log:
            succeed("rec_prepare", "--run", folder, source)
        other = (f"--split.train_until={ours}", f"--data.source={folder}", *usual)
        refused = run(command, "--run", tmp_path / "other", *other)
        assert refused.status == 2 and f"and {ours} is asked for" in refused.message
    both = ("rec_evaluate", "--run", tmp_path / "run", f"--compare=[{tmp_path / 'usual'}]")
    refused = run(*both)
    assert refused.status == 2 and "split settings differ" in refused.message


@pytest.mark.parametrize("command", ["rec_pretrain", "rec_finetune"])
def test_a_model_may_be_trained_on_the_whole_log(
    command: str, world: World, tmp_path: Path
) -> None:
    until, usual = "--split.train_until=end", ("--training.patience=null", *TINY)
    source, log, folder = f"--data.source={world.log}", tmp_path / "log", tmp_path / "run"
    succeed("rec_prepare", "--run", log, source, until)
    for name, of in (("run", source), ("mapped", f"--data.source={log}")):
        succeed(command, "--run", tmp_path / name, of, until, *usual)
    weights = [(tmp_path / of / "model/model.safetensors").read_bytes() for of in ("run", "mapped")]
    assert weights[0] == weights[1]
    assert Vocabulary.load(folder).counts_V.sum() == len(pd.read_csv(world.log))
    assert not (folder / "metrics.json").exists()
    report = (folder / "report.html").read_text()
    assert report.count("<h3>User ") == 5 and "all of the log was trained on" in report
    assert "Held out" not in report and "Against the baselines" not in report
    assert "nothing is left to do" in succeed(command, "--run", folder, source, until, *usual).err
    for part in ("validation", "test"):
        refused = run("rec_evaluate", "--run", folder, f"--part={part}")
        assert refused.status == 2 and "was trained on the whole log" in refused.message
    if command == "rec_finetune":
        times = ("--model.time_bias.name=log", "--model.time_bias.query_time=true", *usual)
        succeed(command, "--run", tmp_path / "timed", source, until, *times)
        assert (tmp_path / "timed/report.html").read_text().count("<h3>User ") == 5
    succeed("rec_index", "--run", folder)
    assert "rank" in succeed("rec_recommend", "--run", folder, "--users=1", "--k=2").out


@pytest.mark.parametrize("command", ["rec_pretrain", "rec_finetune"])
def test_scores_follow_what_is_popular_lately(command: str, tmp_path: Path) -> None:
    log = cycle_world(num_users=40)
    hour = log.groupby("user_id").cumcount()
    late = log.assign(user_id=log["user_id"] + 100, item_id="item 02")[hour < 3]
    log["timestamp"] = 1_600_000_000 + 3_600 * hour
    late["timestamp"] = 1_700_000_000 + 3_600 * hour[hour < 3]
    pd.concat([log, late]).to_csv(tmp_path / "log.csv", index=False)
    source = f"--data.source={tmp_path / 'log.csv'}"
    plain = tmp_path / "plain"
    succeed(command, "--run", plain, source, *TINY)
    recent = "--popularity.recent_days=2"
    succeed("rec_prepare", "--run", tmp_path / "log", source)
    for name, of in (("run", source), ("mapped", f"--data.source={tmp_path / 'log'}")):
        succeed(command, "--run", tmp_path / name, of, recent, *TINY)
    run_, mapped = tmp_path / "run", tmp_path / "mapped"
    weights = [(of / "model/model.safetensors").read_bytes() for of in (run_, mapped)]
    assert weights[0] == weights[1]
    first = []
    for of in (plain, run_):
        succeed("rec_index", "--run", of)
        lists = tmp_path / f"{of.name}.csv"
        succeed("rec_recommend", "--run", of, "--filter_seen=false", "--k=1", "--output", lists)
        first.append((pd.read_csv(lists)["item_id"] == "item 02").mean())
    assert first[0] < 0.5 and first[1] == 1.0
    nobody = succeed("rec_recommend", "--run", run_, "--items=new", "--k=1")
    assert "item 02" in nobody.out and "got the most popular ones" in nobody.err


def test_early_stopping_by_a_part_that_is_trained_on_is_refused(
    world: World, tmp_path: Path
) -> None:
    command = ("rec_finetune", "--run", tmp_path / "run", f"--data.source={world.log}")
    refused = run(*command, "--split.train_until=test", *TINY)
    assert refused.status == 2 and "training.patience=5 cannot act" in refused.message
    assert not (tmp_path / "run").exists()


def test_more_targets_than_the_users_have_events_are_refused(world: World, tmp_path: Path) -> None:
    refused = run(
        *("rec_pretrain", "--run", tmp_path, f"--data.source={world.log}", "--split.targets=5")
    )
    assert refused.status == 1
    assert re.search("none of the 64 users has 11 events.*lower split.targets", refused.message)


def test_sessions_of_a_log_without_times_are_refused(tmp_path: Path) -> None:
    log = cycle_world(num_users=9)
    log["timestamp"] = log.groupby("user_id").cumcount()
    log.to_csv(tmp_path / "log.csv", index=False)
    command = ("rec_pretrain", "--run", tmp_path / "run", f"--data.source={tmp_path / 'log.csv'}")
    refused = run(*command, "--sequences.session_gap_s=60", *TINY)
    assert refused.status == 1 and "Leave session_gap_s out" in refused.message
