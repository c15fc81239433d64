"""A search: what it proposes, what it ends early, how it goes on, and what it refuses."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from idbert.run_dir import RunDir
from idbert.training.curve import curve_so_far
from pipelines import ablation_runs, tuning_runs
from pipelines.cli import UNFINISHED
from pipelines.rec_pretrain import RecPretrainSettings
from tests.pipelines import commands
from tests.worlds import cycle_world

RATE, LAYERS = "training.learning_rate", "model.num_layers"
RANGES = {
    RATE: {"low": 1e-4, "high": 1e-1, "log": True},
    LAYERS: {"low": 1, "high": 4},
    "fusion": {"alternatives": {"own": {}, "last": {"model.fusion.name": "last"}}},
}
BASE = {"training": {"learning_rate": 0.001, "seed": 3}, "model": {"num_layers": 2}}
EVALUATIONS = 4


class Pretended:
    """In place of trainings: figures that follow from the settings, best at a rate of 0.01.

    Attributes:
        folders: of the trials that were started.
        statuses: of the trials by folder, where they do not succeed.
        kept_in: the folder of the checkpoints.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folders: list[str] = []
        self.statuses: dict[str, int] = {}
        self.kept_in = "checkpoints"
        self._curve: list[dict[str, float]] = []
        monkeypatch.setattr(ablation_runs, "start", self.start)
        monkeypatch.setattr(tuning_runs, "curve_so_far", self.curve_so_far)

    def curve_so_far(self, checkpoints):
        """Return the points, of one folder alone."""
        return self._curve if checkpoints.name == self.kept_in else []

    def start(self, pipeline, arguments, log, is_enough):
        config, folder = Path(arguments[1]), Path(arguments[3])
        self.folders.append(folder.name)
        settings = yaml.safe_load(config.read_text())
        log.write_text("what it said\n")
        if folder.name in self.statuses:
            return self.statuses[folder.name]
        run = RunDir.create(folder, pipeline, settings)
        value = -abs(math.log10(settings["training"]["learning_rate"]) + 2)
        value += 0.01 * settings["model"]["num_layers"]
        self._curve = []
        for place in range(EVALUATIONS):
            metric = value - 1 / (place + 1)
            point = {"epoch": place + 1.0, "loss": place, "ndcg@10": metric}
            point |= {"validation_loss": -metric}
            self._curve = [*self._curve, point]
            if is_enough is not None and is_enough():
                return UNFINISHED
        run.write_json("curve.json", self._curve)
        run.write_text("report.html", "")
        run.finish(["config.yaml"])
        return 0


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return Pretended(monkeypatch)


def write_search(folder: Path, **changes: object) -> Path:
    search = {"run": str(folder / "search"), "base": BASE, "ranges": RANGES, "startup": 4}
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(search | changes))
    return path


def trials(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "search" / "trials.csv")


def test_real_trainings_are_searched_and_their_curves_are_read_while_they_run(
    tmp_path, monkeypatch
):
    cycle_world(num_users=24).to_csv(tmp_path / "log.csv", index=False)
    curves = []

    def start(pipeline, arguments, log, is_enough):
        finished = commands.run(pipeline, *arguments)
        log.write_text(finished.err)
        checkpoints = RunDir(Path(arguments[-1])).checkpoints
        curves.append([point["ndcg@10"] for point in curve_so_far(checkpoints)])
        is_enough()
        return finished.status

    monkeypatch.setattr(ablation_runs, "start", start)
    base = {
        "data.source": str(tmp_path / "log.csv"),
        "model.hidden_size": 8,
        "batches.token_budget": 200,
        "training": {"epochs": 3, "evaluate_every": 1},
    }
    ranges = {RATE: RANGES[RATE]}
    finished = commands.succeed("tune", write_search(tmp_path, base=base, ranges=ranges, trials=2))
    assert finished.out == f"{tmp_path / 'search' / 'best.yaml'}\n"
    table = trials(tmp_path)
    for number, curve in enumerate(curves):
        assert len(curve) == 3
        written = RunDir(tmp_path / "search" / f"trial-{number:03d}").read_json("curve.json")
        assert curve == [point["ndcg@10"] for point in written]
        assert table["ndcg@10"][number] == max(curve)
    assert table[RATE][0] == RecPretrainSettings().training.learning_rate, "its own comes first"


