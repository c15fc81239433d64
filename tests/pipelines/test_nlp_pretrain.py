"""nlp_pretrain, walked through on a language in which every word says what the next one is."""

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForPreTraining, BertTokenizer

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.label_tokens import add_label_tokens
from idbert.inputs.tokenizers import open_tokenizer
from idbert.inputs.word_masking import WordMaskingSettings
from idbert.nn.config import EncoderSettings
from idbert.nn.encoder import Encoder
from idbert.nn.item_models import MaskedItemModel
from idbert.nn.word_models import load_word_model
from nlp_tasks.cls import Classifier
from nlp_tasks.pretrain import validation
from nlp_tasks.pretrain.corpus import CorpusSettings, hold_out
from nlp_tasks.pretrain.masked_data import masked_data
from nlp_tasks.pretrain.pairs import TextPairs
from nlp_tasks.pretrain.report import PretrainContent, pretrain_report_html
from nlp_tasks.pretrain.validation import Piece
from pipelines.nlp_pretrain import NlpPretrainSettings, data_of, target_counts
from tests.nlp_tasks.text_world import WORDS, bert_folder, texts, write
from tests.pipelines.commands import run, succeed, weights

GOLDEN = Path(__file__).parents[1] / "goldens" / "nezha_k8_h48"
CYCLE = [f"{a}{b}" for a in "klm" for b in "aeio"]
"""12 words; each is followed by the next, the last by the first."""
SMALL = ("--text.max_length=16", "--training.learning_rate=0.01", "--batches.token_budget=200")
HIDDEN = ("--masking.mask_share=1", "--masking.random_share=0")
"""Every target is hidden, so that none can be copied."""
TINY = (*SMALL, "--training.max_steps=2")
"""A training that ends at once and learns nothing."""


def circle(count: int) -> list[str]:
    """Walks round the circle, of 5 to 12 words."""
    draw = np.random.default_rng(0)
    walks = [(draw.integers(len(CYCLE)), draw.integers(5, 13)) for _ in range(count)]
    return [" ".join(CYCLE[(s + n) % len(CYCLE)] for n in range(words)) for s, words in walks]


