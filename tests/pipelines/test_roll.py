"""Windows of time: where they lie, what is trained before each, and what comes out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from idbert import read_interactions
from idbert.inputs.cuts import TimeSplitSettings
from idbert.inputs.splits import global_time_split
from idbert.inputs.vocabulary import Vocabulary
from idbert.run_dir import RunDir
from pipelines import ablation_runs, roll
from tests.pipelines import commands
from tests.worlds import cycle_world

BASE = {
    "model.hidden_size": 8,
    "batches.token_budget": 200,
    "training": {"max_steps": 2, "seed": 5},
}
FIGURES = ["ndcg@10", "recall@10"]


def write_windows(folder: Path, **changes: object) -> Path:
    log = folder / "log.csv"
    if not log.exists():
        cycle_world(num_users=40).to_csv(log, index=False)
    base = BASE | {"data.source": str(log)}
    settings = {"run": str(folder / "rolled"), "windows": 2, "begin": 0.6, "base": base}
    path = folder / "windows.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def test_windows_lie_end_to_end_from_the_beginning_to_the_end_of_the_log():
    config = roll.RollSettings(windows=5, begin=0.5, validation=1.0)
    cuts = [config.cuts(window) for window in range(5)]
    assert cuts[0] == {"validation_from": 0.4, "test_from": 0.5, "test_until": 0.6}
    assert cuts[-1]["test_until"] == 1.0
    for before, after in zip(cuts, cuts[1:], strict=False):
        assert before["test_until"] == after["test_from"]
        assert before["test_from"] == after["validation_from"]
    half = roll.RollSettings(windows=5, begin=0.5).cuts(0)
    assert half == {"validation_from": 0.45, "test_from": 0.5, "test_until": 0.6}


def test_each_window_is_tested_by_a_run_that_was_trained_before_it(tmp_path, monkeypatch):
    trained = []

    def start(pipeline, arguments, log, is_enough):
        trained.append(Path(arguments[-1]).name)
        return commands.run(pipeline, *arguments).status

    monkeypatch.setattr(ablation_runs, "start", start)
    path = write_windows(tmp_path)
    finished = commands.succeed("roll", "--config", path)
    folder = tmp_path / "rolled"
    assert finished.out == f"{folder / 'windows.md'}\n"
    assert trained == ["window-1", "window-2"]
    table = pd.read_csv(folder / "windows.csv")
    assert table.groupby("window")["name"].first().tolist() == ["model", "model"]
    log = read_interactions(tmp_path / "log.csv")
    for window, cuts in ((1, (0.5, 0.6, 0.8)), (2, (0.7, 0.8, 1.0))):
        run = RunDir.open(folder / f"window-{window}")
        config = run.read_config()
        assert tuple(config["split"]["time"].values()) == cuts
        assert config["training"]["seed"] == 5
        by_name = run.read_json("metrics.json")["test"]
        test = global_time_split(log, TimeSplitSettings(*cuts)).test
        rows = table[table["window"] == window].set_index("name")
        assert (rows["users"] == len(test)).all()
        seconds = test.targets.column("timestamp").to_numpy() / 1e6
        shown = [f"{pd.Timestamp(time, unit='s'):%Y-%m-%d %H:%M}" for time in np.sort(seconds)]
        assert (rows["from"].iloc[0], rows["to"].iloc[0]) == (shown[0], shown[-1])
        for name, evaluation in by_name.items():
            ours = rows.loc["model" if name == f"window-{window}" else name, FIGURES]
            assert ours.tolist() == [evaluation["metrics"][figure] for figure in FIGURES]
    text = (folder / "windows.md").read_text()
    popular = table[table["name"] == "popularity"]["ndcg@10"]
    shown = [*popular, popular.mean(), popular.std()]
    assert f"| popularity | {' | '.join(f'{value:.4f}' for value in shown)} |" in text
    page = (folder / "windows.html").read_text()
    assert page.count("<svg") == 1 and "recall@10" in page
    trained.clear()
    commands.succeed("roll", "--config", path)
    assert not trained, "what is finished was trained again"


def test_a_recipe_may_train_on_all_that_comes_before_a_window(tmp_path, monkeypatch):
    def start(pipeline, arguments, log, is_enough):
        return commands.run(pipeline, *arguments).status

    monkeypatch.setattr(ablation_runs, "start", start)
    base = BASE | {"data.source": str(tmp_path / "log.csv"), "split.train_until": "test"}
    base["training"] = BASE["training"] | {"patience": None}
    commands.succeed("roll", "--config", write_windows(tmp_path, windows=1, base=base))
    log = read_interactions(tmp_path / "log.csv")
    cuts = TimeSplitSettings(**roll.RollSettings(windows=1, begin=0.6).cuts(0))
    parts = global_time_split(log, cuts)
    trained = Vocabulary.load(tmp_path / "rolled/window-1").counts_V.sum()
    assert len(parts.train) < len(parts.test.known) == trained
    assert (
        "on what came before the window; the baselines"
        in (tmp_path / "rolled/windows.md").read_text()
    )
    refused = commands.run(
        "roll", "--config", write_windows(tmp_path, windows=1, base=base, validation=0.25)
    )
    assert refused.status == 2 and "validation=0.25 cannot act" in refused.message
    base["split.train_until"] = "end"
    refused = commands.run("roll", "--config", write_windows(tmp_path, windows=1, base=base))
    assert refused.status == 2 and "trains on the windows themselves" in refused.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"windows": 0}, "windows is 0; it must be at least 1."),
        ({"begin": 1.0}, "begin is 1.0; it must be above 0 and below 1."),
        ({"begin": 0.1}, "begin=0.1 leaves nothing to train on: the 2 windows are 0.45"),
        ({"validation": 0.0}, "validation is 0.0; it must be above 0."),
        ({"base": {"pretrained": "runs/a"}}, "each window would need a pretraining of its own"),
        ({"metric": "ndcg@11"}, "The metric 'ndcg@11' is not measured. Did you mean 'ndcg@1'?"),
        ({"pipeline": "nlp_cls"}, "nlp_cls cannot be tested in windows of time."),
        (
            {"base": {"split.name": "leave_last_out"}},
            "The recipe sets split.name, which each window has its own of.",
        ),
        ({"base": {"model.hidden_siz": 3}}, "window 1: "),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path, changes, words):
    refused = commands.run("roll", "--config", write_windows(tmp_path, **changes))
    assert refused.status == 2 and words in refused.message
    assert not (tmp_path / "rolled").exists()


def test_a_prepared_log_is_refused_since_it_is_split_already(tmp_path):
    cycle_world(num_users=40).to_csv(tmp_path / "log.csv", index=False)
    prepared = tmp_path / "prepared"
    commands.succeed("rec_prepare", "--data.source", tmp_path / "log.csv", "--run", prepared)
    path = write_windows(tmp_path, base={"data.source": str(prepared)})
    refused = commands.run("roll", "--config", path)
    assert refused.status == 2
    assert "was prepared with a split of its own. Name the log" in refused.message


def test_a_log_of_positions_has_no_windows_of_time(tmp_path):
    log = cycle_world(num_users=40)
    log["timestamp"] = log.groupby("user_id").cumcount()
    log.to_csv(tmp_path / "log.csv", index=False)
    refused = commands.run("roll", "--config", write_windows(tmp_path))
    assert refused.status == 1
    assert "needs real times, and these are positions" in refused.message