def test_the_best_settings_are_a_recipe_and_everything_is_shown(tmp_path, pretended):
    commands.succeed("tune", write_search(tmp_path, trials=25, pruning="none"))
    table = trials(tmp_path)
    assert len(table) == 25
    assert table["state"].unique().tolist() == ["finished"]
    first = table.iloc[0]
    assert (first[RATE], first[LAYERS], first["fusion"]) == (0.001, 2, "own")
    best = table.loc[table["ndcg@10"].idxmax()]
    assert 0.004 < best[RATE] < 0.025, "tpe did not come near the best rate"
    text = (tmp_path / "search" / "best.yaml").read_text()
    recipe = yaml.safe_load(text)
    assert recipe["training"] == {"learning_rate": best[RATE], "seed": 3, "metric": "ndcg@10"}
    assert recipe["model"]["num_layers"] == best[LAYERS]
    assert ("fusion" in recipe["model"]) == (best["fusion"] == "last")
    assert f"trial {best['trial']}, ndcg@10 {best['ndcg@10']:.4f}" in text
    page = (tmp_path / "search" / "search.html").read_text()
    assert page.count("<svg") == 3
    assert "The base has" in page
    assert "Share of each setting" in page
    assert not re.search("(src|href)=", page.replace("xlink:href", "")), "something is loaded"
    markdown = (tmp_path / "search" / "search.md").read_text()
    assert "| training.learning_rate | 0.0001 to 0.1, logarithmic |" in markdown
    assert markdown.count("| finished |") == 25


def test_a_search_goes_on_as_if_it_had_not_been_stopped(tmp_path, pretended):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    commands.succeed("tune", write_search(whole, trials=9))
    pretended.folders.clear()
    path = write_search(parts, trials=9)
    pretended.statuses = {"trial-005": UNFINISHED}
    stopped = commands.run("tune", path)
    assert stopped.status == UNFINISHED
    assert "trial-005 was stopped, or another process is at work in it" in stopped.err
    assert len(trials(parts)) == 5
    pretended.statuses = {}
    commands.succeed("tune", path, "--trials=7")
    commands.succeed("tune", path)
    assert pretended.folders.count("trial-005") == 2
    compared = ["state", RATE, LAYERS, "fusion"]
    pd.testing.assert_frame_equal(trials(parts)[compared], trials(whole)[compared])
    pretended.folders.clear()
    commands.succeed("tune", path)
    assert not pretended.folders


