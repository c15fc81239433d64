"""nlp_cls, walked through on texts whose label one word decides."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nlp_tasks.cls import Classifier, validation
from nlp_tasks.cls.labels import LabelMap
from pipelines import nlp_cls
from pipelines.cli import parse_settings
from pipelines.nlp_cls import NlpClsSettings, main
from pipelines.nlp_reporting import mean_curve
from tests.nlp_tasks.text_world import DECIDING, several, texts, write
from tests.pipelines.classifier_runs import SMALL, trained_classifier
from tests.pipelines.commands import run, succeed, weights

RECIPES = Path(nlp_cls.__file__).parent / "recipes"
TINY = (*SMALL, "--training.max_steps=2")
"""A training that ends at once and learns nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT, texts to train and test on, and what nlp_cls made of them."""
    return trained_classifier(tmp_path_factory.mktemp("texts"))


def command(folder: Path, run_folder: Path, *settings: object) -> tuple[object, ...]:
    """Return nlp_cls on the world's model and texts; later settings win."""
    data = ("--model", folder / "bert", "--data.train", folder / "train.jsonl")
    return ("nlp_cls", "--run", run_folder, *data, *TINY, *settings)


def test_the_deciding_word_is_learned(folder):
    metrics = json.loads((folder / "run/metrics.json").read_text())
    assert metrics["test"]["accuracy"] == 1.0 and metrics["test"]["rows"] == 60
    assert metrics["validation"]["rows"] == 30
    assert metrics["test"]["confusion"] == [[20, 0, 0], [0, 20, 0], [0, 0, 20]]
    assert set(metrics["test"]["per_class"]) == set(DECIDING)
    predicted = Classifier.load(folder / "run").predict(["w1 odd w2", "good"])
    assert predicted["prediction"].tolist() == ["odd", "good"]


def test_a_run_holds_labels_tokenizer_weights_curve_predictions_and_report(folder):
    path = folder / "run"
    assert LabelMap.load(path) == LabelMap("single", tuple(sorted(DECIDING)))
    assert (path / "tokenizer/tokenizer.json").is_file()
    curve = json.loads((path / "curve.json").read_text())
    assert [round(row["epoch"]) for row in curve] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {"loss", "validation_loss", "accuracy", "macro_f1"} <= curve[-1].keys()
    report = (path / "report.html").read_text()
    assert "macro" in report.lower() and "odd" in report
    marker = json.loads((path / "run.json").read_text())
    assert {"labels.json", "reading.json", "model/model.safetensors"} <= marker["files"].keys()


def test_predictions_of_each_part_lie_beside_the_truth_for_comparison(folder):
    table = pd.read_parquet(folder / "run/predictions-test.parquet")
    assert table["row"].tolist() == list(range(60))
    assert table["label"].tolist() == texts(60, seed=1)["label"].tolist()
    assert table["prediction"].tolist() == table["label"].tolist()
    probabilities = np.stack(table["probabilities"].tolist())
    assert np.allclose(probabilities.max(axis=1), table["probability"])
    validation_rows = pd.read_parquet(folder / "run/predictions-validation.parquet")["row"]
    held_out = texts(300)["label"][validation_rows]
    assert held_out.value_counts().tolist() == [10, 10, 10]


def test_a_finished_run_is_left_alone_and_its_report_can_be_made_again(folder, tmp_path):
    copied = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    settings = ("nlp_cls", "--config", copied / "config.yaml", "--run", copied)
    assert "nothing is left to do" in succeed(*settings).err
    metrics = (copied / "metrics.json").read_bytes()
    (copied / "report.html").unlink()
    (copied / "metrics.json").unlink()
    again = succeed(*settings)
    assert "step" not in again.err and (copied / "metrics.json").read_bytes() == metrics


def test_a_training_stopped_by_sigterm_resumes_to_the_same_weights(folder, tmp_path, monkeypatch):
    settings = ("--training.max_steps=4", "--training.evaluate_every=0.15")
    succeed(*command(folder, tmp_path / "whole", *settings))
    with monkeypatch.context() as patched:
        measure = validation.classification_metrics
        patched.setattr(
            validation,
            "classification_metrics",
            lambda predictions: signal.raise_signal(signal.SIGTERM) or measure(predictions),
        )
        stopped = run(*command(folder, tmp_path / "stopped", *settings))
    assert stopped.status == 143 and "The same command resumes there" in stopped.err
    assert not (tmp_path / "stopped/model").exists()
    assert "resuming from" in succeed(*command(folder, tmp_path / "stopped", *settings)).err
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_several_labels_are_learned(folder, tmp_path):
    write(several(300), tmp_path / "train.jsonl")
    write(several(50, seed=1), tmp_path / "dev.jsonl")
    succeed(
        *command(folder, tmp_path / "run", *SMALL, "--training.max_steps=null"),
        *("--data.train", tmp_path / "train.jsonl", "--data.dev", tmp_path / "dev.jsonl"),
        *("--training.epochs=8", "--training.evaluate_every=5", "--training.learning_rate=0.02"),
        *("--pooling.name=max", "--head.dropout=0"),
        *("--encoder.hidden_dropout=0", "--encoder.attention_dropout=0", "--loss.r_drop=0"),
    )
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())["validation"]
    assert metrics["subset_accuracy"] > 0.9 and metrics["map"] > 0.95
    for ending in ("jsonl", "csv", "parquet"):
        output = tmp_path / f"out.{ending}"
        succeed(
            "nlp_predict",
            "--run",
            tmp_path / "run",
            "--input",
            tmp_path / "dev.jsonl",
            "--output",
            output,
        )
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    wanted = Classifier.load(tmp_path / "run").predict([row["text"] for row in rows])
    assert not all(wanted["prediction"])  # a chunk of one row may have no label at all
    one_by_one = ("--output", tmp_path / "one.jsonl", "--chunk_rows=1")
    given = ("--run", tmp_path / "run", "--input", tmp_path / "dev.jsonl")
    succeed("nlp_predict", *given, *one_by_one)
    by_one = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in by_one] == wanted["prediction"].tolist()
    assert [row["prediction"] for row in rows] == wanted["prediction"].tolist()
    in_csv = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert in_csv["prediction"].tolist() == ["|".join(p) for p in wanted["prediction"]]
    in_parquet = pd.read_parquet(tmp_path / "out.parquet")
    assert [list(p) for p in in_parquet["prediction"]] == wanted["prediction"].tolist()
    assert [list(labels) for labels in in_parquet["labels"]] == several(50, seed=1)[
        "labels"
    ].tolist()


