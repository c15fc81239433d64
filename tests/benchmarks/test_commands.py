"""The small form of each command writes one table and one plot. No time is asserted."""

import importlib
import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from benchmarks import (
    catalogue_size,
    catalogue_work,
    equal_time,
    equal_trials,
    inference,
    inference_work,
    memory,
    memory_work,
    quality,
    training,
    training_work,
)
from benchmarks.peer_questions import ASKED, TRAINED
from benchmarks.power_law_log import LogOptions, part
from benchmarks.quality_work import PATHS, plain_operations
from idbert.errors import DataError
from idbert.inputs.cuts import SplitSettings
from idbert.nn.dropout import Dropout
from idbert.run_dir import RunDir
from idbert.training.planned_trainer import PlannedTrainer
from pipelines.corridor import DataSettings, LogSettings
from pipelines.split_log import read_split_log
from tests.pipelines import commands
from tests.worlds import cycle_world


def in_this_process(module, arguments, threads, patience_s=None):
    """Do what a process of its own would, which takes seconds to start."""
    work = Namespace(**json.loads(arguments[-1]))
    if module == "training_work":
        return training_work.measure(work)
    if module == "catalogue_work":
        return catalogue_work.measure(work)
    if module == "inference_work":
        return inference_work.measure(work)
    return json.loads(json.dumps(memory_work.WORKS[arguments[0]](work)))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for command in (training, memory, catalogue_size, inference):
        monkeypatch.setattr(command, "in_own_process", in_this_process)
    return tmp_path / "results.md"


def rows_of(page: Path) -> dict[str, list[str]]:
    """Return the cells of each row of the tables, by their first."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def run(name: str, page: Path, *arguments: str) -> dict[str, list[str]]:
    """Run a command's small form; return the rows of its table."""
    command = importlib.import_module(f"benchmarks.{name}")
    command.main(["--small", "--write", str(page), *arguments])
    text = page.read_text()
    assert f"python -m benchmarks.{name} --small" in text
    assert "Machine: " in text and text.count("](plots/") == 1
    assert len(list((page.parent / "plots").glob(f"{name.replace('_', '-')}*.svg"))) == 1
    return rows_of(page)


@pytest.mark.parametrize("model", ["bert4rec", "sasrec"])
def test_training(page: Path, model: str):
    forms = ("--loss", "chunked", "sampled", "--loss_options", '{"negatives": 8}')
    rows = run("training", page, "--model", model, *forms, "--peers", str(page.parent))
    assert list(rows)[:3] == ["", "idbert", "idbert, sampled"]
    speed, a_cpu_second, memory_mib, share, _ = rows["idbert"]
    assert float(speed.replace(",", "")) > 0 and float(a_cpu_second.replace(",", "")) > 0
    assert share.endswith("%")
    assert "RePlay: left out: venvs/replay/bin/python is not there" in rows
    assert ("RecBole: left out: venvs/recbole/bin/python is not there" in rows) is (
        model == "bert4rec"
    )


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
def test_catalogue_size(page: Path, loss: str):
    rows = run("catalogue_size", page, "--items", "50", "250000", "--loss", loss)
    assert list(rows) == ["items", "50", "250,000"]
    assert rows["50"][1] == "1.00" and float(rows["250,000"][2]) > 0
    peak, imports = (int(cell.replace(",", "")) for cell in rows["250,000"][3:5])
    assert peak >= imports > 0


def test_inference(page: Path):
    rows = run("inference", page, "--bfloat16", "--users", "20", "--peers", str(page.parent))
    assert [name for name in rows if name.startswith("idbert")] == [
        "idbert, bert4rec",
        "idbert, items in bfloat16, bert4rec",
        "idbert, sasrec",
        "idbert, items in bfloat16, sasrec",
    ]
    assert "RecTools, sasrec: left out: venvs/rectools/bin/python is not there" in rows


def test_quality(page: Path):
    out = page.parent / "trainings"
    rows = run("quality", page, "--seeds", "1", "--out", str(out))
    plain = "torch's operations, float32"
    assert list(rows) == ["", "idbert", plain, f"idbert less {plain}"]
    assert all(float(rows[name][0].split()[0]) > 0 for name in ("idbert", list(rows)[2]))
    losses = [RunDir.open(out / f"{path}-1").read_config()["loss"]["name"] for path in PATHS]
    assert losses == ["chunked", "full"]