def lines(path: Path, documents: list[str]) -> Path:
    path.write_text("\n".join(documents) + "\n", encoding="utf-8")
    return path


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["validation"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The circle in words, a model made of it from nothing, and a BERT of other words."""
    folder = tmp_path_factory.mktemp("words")
    lines(folder / "circle.txt", circle(300))
    bert_folder(folder / "bert")
    write(texts(300), folder / "reviews.jsonl")
    succeed(
        *("nlp_pretrain", "--run", folder / "run", f"--data.train={folder / 'circle.txt'}"),
        *(
            "--architecture.kind=nezha",
            "--architecture.initializer_range=0.2",
            "--data.dev_share=0.2",
        ),
        *("--architecture.hidden_size=32", "--architecture.hidden_dropout=0", *SMALL, *HIDDEN),
        *("--training.epochs=30", "--training.evaluate_every=10"),
        "--training.learning_rate=0.005",  # at twice that some processors end below 95%
    )
    return folder


@pytest.mark.parametrize("distribution", ["popularity", "in_batch", "mixed"])
def test_negatives_may_be_drawn_by_how_often_tokens_occur(distribution, folder, tmp_path):
    options = f'--loss.options={{"negatives": 8, "distribution": "{distribution}"}}'
    data = f"--data.train={folder / 'circle.txt'}"
    succeed(
        *("nlp_pretrain", "--run", tmp_path / "run", data, "--loss.name=sampled", options),
        *("--architecture.hidden_size=8", *TINY),
    )


def test_special_tokens_are_no_targets_and_labels_are(folder):
    config = NlpPretrainSettings(model=str(folder / "bert"))
    tokenizer = open_tokenizer(folder / "bert")
    add_label_tokens(tokenizer, ["good", "bad"])
    pairs = TextPairs(["good w1"] * 3, ["w2"] * 3, ["good", "bad", "good"])
    model = SimpleNamespace(config=SimpleNamespace(type_vocab_size=2))
    data = data_of(pairs, config, tokenizer, model, seed=0)
    counts_V = target_counts(data, tokenizer, len(tokenizer))
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    found = {token: count for token, count in zip(tokens, counts_V, strict=True) if count}
    assert found == {"good": 3, "w1": 3, "w2": 3, "[LABEL_good]": 2, "[LABEL_bad]": 1}


def command(folder: Path, run_folder: Path, *settings: object) -> tuple[object, ...]:
    """Return nlp_pretrain of the BERT on the reviews; later settings win."""
    data = ("--model", folder / "bert", "--data.train", folder / "reviews.jsonl")
    return ("nlp_pretrain", "--run", run_folder, *data, *TINY, *settings)


def test_a_language_without_chance_is_learned_from_nothing(folder):
    assert metrics(folder / "run")["accuracy"] > 0.95
    curve = json.loads((folder / "run/curve.json").read_text())
    assert {"epoch", "loss", "validation_loss", "accuracy", "perplexity"} <= curve[-1].keys()
    losses = [row["validation_loss"] for row in curve if "validation_loss" in row]
    assert len(losses) == 3 and losses[-1] < 0.3 < losses[0]
    assert metrics(folder / "run")["loss"] == pytest.approx(min(losses), rel=1e-4)


def test_a_run_holds_tokenizer_weights_curve_and_a_report_with_restored_words(folder):
    marker = json.loads((folder / "run/run.json").read_text())
    assert {"config.yaml", "model/model.safetensors", "tokenizer/tokenizer.json"} <= set(
        marker["files"]
    )
    report = (folder / "run/report.html").read_text()
    assert "Hidden words restored" in report and 'class="hidden right"' in report
    assert "data.train" in report and "<svg" in report


def test_a_classifier_starts_from_the_run(folder, tmp_path):
    frozen = ("--training.frozen_layers=all", "--pooling.name=mean")
    succeed(
        *("nlp_cls", "--run", tmp_path / "cls", "--model", folder / "run", *TINY, *frozen),
        *("--data.train", folder / "reviews.jsonl"),
    )
    theirs = load_word_model(folder / "run/model").backbone.encoder.state_dict()
    for name, tensor in (
        Classifier.load(tmp_path / "cls").models[0].backbone.encoder.state_dict().items()
    ):
        assert torch.equal(tensor, theirs[name]), name


def test_the_texts_of_a_task_are_learned_before_the_task(folder, tmp_path):
    settings = ("--data.dev_share=0.2", "--training.learning_rate=0.01")
    succeed(*command(folder, tmp_path / "first", *settings, "--training.max_steps=1"))
    succeed(*command(folder, tmp_path / "adapted", *settings, "--training.max_steps=80"))
    assert metrics(tmp_path / "adapted")["loss"] < metrics(tmp_path / "first")["loss"] - 0.5
    succeed(
        *("nlp_cls", "--run", tmp_path / "cls", "--model", tmp_path / "adapted", *SMALL),
        *("--data.train", folder / "reviews.jsonl", "--training.epochs=5"),
    )
    assert metrics(tmp_path / "cls")["accuracy"] == 1
    assert Classifier.load(tmp_path / "cls").predict(["w1 odd w2"])["prediction"][0] == "odd"


def test_training_begins_with_the_checkpoints_weights_and_moves_the_embeddings(folder, tmp_path):
    before = load_file(folder / "bert/model.safetensors")
    succeed(*command(folder, tmp_path / "still", "--training.learning_rate=1e-12"))
    succeed(*command(folder, tmp_path / "moved", "--training.learning_rate=0.01"))
    table = "embeddings.word_embeddings.weight"
    still = load_file(tmp_path / "still/model/model.safetensors")
    for name, tensor in before.items():
        torch.testing.assert_close(still[f"backbone.encoder.{name}"], tensor, rtol=0, atol=1e-6)
    moved = load_file(tmp_path / "moved/model/model.safetensors")[f"backbone.encoder.{table}"]
    assert (moved - before[table]).abs().max() > 1e-3


def test_the_heads_of_a_checkpoint_are_trained_further_too(folder, tmp_path):
    config = Encoder.from_pretrained(folder / "bert").config
    fields = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    torch.manual_seed(1)
    model = BertForPreTraining(
        BertConfig(
            **{name: getattr(config, name) for name in fields},
            intermediate_size=32,
            max_position_embeddings=32,
        )
    )
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(tmp_path / "bert")
    shutil.copy(folder / "bert/vocab.txt", tmp_path / "bert")
    slow = ("--model", tmp_path / "bert", "--training.learning_rate=1e-12")
    finished = succeed(*command(folder, tmp_path / "run", *slow))
    assert "the masked-word head is the checkpoint's" in finished.err
    head = load_word_model(tmp_path / "run/model").head
    torch.testing.assert_close(head.bias, model.cls.predictions.bias, rtol=0, atol=1e-6)


def test_a_nezha_is_trained_further_as_a_nezha(folder, tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "nezha")
    shutil.copy(folder / "bert/vocab.txt", tmp_path / "nezha")
    succeed(*command(folder, tmp_path / "run", "--model", tmp_path / "nezha"))
    model = load_word_model(tmp_path / "run/model")
    assert model.config.encoder_kind == "nezha" and model.config.max_relative_position == 8
    succeed(
        *("nlp_cls", "--run", tmp_path / "cls", "--model", tmp_path / "run", *TINY),
        *("--data.train", folder / "reviews.jsonl"),
    )


def test_a_finished_run_is_trained_further_with_its_heads_and_tokenizer(folder, tmp_path):
    more = ("--model", folder / "run", "--data.train", folder / "circle.txt")
    slow = ("--training.learning_rate=1e-12", "--data.dev_share=0.2")
    finished = succeed(*command(folder, tmp_path / "run", *more, *slow, *HIDDEN))
    assert "the masked-word head is the checkpoint's" in finished.err
    first = metrics(folder / "run")
    assert metrics(tmp_path / "run") == pytest.approx(first, rel=1e-4)


def test_a_training_stopped_by_sigterm_resumes_to_the_same_weights(folder, tmp_path, monkeypatch):
    data = f"--data.train={folder / 'circle.txt'}"
    settings = ("--training.max_steps=12", "--training.evaluate_every=0.2", data)
    small = ("--architecture.hidden_size=16", "--masking.unit=ngram", *SMALL, *settings)
    succeed("nlp_pretrain", "--run", tmp_path / "whole", *small)
    with monkeypatch.context() as patched:
        measure = validation.word_metrics
        patched.setattr(
            validation,
            "word_metrics",
            lambda model, data: signal.raise_signal(signal.SIGTERM) or measure(model, data),
        )
        stopped = run("nlp_pretrain", "--run", tmp_path / "stopped", *small)
    assert stopped.status == 143 and "The same command resumes there" in stopped.err
    assert not (tmp_path / "stopped/model").exists()
    resumed = succeed("nlp_pretrain", "--run", tmp_path / "stopped", *small)
    assert "resuming from" in resumed.err
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    curves = [json.loads((tmp_path / n / "curve.json").read_text()) for n in ("stopped", "whole")]
    assert curves[0][-1]["validation_loss"] == curves[1][-1]["validation_loss"]


def test_a_finished_run_is_left_alone_and_its_report_can_be_made_again(folder, tmp_path):
    copied = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    settings = ("nlp_pretrain", "--config", copied / "config.yaml", "--run", copied)
    assert "nothing is left to do" in succeed(*settings).err
    before = metrics(copied)
    (copied / "report.html").unlink()
    (copied / "metrics.json").unlink()
    again = succeed(*settings)
    assert "step" not in again.err and metrics(copied) == before


@pytest.mark.parametrize("unit", ["token", "word", "ngram"])
def test_pairs_are_learned_beside_words(folder, tmp_path, unit):
    stories = [". ".join(" ".join([f"w{n % 20}"] * 3) for _ in range(6)) + "." for n in range(60)]
    lines(tmp_path / "stories.txt", stories)
    pairs = ("--next_sentence=true", "--data.dev_share=0.3", f"--masking.unit={unit}")
    data = ("--data.train", tmp_path / "stories.txt", "--text.max_length=32")
    succeed(*command(folder, tmp_path / "run", *data, *pairs))
    found = metrics(tmp_path / "run")
    assert {"next_sentence_accuracy", "next_sentence_loss"} <= found.keys()
    model = load_word_model(tmp_path / "run/model")
    assert model.next_sentence is not None and model.backbone.encoder.pooler is not None


def test_a_report_escapes_what_comes_from_the_texts():
    hostile = "<script>alert(1)</script>"
    page = pretrain_report_html(
        PretrainContent(
            title=hostile,
            examples=[[Piece(hostile), Piece("word", hostile, 0.5)]],
            settings={"data": {"train": hostile}},
        )
    )
    assert "<script>" not in page and page.count("&lt;script&gt;") >= 4
    assert "not recorded" not in page and "Training" not in page


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--architecture.num_layers=3"], "architecture is set and cannot act: .*bert brings its"),
        (["--vocabulary.size=99"], "vocabulary is set and cannot act"),
        (["--model=null", "--encoder.hidden_dropout=0.2"], "it changes a pretrained model"),
        (["--text.max_length=99"], "text.max_length is 99, and the model reads at most 32"),
        (["--text.max_length=2"], "max_length 2 leaves 0 tokens for the text"),
        (["--data.train=nowhere.txt"], "there is no file 'nowhere.txt'"),
        (["--data.train=."], r"there is no file '\.'. To read all files of a folder, give"),
        (["--data.text_columns=[txt]"], "has no column 'txt'"),
        (["--data.dev=x.txt", "--data.dev_share=0.1"], "cannot act beside the dev file x.txt"),
        (["--data.dev_share=1.5"], "dev_share is 1.5"),
        (["--training.metric=f1"], "There is no metric 'f1'"),
        (["--model=nowhere/at/all"], "nowhere/at/all"),
        (["--masking.probability=2"], "probability is 2"),
    ],
)
def test_what_cannot_be_is_refused_before_training(folder, tmp_path, settings, words):
    failed = run(*command(folder, tmp_path / "run", *settings))
    assert failed.status in (1, 2)
    assert pd.Series([failed.message]).str.contains(words).all(), failed.message


def test_texts_that_cannot_be_used_are_refused(folder, tmp_path):
    for name, content, words in (
        ("blank.txt", b"\n \n\n", "holds no text. Give texts to learn from"),
        ("gbk.txt", "好".encode("gbk"), "is not UTF-8: line 1"),
        ("one.txt", b"good bad", "of 1 different texts, 1 cannot be held out"),
        ("foreign.txt", "好\n坏\n差\n".encode(), "no text holds a token that the tokenizer knows"),
    ):
        (tmp_path / name).write_bytes(content)
        failed = run(*command(folder, tmp_path / "run", "--data.train", tmp_path / name))
        assert failed.status == 1 and words in failed.message, failed.message
    (tmp_path / "single.txt").write_text("good\nbad\nodd\nw1 w2\nw3\n")
    pairs = ("--next_sentence=true", "--data.train", tmp_path / "single.txt")
    failed = run(*command(folder, tmp_path / "run", *pairs))
    assert "The texts held out cannot be used: 0 of 2 documents have two" in failed.message
    with pytest.raises(ConfigError, match="text_columns names t, and .* is read line by line"):
        CorpusSettings(text_columns=("t",)).read(str(tmp_path / "one.txt"))
    with pytest.raises(DataError, match="cannot be held out"):
        hold_out(["a", "a"], 0.5, seed=0)


def test_models_that_know_no_words_are_refused(folder, tmp_path):
    settings = EncoderSettings(hidden_size=8, max_length=32)
    MaskedItemModel.build(settings, vocab_size=len(WORDS)).save_pretrained(tmp_path / "items")
    shutil.copy(folder / "bert/vocab.txt", tmp_path / "items")
    failed = run(*command(folder, tmp_path / "run", "--model", tmp_path / "items"))
    assert "holds a MaskedItemModel: an encoder of item ids" in failed.message
    no_mask = BertTokenizer(vocab={word: row for row, word in enumerate(WORDS)}, mask_token=None)
    with pytest.raises(CheckpointError, match="has no mask token"):
        masked_data(
            ["good"], no_mask, WordMaskingSettings(), max_length=8, next_sentence=False, seed=0
        )
