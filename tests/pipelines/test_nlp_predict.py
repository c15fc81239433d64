"""nlp_predict: rows and columns kept, interrupted and resumed, parts of other predictions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nlp_tasks.cls import Classifier
from tests.nlp_tasks.text_world import DECIDING, texts, write
from tests.pipelines.classifier_runs import trained_classifier
from tests.pipelines.commands import run, succeed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT, texts to train and test on, and what nlp_cls made of them."""
    return trained_classifier(tmp_path_factory.mktemp("texts"))


def test_every_format_keeps_rows_and_columns_in_their_order(folder, tmp_path):
    given = texts(60, seed=1).assign(number=range(60))
    write(given, tmp_path / "in.jsonl")
    wanted = Classifier.load(folder / "run").predict(given["text"].tolist())
    for ending in (".jsonl", ".csv", ".parquet"):
        output = tmp_path / f"out{ending}"
        settings = ("--input", tmp_path / "in.jsonl", "--output", output, "--probabilities=true")
        succeed("nlp_predict", "--run", folder / "run", *settings)
        table = (
            pd.read_json(output, lines=True)
            if ending == ".jsonl"
            else pd.read_csv(output)
            if ending == ".csv"
            else pd.read_parquet(output)
        )
        assert table[list(given.columns)].equals(given)
        assert table["prediction"].tolist() == wanted["prediction"].tolist()
        assert np.allclose(table["probability"], wanted["probability"], atol=1e-5)
        columns = [f"probability_{name}" for name in sorted(DECIDING)]
        assert np.allclose(table[columns].sum(axis=1), 1, atol=1e-5)
        assert not output.with_name(output.name + ".parts").exists()


def test_an_interrupted_prediction_goes_on_behind_what_is_done(folder, tmp_path, monkeypatch):
    settings = (
        "--input",
        folder / "test.jsonl",
        "--output",
        tmp_path / "out.jsonl",
        "--chunk_rows=25",
    )
    predict = Classifier.predict
    calls = []

    def interrupted(self, given, *arguments, **options):
        calls.append(len(given))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(self, given, *arguments, **options)

    monkeypatch.setattr(Classifier, "predict", interrupted)
    assert run("nlp_predict", "--run", folder / "run", *settings).status == 130
    assert not (tmp_path / "out.jsonl").exists() and (tmp_path / "out.jsonl.parts").is_dir()
    resumed = succeed("nlp_predict", "--run", folder / "run", *settings)
    assert calls == [25, 25, 25, 10] and "of 25 rows; going on behind them" in resumed.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == texts(60, seed=1)["label"].tolist()


def test_parts_of_another_input_are_made_anew(folder, tmp_path, monkeypatch):
    write(texts(60, seed=2), tmp_path / "in.jsonl")
    settings = (
        "--input",
        tmp_path / "in.jsonl",
        "--output",
        tmp_path / "out.csv",
        "--chunk_rows=25",
    )
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.nlp_output.write_predictions", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("nlp_predict", "--run", folder / "run", *settings)
    write(texts(60, seed=3), tmp_path / "in.jsonl")
    again = succeed("nlp_predict", "--run", folder / "run", *settings)
    assert "parts of other predictions; they are made anew" in again.err
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["prediction"].tolist() == texts(60, seed=3)["label"].tolist()


def test_probabilities_that_nobody_asked_for_are_not_kept(folder, tmp_path, monkeypatch):
    write(texts(6, seed=2), tmp_path / "in.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    kept = []
    settings = ("--input=~/in.jsonl", "--output", tmp_path / "out.csv")
    monkeypatch.setattr(
        "pipelines.nlp_output.PredictedParts.remove",
        lambda parts: kept.append(parts.read().column_names),
    )
    succeed("nlp_predict", "--run", folder / "run", *settings)
    assert kept == [["prediction", "probability"]]


def test_a_folder_that_only_bears_the_name_of_the_parts_is_left_alone(folder, tmp_path):
    write(texts(6, seed=2), tmp_path / "in.jsonl")
    foreign = tmp_path / "out.csv.parts" / "notes.txt"
    foreign.parent.mkdir()
    foreign.write_text("mine")
    settings = ("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.csv")
    refused = run("nlp_predict", "--run", folder / "run", *settings)
    assert refused.status == 1 and "holds other files. Move it away" in refused.message
    assert foreign.read_text() == "mine" and not (tmp_path / "out.csv").exists()


def test_parts_that_read_other_columns_are_made_anew(folder, tmp_path, monkeypatch):
    table = texts(60, seed=2).assign(other=texts(60, seed=3)["text"])
    write(table, tmp_path / "in.jsonl")
    settings = ("--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.csv")
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.nlp_output.write_predictions", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("nlp_predict", "--run", folder / "run", *settings)
    again = succeed("nlp_predict", "--run", folder / "run", *settings, "--text_columns=[other]")
    assert "parts of other predictions; they are made anew" in again.err
    predicted = pd.read_csv(tmp_path / "out.csv")["prediction"]
    assert predicted.tolist() == texts(60, seed=3)["label"].tolist()