def test_a_finished_run_whose_value_was_not_told_is_not_trained_again(
    tmp_path, pretended, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    path = write_search(tmp_path, trials=1)
    with monkeypatch.context() as patched:
        patched.setattr(tuning_runs, "read_curve", stop)
        assert commands.run("tune", path).status == 130
    commands.succeed("tune", path)
    assert pretended.folders == ["trial-000"]
    assert trials(tmp_path)["state"].tolist() == ["finished"]


def test_a_line_that_was_half_written_is_dropped(tmp_path, pretended):
    path = write_search(tmp_path, trials=2)
    commands.succeed("tune", path, "--trials=1")
    with (tmp_path / "search" / "trials.jsonl").open("a") as journal:
        journal.write('{"op_code":4,"worker')
    commands.succeed("tune", path)
    commands.succeed("tune", path, "--trials=3")
    assert trials(tmp_path)["state"].tolist() == ["finished"] * 3


@pytest.mark.parametrize("kept_in", ["checkpoints", "model"])
def test_bad_trials_are_ended_early_and_good_ones_are_not(tmp_path, pretended, kept_in):
    pretended.kept_in = kept_in
    commands.succeed("tune", write_search(tmp_path, trials=20, sampler="random"))
    table = trials(tmp_path)
    assert (table["state"][:4] == "finished").all()
    ended = table[table["state"] == "ended early"]
    assert 4 < len(ended) < 16
    assert (ended["evaluations"] == 2).all(), "one evaluation is given to each"
    finished = table[table["state"] == "finished"]
    distance = (table[RATE].map(math.log10) + 2).abs()
    assert distance[ended.index].min() > distance[finished.index][4:].max() - 0.05
    for number in ended["trial"]:
        assert not (tmp_path / "search" / f"trial-{number:03d}" / "checkpoints").exists()


def test_a_trial_that_fails_is_passed_over_and_a_wrong_setting_is_not(tmp_path, pretended):
    pretended.statuses = {"trial-001": 1}
    path = write_search(tmp_path, trials=4)
    finished = commands.succeed("tune", path)
    assert "It counts as failed, and the search goes on." in finished.err
    states = trials(tmp_path)["state"].tolist()
    assert states == ["finished", "failed", "finished", "finished"]
    pretended.statuses = {"trial-004": 2}
    finished = commands.run("tune", path, "--trials=5")
    assert finished.status == 2
    assert "trial-004 failed" in finished.message


def test_a_search_whose_first_trials_all_fail_ends(tmp_path, pretended):
    pretended.statuses = {f"trial-{number:03d}": 1 for number in range(9)}
    finished = commands.run("tune", write_search(tmp_path, trials=9))
    assert finished.status == 1
    assert pretended.folders == ["trial-000", "trial-001", "trial-002"]
    assert "what it said" in finished.message


def test_a_search_of_which_all_trials_failed_begins_anew_with_mended_settings(tmp_path, pretended):
    pretended.statuses = {f"trial-{number:03d}": 1 for number in range(9)}
    commands.run("tune", write_search(tmp_path, trials=2))
    pretended.statuses = {}
    mended = {**BASE, "data": {"source": "log.csv"}}
    commands.succeed("tune", write_search(tmp_path, trials=2, base=mended))
    assert pretended.folders == ["trial-000", "trial-001"] * 2
    assert trials(tmp_path)["state"].tolist() == ["finished"] * 2


def test_a_search_with_other_ranges_is_another_search(tmp_path, pretended):
    commands.succeed("tune", write_search(tmp_path, trials=1))
    ranges = {**RANGES, LAYERS: {"low": 1, "high": 3}}
    finished = commands.run("tune", write_search(tmp_path, trials=2, ranges=ranges))
    assert finished.status == 2
    assert "holds a search with another ranges" in finished.message
    assert pretended.folders == ["trial-000"]


def test_a_loss_is_that_of_the_validation_part_and_best_where_it_is_smallest(tmp_path, pretended):
    search = write_search(tmp_path, trials=12, metric="loss", sampler="random")
    commands.succeed("tune", search)
    table = trials(tmp_path)
    finished = table[table["state"] == "finished"]
    best = yaml.safe_load((tmp_path / "search" / "best.yaml").read_text())
    nearest = (finished[RATE].map(math.log10) + 2).abs() - 0.01 * finished[LAYERS] + 0.25
    assert finished["loss"].tolist() == pytest.approx(nearest.tolist())
    assert best["training"]["learning_rate"] == finished[RATE][finished["loss"].idxmin()]
    ended = table[table["state"] == "ended early"]
    assert len(ended) and ended[RATE].map(lambda rate: abs(math.log10(rate) + 2)).min() > 0.3


def test_no_value_may_be_a_choice(tmp_path, pretended):
    ranges = {"training.clip_norm": {"choices": [None, 1.0, 5.0]}}
    base = {"training": {"learning_rate": 0.001, "clip_norm": None}, "model": {"num_layers": 2}}
    commands.succeed("tune", write_search(tmp_path, trials=6, ranges=ranges, base=base))
    assert trials(tmp_path)["training.clip_norm"].isna().any()
    assert "None" in (tmp_path / "search" / "search.html").read_text()