def test_quality_shares_a_training_out_among_processes_and_rounds_its_products():
    options = Namespace(processes=2, threads=1, recipe="r.yaml", epochs=1, small=False)
    options.attention_dropout, options.precision = 0.1, "medium"
    alone, shared, rounded = (
        quality.command_of(way, 1, Path("run"), Path("log"), options)
        for way in (quality.OURS, quality.SHARED, quality.ROUNDED)
    )
    assert shared[2:6] == ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    assert shared[7] == "pipelines.rec_pretrain" and shared[8:] == alone[5:]
    assert alone[2:5] == ["benchmarks.quality_work", "idbert", "1"]
    assert [(a, b) for a, b in zip(alone, rounded, strict=True) if a != b] == [
        ("float32", "medium")
    ]


def test_study(page: Path):
    log, study = page.parent / "log.csv", page.parent / "my-study"
    cycle_world(num_users=30).to_csv(log, index=False)
    given = ("--data.source", log, *commands.TINY)
    changes = {"base": (), "layers=one": ("--model.num_layers=1",)}
    for variant, change in changes.items():
        for seed in (1, 2):
            run_of = ("--run", study / f"{variant}-seed{seed}", f"--training.seed={seed}")
            commands.succeed("rec_finetune", *given, *change, *run_of)
    rows = run("study", page, str(study), "--title", "Mine")
    assert list(rows)[:3] == ["variant", "base", "layers=one"]
    assert {"popularity", "item-kNN", "EASE"} <= set(rows)
    metrics = {
        name: [
            RunDir.open(study / f"{name}-seed{seed}").read_json("metrics.json")["validation"]
            for seed in (1, 2)
        ]
        for name in changes
    }
    for place, metric in ((0, "ndcg@10"), (2, "recall@10")):
        means = {
            name: sum(
                one[f"{name}-seed{seed}"]["metrics"][metric] for seed, one in enumerate(of, 1)
            )
            / 2
            for name, of in metrics.items()
        }
        for name, mean in means.items():
            assert rows[name][place].startswith(f"{mean:.4f} (")
        difference = means["layers=one"] - means["base"]
        cell = rows["layers=one"][place + 1]
        shown, low, high = (float(word) for word in re.findall(r"[+-][\d.]+", cell))
        assert abs(shown - difference) < 1e-4 and low <= shown <= high
    with pytest.raises(DataError, match="holds no finished run of the base"):
        run("study", page, str(page.parent))


def test_equal_time(page: Path, monkeypatch: pytest.MonkeyPatch):
    trained = []

    def train(options, epochs, run, data):
        trained.append((run.name, epochs))
        settings = ("--data.source", data, "--run", run, *commands.TINY)
        commands.succeed("rec_finetune", *settings)
        return 0.5 * epochs

    monkeypatch.setattr(equal_time, "train", train)
    out = page.parent / "points"
    rows = run("equal_time", page, "--minutes", "0.02", "0.1", "--out", str(out))
    names = [f"small-sasrec-idbert-ml-1m-sasrec-{minutes}" for minutes in ("0.02", "0.1")]
    assert trained == [
        (f"{names[0]}-tried", 2),
        (names[0], 2),  # 1.2 s of half a second each
        (f"{names[1]}-tried", 2),
        (names[1], 12),
    ]
    test = RunDir.open(out / names[1]).read_json("metrics.json")["test"][names[1]]["metrics"]
    ndcg, recall = (f"{test[name]:.4f}" for name in ("ndcg@10", "recall@10"))
    assert rows["idbert"][:5] == ["0.1", "0.1", "12.0", ndcg, recall]
    trained.clear()
    again = run("equal_time", page, "--minutes", "0.02", "0.1", "--out", str(out))
    assert again == rows and not trained, "what was measured was measured again"
    with pytest.raises(SystemExit, match="was measured with other options"):
        run("equal_time", page, "--minutes", "0.02", "--out", str(out), "--hidden", "16")


