"""Texts whose words are numbers: their vocabulary, its start, labels as words, and what follows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from idbert.inputs.label_tokens import label_ids
from idbert.inputs.tokenizers import open_tokenizer
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.encoder import Encoder
from idbert.nn.item_models import load_item_model
from idbert.nn.word_models import load_word_model
from idbert.rows import FIRST_ITEM, MASK
from nlp_tasks.cls import Classifier
from nlp_tasks.pretrain.answers import LabelReader
from tests.nlp_tasks.text_world import DECIDING, FILLERS, WORDS, bert_folder, write
from tests.pipelines.commands import TINY, run, succeed, weights
from tests.worlds import cycle_world

LANGUAGE = (*DECIDING[:2], *FILLERS)
NUMBERS = {word: str(100 + 7 * place) for place, word in enumerate(LANGUAGE)}
"""The anonymised language: each word has become a number."""
IDS = ("--vocabulary.kind=words", "--vocabulary.min_frequency=1", "--text.max_length=20")
PAIR = ("--data.text_columns=[text_a,text_b]", "--data.pair=true")
LABELLED = (*PAIR, "--data.label_column=label")
SMALL = ("--batches.token_budget=400", "--training.learning_rate=0.01")
SHAPE = ("--architecture.hidden_size=32", "--architecture.hidden_dropout=0")


def numbers(text: str) -> str:
    return " ".join(NUMBERS[word] for word in text.split())


def reference() -> list[str]:
    """Texts in which every word of the language occurs another number of times."""
    return [" ".join([word] * (place + 1)) for place, word in enumerate(LANGUAGE)]


def pairs(count: int, seed: int = 0) -> pd.DataFrame:
    """Pairs of numbers; they belong together where the second text holds the number of 'good'."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        first, second = (draw.choice(FILLERS, draw.integers(2, 6)).tolist() for _ in range(2))
        second.insert(int(draw.integers(0, len(second))), DECIDING[number % 2])
        rows.append(
            {
                "text_a": numbers(" ".join(first)),
                "text_b": numbers(" ".join(second)),
                "label": 1 - number % 2,
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of words, texts that say how frequent they are, and a run on labelled pairs of ids."""
    folder = tmp_path_factory.mktemp("ids")
    bert_folder(folder / "bert")
    (folder / "reference.txt").write_text("\n".join(reference()) + "\n")
    (folder / "ids.txt").write_text("\n".join(map(numbers, reference())) + "\n")
    write(pairs(300), folder / "train-1.jsonl")
    write(pairs(100, seed=1).drop(columns="label"), folder / "train-2.jsonl")
    write(pairs(60, seed=2), folder / "dev.jsonl")
    succeed(
        *("nlp_pretrain", "--run", folder / "run", f"--data.train={folder / 'train-*.jsonl'}"),
        *(f"--data.dev={folder / 'dev.jsonl'}", *LABELLED, *IDS, *SMALL, *SHAPE),
        *("--data.label_probability=1", "--architecture.initializer_range=0.2"),
        *("--training.epochs=20", "--training.evaluate_every=5"),
        "--training.metric=label_accuracy",  # the area is 1 before the threshold is right
    )
    return folder


def starting(folder: Path, *settings: object) -> tuple[object, ...]:
    """Return settings of a start from the BERT of words, for a training that moves nothing."""
    return (
        *(f"--start.model={folder / 'bert'}", f"--data.train={folder / 'ids.txt'}", *IDS, *SMALL),
        *("--data.dev_share=0", "--training.max_steps=1", *settings),
    )


RANKED = "--start.reference={}/reference.txt"
STILL = "--training.learning_rate=1e-12"


def test_where_ids_are_words_renamed_the_start_computes_what_the_pretrained_encoder_does(
    folder, tmp_path
):
    ranked = RANKED.format(folder)
    succeed("nlp_pretrain", "--run", tmp_path / "run", *starting(folder, ranked, STILL))
    ours = load_word_model(tmp_path / "run/model").backbone.encoder
    theirs = Encoder.from_pretrained(folder / "bert")
    tokenizer = open_tokenizer(tmp_path / "run/tokenizer")
    text = "w3 good w19 w0 bad"
    with torch.no_grad():
        found = ours(tokenizer(numbers(text), return_tensors="pt")["input_ids"])
        right = theirs(open_tokenizer(folder / "bert")(text, return_tensors="pt")["input_ids"])
    torch.testing.assert_close(
        found.last_hidden_state, right.last_hidden_state, rtol=1e-4, atol=1e-4
    )


def table_of(run_folder: Path) -> torch.Tensor:
    return load_word_model(run_folder / "model").get_input_embeddings().weight.detach()


def test_each_setting_of_the_start_acts(folder, tmp_path):
    ranked = RANKED.format(folder)
    rows_of_bert = Encoder.from_pretrained(folder / "bert").get_input_embeddings().weight
    good = WORDS.index("good")

    def trained(name, *settings):
        succeed("nlp_pretrain", "--run", tmp_path / name, *starting(folder, STILL, *settings))
        tokenizer = open_tokenizer(tmp_path / name / "tokenizer")
        row = tokenizer.convert_tokens_to_ids(NUMBERS["good"])
        return load_word_model(tmp_path / name / "model"), table_of(tmp_path / name)[row]

    model, vector_D = trained("first", ranked, "--start.layers=1")
    assert model.config.num_hidden_layers == 1
    torch.testing.assert_close(vector_D, rows_of_bert[good], rtol=0, atol=1e-6)
    model, vector_D = trained("random", "--start.words=random")
    assert model.config.num_hidden_layers == 2
    assert (vector_D - rows_of_bert[good]).abs().max() > 0.01
    layers = ("--start.layers=0", "--architecture.num_layers=3", "--architecture.hidden_size=16")
    model, vector_D = trained("vectors", ranked, *layers)
    assert model.config.num_hidden_layers == 3
    torch.testing.assert_close(vector_D, rows_of_bert[good], rtol=0, atol=1e-6)
    other = tmp_path / "reference.jsonl"
    write(pd.DataFrame({"q": list(reversed(reference())), "n": "w1 w1"}), other)
    columns = "--start.reference_columns=[n]"
    _, vector_D = trained("other", f"--start.reference={other}", columns)
    assert (vector_D - rows_of_bert[good]).abs().max() > 0.01
    _, vector_D = trained("same", f"--start.reference={other}", "--start.reference_columns=[q]")
    torch.testing.assert_close(vector_D, rows_of_bert[good], rtol=0, atol=1e-6)


def test_labels_are_learned_as_words_and_the_model_answers_by_them(folder):
    metrics = json.loads((folder / "run/metrics.json").read_text())["validation"]
    assert metrics["label_auc"] > 0.99 and metrics["label_accuracy"] > 0.95
    reader = LabelReader.load(folder / "run")
    assert reader.names == ("0", "1")
    new = pairs(40, seed=3)
    found_NC = reader.probabilities(new["text_a"].tolist(), new["text_b"].tolist())
    np.testing.assert_allclose(found_NC.sum(1), 1, rtol=1e-5)
    assert (found_NC.argmax(1) == new["label"]).mean() > 0.95
    one_by_one = [
        reader.probabilities([a], [b])
        for a, b in zip(new["text_a"][:5], new["text_b"][:5], strict=True)
    ]
    np.testing.assert_allclose(np.concatenate(one_by_one), found_NC[:5], atol=1e-5)


def test_the_answers_of_the_reader_are_those_that_validation_counts(folder):
    dev = pairs(60, seed=2)
    found_NC = LabelReader.load(folder / "run").probabilities(
        dev["text_a"].tolist(), dev["text_b"].tolist()
    )
    metrics = json.loads((folder / "run/metrics.json").read_text())["validation"]
    curve = json.loads((folder / "run/curve.json").read_text())
    assert any("label_auc" in point for point in curve)
    accuracy = (found_NC.argmax(1) == dev["label"]).mean()
    assert accuracy == pytest.approx(metrics["label_accuracy"])
    assert max(point.get("label_auc", 0) for point in curve) == pytest.approx(metrics["label_auc"])


def test_the_report_shows_the_labels_figures(folder):
    report = (folder / "run/report.html").read_text()
    assert "Hidden labels restored" in report and "AUC of the labels" in report
    assert "[LABEL_" in report


def test_a_classifier_of_pairs_starts_from_the_run(folder, tmp_path):
    succeed(
        *("nlp_cls", "--run", tmp_path / "cls", "--model", folder / "run", *PAIR, *SMALL),
        *("--text.max_length=20", f"--data.train={folder / 'train-1.jsonl'}"),
        *(f"--data.dev={folder / 'dev.jsonl'}", "--training.epochs=3"),
    )
    metrics = json.loads((tmp_path / "cls/metrics.json").read_text())["validation"]
    assert metrics["accuracy"] > 0.9
    assert Classifier.load(tmp_path / "cls").models[0].config.vocab_size == len(
        table_of_run(folder)
    )


def table_of_run(folder: Path) -> torch.Tensor:
    return table_of(folder / "run")


def test_a_published_model_gets_rows_for_labels_and_keeps_the_others(folder, tmp_path):
    frame = pd.DataFrame(
        {"text_a": ["w1 w2"] * 9, "text_b": ["good w3"] * 9, "label": [0, 1, 2] * 3}
    )
    write(frame, tmp_path / "train.jsonl")
    settings = (f"--model={folder / 'bert'}", f"--data.train={tmp_path / 'train.jsonl'}", *LABELLED)
    small = ("--text.max_length=20", "--data.dev_share=0", "--training.max_steps=1", STILL)
    succeed("nlp_pretrain", "--run", tmp_path / "run", *settings, *small)
    tokenizer = open_tokenizer(tmp_path / "run/tokenizer")
    assert list(label_ids(tokenizer)) == ["0", "1", "2"]
    table_VD = table_of(tmp_path / "run")
    assert len(table_VD) == len(tokenizer) == len(WORDS) + 4
    before = Encoder.from_pretrained(folder / "bert").get_input_embeddings().weight
    torch.testing.assert_close(table_VD[: len(WORDS)], before, rtol=0, atol=1e-6)
    more = ("--model", tmp_path / "run", f"--data.train={tmp_path / 'train.jsonl'}", *LABELLED)
    succeed("nlp_pretrain", "--run", tmp_path / "more", *more, *small)
    assert len(table_of(tmp_path / "more")) == len(table_VD)


def test_pairs_without_labels_are_learned_too_and_the_same_command_gives_the_same_weights(
    folder, tmp_path
):
    settings = (f"--data.train={folder / 'train-2.jsonl'}", *PAIR, *IDS, *SMALL)
    for name in ("one", "two"):
        succeed("nlp_pretrain", "--run", tmp_path / name, *settings, "--training.max_steps=2")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert label_ids(open_tokenizer(tmp_path / "one/tokenizer")) == {}
    metrics = json.loads((tmp_path / "one/metrics.json").read_text())["validation"]
    assert "label_accuracy" not in metrics and "accuracy" in metrics


@pytest.mark.parametrize(
    ("settings", "status", "words"),
    [
        (("--model=bert",), 2, "vocabulary is set and cannot act"),
        (("--start.model=x", "--start.reference=y", *SHAPE), 2, "architecture is set and cannot a"),
        (("--encoder.hidden_dropout=0.2",), 2, "encoder is set and cannot act: it changes a pre"),
        ((*PAIR, "--next_sentence=true"), 2, "next_sentence makes pairs of a document's sentence"),
        (("--start.model=bert", "--start.reference=none.txt"), 1, "there is no file 'none.txt'"),
    ],
)
def test_settings_that_cannot_act_together_are_refused(folder, tmp_path, settings, status, words):
    here = [str(one).replace("=bert", f"={folder / 'bert'}") for one in settings]
    train = f"--data.train={folder / 'train-2.jsonl'}"
    columns = () if "--data.pair=true" in here else ("--data.text_columns=[text_a]",)
    finished = run("nlp_pretrain", "--run", tmp_path / "run", train, *columns, *IDS, *here)
    assert finished.status == status and words in finished.message


def test_a_start_that_does_not_fit_is_refused_before_training(folder, tmp_path):
    ranked = RANKED.format(folder)
    for settings, words in (
        ((ranked, "--start.layers=0"), "Build the encoder with hidden_size=16"),
        ((ranked, "--start.layers=5"), "layers is 5, and the encoder has 2"),
    ):
        finished = run("nlp_pretrain", "--run", tmp_path / "run", *starting(folder, *settings))
        assert finished.status == 2 and words in finished.message


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.csv"
    events = cycle_world()
    extra = events[events["item_id"] == events["item_id"].iloc[0]]
    pd.concat([events, extra.assign(timestamp=extra["timestamp"] + 1)]).to_csv(path, index=False)
    return path


def test_items_start_by_popularity_with_the_vectors_of_frequent_words(folder, log, tmp_path):
    def trained(name, *settings):
        succeed(
            *("rec_pretrain", "--run", tmp_path / name, f"--data.source={log}", *TINY[1:]),
            *("--model.hidden_size=16", "--model.intermediate_size=32", STILL, *settings),
        )
        return load_item_model(tmp_path / name / "model")

    start = (f"--start.model={folder / 'bert'}", RANKED.format(folder))
    table_VD = trained("ranked", *start).get_input_embeddings().weight.detach()
    theirs = Encoder.from_pretrained(folder / "bert")
    rows = theirs.get_input_embeddings().weight
    vocabulary = Vocabulary.load(tmp_path / "ranked")
    by_frequency = [WORDS.index(word) for word in reversed(LANGUAGE)]
    count = min(vocabulary.num_items, len(by_frequency))
    torch.testing.assert_close(
        table_VD[FIRST_ITEM : FIRST_ITEM + count],
        rows[by_frequency[:count]],
        rtol=0,
        atol=1e-6,
    )
    torch.testing.assert_close(table_VD[MASK], rows[WORDS.index("[MASK]")], rtol=0, atol=1e-6)
    layer = trained("layers", *start, "--start.layers=1").backbone.encoder.encoder.layer[0]
    for name, tensor in theirs.encoder.layer[0].state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_a_start_of_items_that_does_not_fit_is_refused(folder, log, tmp_path):
    start = (f"--start.model={folder / 'bert'}", RANKED.format(folder))
    data = f"--data.source={log}"
    finished = run("rec_pretrain", "--run", tmp_path / "run", data, *TINY, *start)
    assert finished.status == 2 and "Build the encoder with hidden_size=16" in finished.message
    wide = ("--model.hidden_size=16", "--model.intermediate_size=64", "--start.layers=1")
    finished = run("rec_pretrain", "--run", tmp_path / "run", data, *wide, *start)
    assert finished.status == 2
    assert "intermediate_size 32 there, 64 here" in finished.message
