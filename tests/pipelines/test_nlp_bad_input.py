"""What nlp_cls and nlp_predict cannot use: one clear error each, before anything is trained."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from idbert.run_dir import RunDir
from tests.nlp_tasks.text_world import bert_folder, texts, write
from tests.pipelines.commands import Finished, run, succeed

TINY = ("--text.max_length=16", "--batches.token_budget=200", "--training.max_steps=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT, texts, and a finished run on them."""
    folder = tmp_path_factory.mktemp("texts")
    bert_folder(folder / "bert")
    write(texts(60), folder / "train.jsonl")
    succeed(*command(folder, folder / "run"))
    return folder


def command(folder: Path, run_folder: Path, *settings: object) -> tuple[object, ...]:
    data = ("--model", folder / "bert", "--data.train", folder / "train.jsonl")
    return ("nlp_cls", "--run", run_folder, *data, *TINY, *settings)


def refused(folder: Path, tmp_path: Path, *settings: object) -> Finished:
    """Run nlp_cls, which must fail before it trains and without a traceback."""
    finished = run(*command(folder, tmp_path / "run", *settings))
    assert finished.status in (1, 2) and "Traceback" not in finished.err
    assert not (tmp_path / "run/checkpoints").exists()
    return finished


def bad_rows(tmp_path: Path, **changes: object) -> Path:
    """Write the world's texts with some cells replaced: {column: {row: value}}."""
    table = texts(60).astype(object)
    for column, cells in changes.items():
        for row, value in cells.items():
            table.at[row, column] = value
    return write(table, tmp_path / "bad.jsonl")


# Texts and labels


def test_labels_of_dev_that_training_does_not_know_are_counted_and_the_nearest_named(
    folder, tmp_path
):
    dev = bad_rows(tmp_path, label={3: "goood", 7: "goood", 9: "strange"})
    error = refused(folder, tmp_path, "--data.dev", dev).message
    assert "2 labels that are not among the 3 of the training rows" in error
    assert "'goood' (2 times) Did you mean 'good'?" in error and "'strange' (1 times)" in error
    assert "bad.jsonl" in error and "line 4" in error or "row" in error


@pytest.mark.parametrize("text", ["", "  ", None])
def test_empty_texts_are_named(folder, tmp_path, text):
    path = bad_rows(tmp_path, text={2: text, 5: text})
    error = refused(folder, tmp_path, "--data.train", path).message
    assert "column 'text' has no text in" in error and "Fill these rows" in error


def test_labels_with_gaps_are_named(folder, tmp_path):
    path = bad_rows(tmp_path, label={1: None, 4: ""})
    error = refused(folder, tmp_path, "--data.train", path).message
    assert "column 'label' has no label in" in error and "Label these rows" in error


def test_integer_labels_with_holes_are_labels_like_others(folder, tmp_path):
    table = texts(60)
    table["label"] = table["label"].map({"good": 0, "bad": 7, "odd": 40})
    path = write(table, tmp_path / "numbers.jsonl")
    succeed(*command(folder, tmp_path / "run", "--data.train", path))
    assert json.loads((tmp_path / "run/labels.json").read_text())["names"] == ["0", "7", "40"]


def test_one_class_is_refused(folder, tmp_path):
    path = write(texts(20, classes=("good",)), tmp_path / "one.jsonl")
    error = refused(folder, tmp_path, "--data.train", path).message
    assert "all 20 rows have the same label in column 'label', 'good'" in error


def test_texts_of_only_unknown_tokens_are_counted_and_trained_on(folder, tmp_path):
    path = bad_rows(tmp_path, text={2: "совсем другое", 5: "иное"})
    finished = succeed(*command(folder, tmp_path / "run", "--data.train", path))
    assert "hold no token that the tokenizer knows" in finished.err


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_a_wrong_encoding_is_named_with_what_to_do(folder, tmp_path, encoding):
    text = "".join(
        json.dumps({"text": "好 good", "label": n % 2}, ensure_ascii=False) + "\n" for n in range(9)
    )
    (tmp_path / "train.jsonl").write_bytes(text.encode(encoding))
    error = refused(folder, tmp_path, "--data.train", tmp_path / "train.jsonl").message
    assert error.startswith("DataError") and "train.jsonl" in error and "UTF-8" in error


