"""Prediction: in the texts' order, whatever the batches, windows averaged, folds averaged."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.templates import Templates
from idbert.inputs.text import TextSettings
from idbert.inputs.tokenizers import open_tokenizer
from idbert.run_dir import RunDir
from nlp_tasks.cls import Classifier
from nlp_tasks.cls.labels import LabelMap
from nlp_tasks.cls.model import TextClassifier
from nlp_tasks.cls.prediction import text_logits
from nlp_tasks.cls.reading import TextReader
from tests.nlp_tasks.text_world import DECIDING, bert_folder, texts

LABELS = {
    "single": LabelMap("single", DECIDING),
    "multi": LabelMap("multi", DECIDING),
    "number": LabelMap("number"),
}
TEXTS = texts(30)["text"].tolist()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "tiny")


def models(bert: Path, kind: str, count: int) -> list[TextClassifier]:
    torch.manual_seed(0)
    outputs = LABELS[kind].num_outputs
    built = [TextClassifier.build(bert, kind=kind, num_outputs=outputs) for _ in range(count)]
    for model in built:  # predictions far enough apart to be seen
        torch.nn.init.normal_(model.head.head.output.weight)
    return built


def classifier(
    bert: Path,
    kind: str = "single",
    count: int = 1,
    text: TextSettings | None = None,
    **reading: object,
) -> Classifier:
    reader = TextReader(open_tokenizer(bert), text or TextSettings(max_length=16), **reading)
    return Classifier(models(bert, kind, count), reader, LABELS[kind])


@pytest.mark.parametrize("kind", LABELS)
def test_predictions_do_not_depend_on_the_texts_beside(bert, kind):
    whole = classifier(bert, kind)
    decided, probabilities = whole.decide(TEXTS)
    whole._token_budget = 1  # every text alone
    alone, probable = whole.decide(TEXTS)
    assert np.allclose(decided.astype(float), alone.astype(float), atol=1e-5)
    assert probabilities is None or np.allclose(probabilities, probable, atol=1e-5)
    turned, _ = whole.decide(TEXTS[::-1])
    assert np.allclose(turned[::-1].astype(float), alone.astype(float), atol=1e-5)


def test_one_label_comes_with_its_probability(bert):
    predicted = classifier(bert).predict(TEXTS, probabilities=True)
    probabilities = classifier(bert).predict_proba(TEXTS)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert predicted["prediction"].tolist() == [DECIDING[c] for c in probabilities.argmax(1)]
    assert np.allclose(predicted["probability"], probabilities.max(axis=1))
    assert np.allclose(np.stack(predicted["probabilities"].tolist()), probabilities)
    assert predicted["prediction"].nunique() > 1


def test_several_labels_are_those_above_one_half(bert):
    predicted = classifier(bert, "multi").predict(TEXTS)
    probabilities = classifier(bert, "multi").predict_proba(TEXTS)
    expected = [[n for n, p in zip(DECIDING, row, strict=True) if p > 0.5] for row in probabilities]
    assert predicted["prediction"].tolist() == expected
    chosen = [[p for p in row if p > 0.5] for row in probabilities]
    assert all(np.allclose(a, b) for a, b in zip(predicted["probability"], chosen, strict=True))


def test_a_number_has_no_probability(bert):
    regressor = classifier(bert, "number")
    regressor.models[0].fit(torch.tensor([10.0, 30.0]))
    assert list(regressor.predict(TEXTS).columns) == ["prediction"]
    logits = text_logits(regressor.models[0], regressor.reader.encode(TEXTS), pad_id=0)
    assert np.allclose(regressor.predict(TEXTS)["prediction"], 20 + 10 * logits[:, 0])
    with pytest.raises(ConfigError, match="numbers, which have no probabilities"):
        regressor.predict_proba(TEXTS)


@pytest.mark.parametrize("kind", LABELS)
def test_the_predictions_of_folds_are_averaged(bert, kind):
    together = classifier(bert, kind, 2)
    each = [
        Classifier([model], together.reader, together.labels).decide(TEXTS)
        for model in together.models
    ]
    decided, probabilities = together.decide(TEXTS)
    if kind == "number":
        assert np.allclose(decided, (each[0][0] + each[1][0]) / 2)
        return
    mean = (each[0][1] + each[1][1]) / 2
    assert np.allclose(probabilities, mean, atol=1e-6)
    expected = mean.argmax(axis=1) if kind == "single" else mean > 0.5
    assert (decided == expected).all()


def test_the_logits_of_windows_are_averaged(bert):
    settings = TextSettings(max_length=8, truncation="windows", window_stride=3)
    reader = TextReader(open_tokenizer(bert), settings)
    (model,) = models(bert, "single", 1)
    long = " ".join(f"w{number}" for number in range(12))
    logits = text_logits(model, reader.encode([TEXTS[0], long, "good"]), pad_id=0)
    words = long.split()
    windows = [" ".join(words[start : start + 6]) for start in (0, 3, 6)]
    parts = text_logits(model, reader.encode(windows), pad_id=0)
    assert torch.allclose(logits[1], parts.mean(dim=0), atol=1e-5)


def test_prediction_keeps_no_graph_and_leaves_the_model_in_its_mode(bert):
    (model,) = models(bert, "single", 1)
    reader = TextReader(open_tokenizer(bert), TextSettings(max_length=16))
    encoded = reader.encode(TEXTS)
    model.train()
    assert not text_logits(model, encoded, pad_id=0).requires_grad
    assert torch.equal(text_logits(model, encoded, pad_id=0), text_logits(model, encoded, pad_id=0))
    assert model.training


def test_an_empty_text_is_refused_or_predicted_from_nothing(bert):
    with pytest.raises(DataError, match="row 1"):
        classifier(bert).predict(["good", " "])
    assert len(classifier(bert).predict(["good", " "], allow_empty=True)) == 2


def test_texts_of_only_unknown_tokens_are_predicted_and_counted(bert, caplog):
    with caplog.at_level("WARNING", logger="idbert"):
        assert len(classifier(bert).predict(["good", "совсем другое"])) == 2
    assert "1 of 2 texts hold no token that the tokenizer knows" in caplog.text


def test_pairs_are_for_a_classifier_of_pairs(bert):
    with pytest.raises(DataError, match="reads single texts, not pairs"):
        classifier(bert).predict(["good"], ["bad"])
    with pytest.raises(DataError, match="reads pairs of texts"):
        classifier(bert, is_pair=True).predict(["good"])
    assert len(classifier(bert, is_pair=True).predict(["good"], ["bad w1"])) == 1


def test_a_reader_is_saved_whole(bert, tmp_path):
    reader = TextReader(
        open_tokenizer(bert),
        TextSettings(max_length=12, truncation="head_tail", head_tokens=3),
        is_pair=True,
        templates=Templates(frozenset({"w1 w2."})),
        num_token_types=1,
    )
    reader.save(tmp_path)
    loaded = TextReader.load(tmp_path)
    assert loaded.settings == reader.settings and loaded.templates == reader.templates
    assert (loaded.is_pair, loaded.num_token_types) == (True, 1)
    pair = (["w1 w2. good " + "w3 " * 20], ["bad"])
    assert (loaded.encode(*pair).ids == reader.encode(*pair).ids).all()
    assert loaded.encode(*pair).type_ids is None
    (tmp_path / "reading.json").write_text('{"text": {"max_length": 0}}')
    with pytest.raises(CheckpointError, match="does not say how texts are read: max_length is 0"):
        TextReader.load(tmp_path)
    (tmp_path / "reading.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no reading\.json"):
        TextReader.load(tmp_path)


def test_templates_are_dropped_before_a_text_is_read(bert):
    templates = Templates(frozenset({"w1 w2."}))
    plain, dropping = classifier(bert), classifier(bert, templates=templates)
    assert (dropping.decide(["w1 w2. good w3"])[1] == plain.decide(["good w3"])[1]).all()


@pytest.mark.parametrize("templates", [(), ("w1 w2.",)])
def test_what_is_no_list_of_texts_is_refused_with_and_without_templates(bert, templates):
    reading = classifier(bert, templates=Templates(frozenset(templates)))
    with pytest.raises(DataError, match=r"not one text. Give \['good'\]"):
        reading.predict("good")
    with pytest.raises(DataError, match="hold half a character, a lone surrogate: row 1"):
        reading.predict(["good", "\ud83d"])


@pytest.mark.parametrize("truncation", ["head", "key_sentences"])
def test_a_column_of_a_table_is_read_in_its_order_whatever_its_index(bert, truncation):
    long = pd.Series(["good w1. " + "w2 w3. " * 9, "bad w3. " + "w1 w2. " * 9, "odd", "жжж"])
    shuffled = long.sample(frac=1, random_state=1)
    reading = classifier(bert, text=TextSettings(12, truncation))
    wanted = reading.predict_proba(shuffled.tolist())
    assert (reading.predict_proba(shuffled) == wanted).all()
    pairs = classifier(bert, text=TextSettings(12, truncation), is_pair=True)
    wanted = pairs.predict_proba(shuffled.tolist(), long.tolist())
    assert (pairs.predict_proba(shuffled, long) == wanted).all()


def test_labels_and_model_must_fit(bert):
    reader = TextReader(open_tokenizer(bert), TextSettings(max_length=16))
    with pytest.raises(CheckpointError, match="3 outputs and there are 2 labels"):
        Classifier(models(bert, "single", 1), reader, LabelMap("single", ("a", "b")))


@pytest.mark.parametrize("device", ["gpu", "xpu:7"])
def test_a_device_that_is_not_there_is_refused(bert, device):
    reader = TextReader(open_tokenizer(bert), TextSettings(max_length=16))
    with pytest.raises(ConfigError, match=f"device is '{device}', which cannot be used here"):
        Classifier(models(bert, "single", 1), reader, LABELS["single"], device=device)


def test_only_a_finished_run_of_nlp_cls_is_opened(tmp_path):
    with pytest.raises(CheckpointError, match="no run at"):
        Classifier.load(tmp_path / "none")
    RunDir.create(tmp_path / "other", "rec_pretrain", {})
    with pytest.raises(CheckpointError, match="stage 'rec_pretrain'; needed: nlp_cls"):
        Classifier.load(tmp_path / "other")
    RunDir.create(tmp_path / "unfinished", "nlp_cls", {})
    with pytest.raises(CheckpointError, match="training has not finished"):
        Classifier.load(tmp_path / "unfinished")