@pytest.mark.parametrize("split", ["leave_last_out", "global_time"])
def test_equal_trials(page: Path, monkeypatch: pytest.MonkeyPatch, split: str):
    started, asked = [], []

    def train(options, pipeline, settings, run):
        """Train for no more than two steps, and say that an epoch takes a quarter of the time."""
        words = dict(word[2:].split("=", 1) for word in settings if "=" in str(word))
        epochs = int(words.pop("training.epochs"))
        started.append((run.name, pipeline, words, epochs))
        small = {**words, "model.hidden_size": 8, "training.warmup": 0, "training.max_steps": 2}
        more = [f"--{name}={value}" for name, value in small.items()]
        data = settings[settings.index("--data.source") + 1]
        if not run.name.endswith("-tried"):
            commands.succeed(pipeline, "--run", run, f"--data.source={data}", *more)
        return epochs * options.seconds / 4

    def answer(peer, model, data, options, *arguments, seconds, questions):
        """Recommend the right item, at the third place."""
        rows = pq.read_table(questions / ASKED).to_pylist()
        part = questions.name.rpartition("-")[2]
        asked.append((peer.name, model, options.hidden, seconds, part))
        trained_on = [items for (items,) in pq.read_table(questions / TRAINED).to_pandas().values]
        lengths = {len(row["items"]) for row in rows}
        assert all(len(items) <= max(lengths) for items in trained_on)
        seen[part] = sum(map(len, trained_on))
        targets = np.array([row["target"] for row in rows])
        lists = np.stack([np.zeros_like(targets), np.zeros_like(targets), targets], axis=1)
        np.savez(arguments[arguments.index("--save-recs") + 1], recs=lists)
        return {"train_s": seconds, "foreign_cpu": 0.5}

    seen = {}

    monkeypatch.setattr(equal_trials, "steps_of", train)
    monkeypatch.setattr(equal_trials, "run_driver", answer)
    out = page.parent / "trials"
    given = ("--out", str(out), "--peers", "somewhere", "--split", split, "--trials", "3")
    days = [7.0, 30.0] if split == "global_time" else []
    given += ("--recent_days", *map(str, days)) if days else ()
    rows = run("equal_trials", page, *given)
    assert list(rows)[:5] == ["", "idbert", "RecTools", "RecBole", "RePlay"]
    trials = equal_trials.drawn(3, seed=0)
    assert trials[0] == equal_trials.Trial() and len(set(trials)) == 3
    by_library = {name: [one for one in asked if one[0] == name] for name in rows}
    for of_library in (by_library["RecTools"], by_library["RePlay"]):
        assert [(one[1], one[2], one[3]) for one in of_library[:3]] == [
            (trial.model, trial.hidden, trial.share * equal_trials.SHORT) for trial in trials
        ]
        assert [one[4] for one in of_library] == ["validation"] * 3 + ["test"] * 2
    best, tries, validation, seconds, ndcg, lead, recall, _ = rows["RecBole"]
    assert (tries, validation, recall) == ("3 of 3", "0.5000", "1.0000 (1.0000, 1.0000)")
    assert best == trials[0].in_words() and seconds == "0 (50%, no quiet pass)"
    assert ndcg == "0.5000 (0.5000, 0.5000)" and rows["idbert"][5] == ""
    ours = float(rows["idbert"][4].split(" ")[0])
    assert float(lead.split(" ")[0]) == pytest.approx(ours - 0.5, abs=1.1e-4)
    own = [one for one in started if not one[0].endswith("-tried")]
    assert [one[1] for one in own[:3]] == [equal_trials.COMMANDS[trial.model] for trial in trials]
    assert [one[3] for one in own[:3]] == [4 * trial.share for trial in trials]
    for (_, _, words, _), trial in zip(own, trials, strict=False):
        assert words["model.hidden_dropout"] == str(trial.dropout)
        assert words["training.learning_rate"] == str(trial.lr)
    own_trials = equal_trials.with_recent_days(trials, days, seed=1) if days else trials
    found = [one[2].get("popularity.recent_days") for one in own[:3]]
    assert found == [of.recent_days and str(of.recent_days) for of in own_trials]
    assert bool(days) == any(found)
    assert [one[2]["split.train_until"] for one in own] == ["validation"] * 3 + ["test"] * 2
    # the peers are trained on what idbert is trained on: all events before the targets
    settings = LogSettings(
        data=DataSettings(source=str(page.parent / "log.parquet")),
        split=SplitSettings(split, targets=2),
    )
    pq.write_table(part(LogOptions(rows=3000, rows_a_part=3000), 0), settings.data.source)
    parts = read_split_log(settings).parts
    expected = {"validation": len(parts.train), "test": len(parts.test.known)}
    assert seen == expected
    done = len(started), len(asked)
    assert run("equal_trials", page, *given) == rows
    assert (len(started), len(asked)) == done, "what was measured was measured again"
    with pytest.raises(SystemExit, match="was measured with other options"):
        run("equal_trials", page, *given, "--seconds", "7")