def test_a_byte_order_mark_is_no_part_of_the_first_column(folder, tmp_path):
    texts(60).to_csv(tmp_path / "train.csv", index=False, encoding="utf-8-sig")
    succeed(*command(folder, tmp_path / "run", "--data.train", tmp_path / "train.csv"))


def test_a_missing_column_and_a_missing_file_name_the_nearest(folder, tmp_path):
    error = refused(folder, tmp_path, "--data.text_columns=[txt]").message
    assert "no column 'txt'" in error and "text" in error
    error = refused(folder, tmp_path, "--data.train", folder / "trian.jsonl").message
    assert "Did you mean 'train.jsonl'?" in error


def test_dev_and_test_are_read_before_training(folder, tmp_path):
    error = refused(folder, tmp_path, "--data.test", tmp_path / "none.jsonl").message
    assert "none.jsonl" in error


# Models


def broken_model(folder: Path, tmp_path: Path, change: object) -> Path:
    broken = Path(shutil.copytree(folder / "bert", tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    change(tensors)
    save_file(tensors, broken / "model.safetensors")
    return broken


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.layer.0.attention.self.key.bias"), "lack 1 of the encoder's"),
        (
            lambda t: t.update({"encoder.layer.7.output.dense.bias": torch.zeros(16)}),
            "hold, beyond what its config describes, 1 of the encoder's tensors: encoder.layer.7",
        ),
        (
            lambda t: t.update({"embeddings.LayerNorm.bias": torch.zeros(8)}),
            r"embeddings.LayerNorm.bias [8], not [16]",
        ),
        (
            lambda t: t.pop("embeddings.position_embeddings.weight"),
            "Is this a NEZHA, which has no position embeddings?",
        ),
    ],
    ids=["missing", "foreign", "misshapen", "nezha"],
)
def test_a_checkpoint_that_does_not_fit_says_which_tensors(folder, tmp_path, change, message):
    broken = broken_model(folder, tmp_path, change)
    error = refused(folder, tmp_path, "--model", broken).message
    assert error.startswith("CheckpointError") and message in error


def test_a_model_that_is_not_there_is_named(folder, tmp_path):
    assert "nowhere" in refused(folder, tmp_path, "--model", tmp_path / "nowhere").message


def test_no_model_at_all_is_a_missing_setting(folder, tmp_path):
    finished = run("nlp_cls", "--run", tmp_path / "run", "--data.train", folder / "train.jsonl")
    assert finished.status == 2 and "model" in finished.message


def test_a_run_of_item_ids_is_no_model_of_texts(folder, tmp_path):
    RunDir.create(tmp_path / "items", "rec_pretrain", {})
    error = refused(folder, tmp_path, "--model", tmp_path / "items").message
    assert "a run of rec_pretrain: its encoder reads item ids and knows no words" in error


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(folder, tmp_path):
    broken = Path(shutil.copytree(folder / "bert", tmp_path / "broken"))
    with (broken / "vocab.txt").open("a") as file:
        file.write("one\nmore\n")
    error = refused(folder, tmp_path, "--model", broken).message
    assert "vocabulary of 30 tokens, the model has rows for 28" in error


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--text.max_length=40",), "text.max_length is 40, and the model reads at most 32 tokens"),
        (("--loss.name=zlpr",), "'zlpr' is for labels of kind 'multi'"),
        (("--head.name=label_graph",), "'label_graph' is for texts with several labels"),
        (("--training.metric=ndcg@10",), "There is no metric 'ndcg@10'"),
        (("--training.metric=acuracy",), "Did you mean 'accuracy'?"),
        (("--loss.r_drop=-1",), "r_drop is -1"),
        (("--loss.auxiliary_share=0.5",), "cannot act without the auxiliary loss"),
        (("--data.dev_share=1",), "dev_share is 1"),
        (("--data.dev_share=0.2", "--data.folds=2"), "cannot act with 2 folds"),
        (("--data.dev_share=0.2", "--data.dev=x.jsonl"), "cannot act beside the dev file"),
        (("--data.folds=0",), "folds is 0"),
        (("--data.dev_share=0", "--training.patience=1"), "patience=1 cannot act"),
        (("--pooling.name=maen",), "Did you mean 'mean'?"),
        (("--pooling.options={x: 1}",), "'mean' has no option 'x'"),
        (("--encoder.residual_scores=sum",), "residual_scores"),
        (
            ("--text.truncation=head", "--text.window_stride=3"),
            "only acts with truncation 'windows'",
        ),
    ],
    ids=lambda value: value[0].removeprefix("--") if isinstance(value, tuple) else "",
)
def test_a_setting_that_cannot_act_is_refused(folder, tmp_path, settings, message):
    assert message in refused(folder, tmp_path, *settings).message