def test_numbers_of_pairs_are_predicted_in_their_own_unit(folder, tmp_path):
    table = texts(120)
    table["number"] = 1000.0 + 500 * (table["label"] == "good") + table.index / 100
    table["other"] = table["text"].to_numpy()[::-1]
    write(table, tmp_path / "pairs.jsonl")
    settings = (
        "--data.train",
        tmp_path / "pairs.jsonl",
        "--data.label_column=number",
        "--data.pair=true",
        "--data.text_columns=[text, other]",
        "--text.max_length=32",
        "--training.max_steps=20",
        "--training.evaluate_every=9",
    )
    succeed(*command(folder, tmp_path / "run", *settings))
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())["validation"]
    assert {"pearson", "spearman", "mse", "mae"} <= metrics.keys()
    assert metrics["mae"] < 400  # knowing nothing of the unit it would be above 1000
    output = tmp_path / "out.jsonl"
    succeed(
        "nlp_predict",
        "--run",
        tmp_path / "run",
        "--input",
        tmp_path / "pairs.jsonl",
        "--output",
        output,
        "--probabilities=true",
    )
    row = json.loads(output.read_text().splitlines()[0])
    assert list(row) == ["text", "label", "number", "other", "prediction"]
    assert 500 < row["prediction"] < 2500


def test_folds_predict_rows_that_they_have_not_seen_and_are_averaged(folder, tmp_path):
    test = ("--data.test", folder / "test.jsonl")
    succeed(*command(folder, tmp_path / "run", "--data.folds=2", *test))
    path = tmp_path / "run"
    assert (path / "model-1").is_dir() and (path / "model-2").is_dir()
    table = pd.read_parquet(path / "predictions-validation.parquet")
    assert table["row"].tolist() == list(range(300))
    classifier = Classifier.load(path)
    each = [
        Classifier([model], classifier.reader, classifier.labels).predict_proba(
            texts(300)["text"].tolist()
        )
        for model in classifier.models
    ]
    theirs = np.stack(table["probabilities"].tolist())
    by_first = np.isclose(theirs, each[0], atol=1e-5).all(axis=1)
    by_second = np.isclose(theirs, each[1], atol=1e-5).all(axis=1)
    assert (by_first ^ by_second).all() and by_first.sum() == 150
    averaged = pd.read_parquet(path / "predictions-test.parquet")["probabilities"]
    assert np.allclose(
        np.stack(averaged.tolist()),
        classifier.predict_proba(texts(60, seed=1)["text"].tolist()),
        atol=1e-5,
    )
    curve = json.loads((path / "curve.json").read_text())
    curves = [json.loads((path / f"curve-{fold}.json").read_text()) for fold in (1, 2)]
    assert curve == mean_curve(curves) and len(curve) == len(curves[0])


def test_without_a_part_to_validate_on_the_last_weights_are_kept(folder, tmp_path):
    succeed(*command(folder, tmp_path / "run", "--data.dev_share=0"))
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == {}
    assert (tmp_path / "run/report.html").exists()


def test_a_finished_run_is_a_pretrained_model_for_another(folder, tmp_path):
    finished = succeed(*command(folder, tmp_path / "run", "--model", folder / "run"))
    assert "tensors of a head left out" in finished.err


STRATEGIES = {
    "structure": (
        "--structure.fusion.name=gate", "--structure.block.name=bilstm",
        "--structure.residual.name=concat", "--pooling.name=attention", "--head.name=mlp",
    ),
    "losses": (
        "--loss.name=focal", "--loss.auxiliary=true", "--loss.r_drop=1",
        "--encoder.hidden_dropout=0.2",
    ),
    "strategies": (
        "--training.layer_decay=0.9", "--training.head_learning_rate=0.1",
        "--training.frozen_layers=1", "--training.averaging.name=ema",
        "--training.adversarial.name=fgm", "--loss.r_drop=1", "--training.accumulation=2",
        "--training.metric=loss", "--training.patience=1",
    ),
    "texts": (
        "--text.truncation=windows", "--text.max_length=8", "--templates.share=0.5",
        "--sampling.method=over",
    ),
    "real former": ("--encoder.residual_scores=gated", "--training.gradient_checkpointing=true"),
}  # fmt: skip


@pytest.mark.parametrize("settings", STRATEGIES.values(), ids=STRATEGIES)
def test_structures_losses_and_strategies_go_through_the_corridor(folder, tmp_path, settings):
    succeed(*command(folder, tmp_path / "run", *settings))
    predicted = Classifier.load(tmp_path / "run").predict(["good w1", "bad"])
    assert len(predicted) == 2


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("nlp-*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_holds_settings_that_exist(recipe):
    config = parse_settings(NlpClsSettings, main, ["--config", str(recipe), "--model", "x"])
    assert config.run == f"runs/{recipe.stem.removeprefix('nlp-')}"