@pytest.mark.parametrize("model", ["bert4rec", "sasrec"])
def test_equal_time_trains_by_its_recipe(tmp_path: Path, monkeypatch, model):
    started = []

    def start(command, cwd, env, capture_output, text):
        started.append(command)
        finished = commands.run(command[2].removeprefix("pipelines."), *command[3:])
        Path(env["IDBERT_STEP_TIMES"]).write_text('[{"seconds": 2.5}, {"seconds": 1.5}]')
        return Namespace(returncode=finished.status, stderr=finished.err)

    for name in ("get_batch_samples", "train_or_resume"):  # which the plugin of the times replaces
        monkeypatch.setattr(PlannedTrainer, name, getattr(PlannedTrainer, name))
    monkeypatch.setattr(equal_time.subprocess, "run", start)
    monkeypatch.setattr(equal_time, "SMALL_RECIPE", ("--training.warmup=0", *commands.TINY))
    log = tmp_path / "log.csv"
    cycle_world(num_users=30).to_csv(log, index=False)
    work = {"model": model, "recipe": equal_time.ROOT / f"pipelines/recipes/ml-1m-{model}.yaml"}
    work |= {"hidden": 8, "layers": 1, "heads": 2, "maxlen": 10, "threads": 1}
    options = Namespace(small=True, device="cpu", **work)
    assert equal_time.train(options, 1, tmp_path / "run", log) == 4.0
    config = RunDir.open(tmp_path / "run").read_config()
    assert (config["model"]["position_origin"], config["model"]["num_layers"]) == ("newest", 1)
    assert config["sequences"]["max_length"] == (11 if model == "sasrec" else 10)
    assert equal_time.train(options, 1, tmp_path / "run", log) == 4.0
    assert len(started) == 1, "a finished training was started again"


def test_torch_s_own_operations_train_where_they_are_asked_for(monkeypatch):
    called = []
    monkeypatch.setattr(F, "dropout", lambda x, *_: called.append("dropout") or x)
    layer = Dropout(0.5).train()
    layer(torch.ones(8))
    assert not called
    with plain_operations():
        layer(torch.ones(8))
    assert called == ["dropout"]


def test_retrieval(page: Path):
    rows = run("retrieval", page)
    assert float(rows["exact, torch"][0]) == float(rows["exact, FAISS Flat"][0]) == 1
    assert 0.9 < float(rows["all, bfloat16"][0]) <= 1
    chosen = next(cells for name, cells in rows.items() if name.startswith("idbert, auto: HNSW32"))
    assert float(chosen[0]) > 0.95
    assert "256 at once: idbert, auto" in page.read_text()


def test_preparation_says_which_library_fails_and_measures_the_others(page: Path):
    peers = page.parent / "peers"
    broken = peers / "venvs/recbole/bin/python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho no such library >&2\nexit 1\n")
    broken.chmod(0o755)
    work = page.parent / "work"
    work.mkdir()
    rows = run("preparation", page, "--peers", str(peers), "--work", str(work))
    assert rows["DuckDB, bare sort"][1] == "1.00" and float(rows["idbert"][1]) > 0
    assert "RecBole: failed after nothing: no such library" in rows
    assert "RecTools: left out: venvs/rectools/bin/python is not there" in rows
    assert "idbert: rec_prepare " in page.read_text()
    assert list(work.iterdir()) == []


def test_memory(page: Path):
    rows = run("memory", page, "--works", "training", "scoring", "search")
    for name in ("training", "scoring", "building int8", "searching cells of int8, mapped"):
        peak, imports, above = (int(cell.replace(",", "")) for cell in rows[f"idbert, {name}"])
        assert peak >= imports > 0 and abs(peak - imports - above) <= 1
    phases = [name.split(": ")[1] for name in rows if name.startswith("idbert, training: ")]
    assert phases[:5] == [
        "imports",
        "the log read",
        "the log split",
        "vocabulary and sequences",
        "model and trainer",
    ]
    assert phases[5] == "the first step" and phases[6].endswith(" steps")


def test_scaling(page: Path):
    rows = run("scaling", page)
    assert rows["idbert; 1 process, 1 thread"][1:3] == ["1.00", "0.0e+00"]