@pytest.mark.parametrize(
    "settings",
    [
        ("--text.truncation=windows",),
        ("--text.truncation=head_tail", "--text.split_head_tail=true"),
    ],
    ids=["windows", "split_head_tail"],
)
def test_truncations_of_one_text_cannot_be_applied_to_pairs(folder, tmp_path, settings):
    table = texts(60)
    table["other"] = table["text"]
    path = write(table, tmp_path / "pairs.jsonl")
    pair = ("--data.train", path, "--data.pair=true", "--data.text_columns=[text, other]")
    error = refused(folder, tmp_path, *pair, *settings).message
    assert error.startswith("ConfigError") and "pair" in error


def test_another_seed_in_the_same_folder_is_refused(folder):
    finished = run(*command(folder, folder / "run", "--training.seed=1"))
    assert finished.status == 2 and "training.seed is 0 there and 1 here" in finished.message


# nlp_predict


def predicted(folder: Path, tmp_path: Path, *settings: object) -> Finished:
    output = ("--output", tmp_path / "out.jsonl")
    finished = run("nlp_predict", "--run", folder / "run", *output, *settings)
    assert finished.status in (1, 2) and not (tmp_path / "out.jsonl").exists()
    return finished


def test_inputs_that_cannot_be_predicted_are_refused(folder, tmp_path):
    empty = bad_rows(tmp_path, text={2: " "})
    assert "column 'text' has no text in" in predicted(folder, tmp_path, "--input", empty).message
    taken = write(texts(5).assign(prediction="x"), tmp_path / "taken.jsonl")
    error = predicted(folder, tmp_path, "--input", taken).message
    assert "has a column 'prediction' already" in error
    mixed = texts(4).astype(object)
    mixed["mixed"] = [1, "two", [3], None]
    output = (
        "--input",
        write(mixed, tmp_path / "mixed.jsonl"),
        "--output",
        tmp_path / "out.parquet",
    )
    error = predicted(folder, tmp_path, *output).message
    assert "column 'mixed' holds values of several types" in error
    assert not list(tmp_path.glob("out.*"))


def test_other_columns_can_be_read_than_in_training(folder, tmp_path):
    table = texts(9).rename(columns={"text": "first"}).assign(second="bad")
    path = write(table, tmp_path / "renamed.jsonl")
    settings = ("--input", path, "--output", tmp_path / "out.csv")
    assert "no column 'text'" in predicted(folder, tmp_path, *settings).message
    columns = "--text_columns=[first, second]"
    succeed("nlp_predict", "--run", folder / "run", *settings, columns)
    assert len(pd.read_csv(tmp_path / "out.csv")) == 9


def test_an_empty_text_may_be_allowed(folder, tmp_path):
    empty = bad_rows(tmp_path, text={2: " "})
    settings = ("--input", empty, "--output", tmp_path / "out.csv", "--allow_empty=true")
    succeed("nlp_predict", "--run", folder / "run", *settings)
    assert len(pd.read_csv(tmp_path / "out.csv")) == 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("--output=out.xlsx",), "must end in .jsonl, .csv or .parquet"),
        (("--chunk_rows=0",), "chunk_rows is 0; it must be at least 1"),
        (("--token_budget=0",), "token_budget is 0; it must be at least 1"),
    ],
    ids=["output", "chunk_rows", "token_budget"],
)
def test_a_setting_of_the_prediction_out_of_range_is_refused(folder, settings, message):
    finished = run("nlp_predict", "--run", folder / "run", *settings)
    assert finished.status == 2 and message in finished.message


def test_a_damaged_run_is_not_predicted_with(folder, tmp_path):
    copied = Path(shutil.copytree(folder / "run", tmp_path / "copied"))
    (copied / "labels.json").write_text("{}")
    finished = run("nlp_predict", "--run", copied, "--input", folder / "train.jsonl")
    assert finished.status == 1 and "labels.json has" in finished.message
