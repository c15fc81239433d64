"""The start of a linear head as a regression on the pretrained encoder's vectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from idbert.errors import ConfigError
from idbert.inputs.text import EncodedTexts, TextSettings, encode_texts
from idbert.inputs.tokenizers import open_tokenizer
from idbert.nn.blocks import BlockSettings
from idbert.nn.fusion import FusionSettings
from idbert.nn.heads import HeadSettings
from idbert.nn.pooling import PoolingSettings
from idbert.nn.structure import StructureSettings
from nlp_tasks.cls import probe
from nlp_tasks.cls.config import ClassifierLossSettings
from nlp_tasks.cls.model import TextClassifier
from nlp_tasks.cls.prediction import text_logits
from nlp_tasks.cls.probe import start_from_probe, uses_probe
from tests.nlp_tasks.text_world import DECIDING, bert_folder, several, texts


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "tiny")


def build(bert: Path, kind: str = "single", num_outputs: int = 3, **settings) -> TextClassifier:
    torch.manual_seed(0)
    return TextClassifier.build(bert, kind=kind, num_outputs=num_outputs, **settings)


def encode(bert: Path, written, **settings) -> EncodedTexts:
    return encode_texts(list(written), open_tokenizer(bert), TextSettings(**settings))


def logits(model: TextClassifier, encoded: EncodedTexts) -> torch.Tensor:
    return text_logits(model, encoded, pad_id=0)


def classes_of(table) -> np.ndarray:
    return table["label"].map(DECIDING.index).to_numpy()


def test_the_head_says_what_the_regression_says_and_the_encoder_stays(bert):
    table = texts(120)
    model, encoded, targets = build(bert), encode(bert, table["text"]), classes_of(table)
    before = {name: t.clone() for name, t in model.backbone.state_dict().items()}
    start_from_probe(model, encoded, targets, pad_id=0)
    vectors = probe._pooled(model, encoded, np.arange(120), 0, "float32")
    strength = probe._inverse_penalty(vectors)
    fitted = LogisticRegression(C=strength, max_iter=probe.MAX_ITERATIONS).fit(vectors, targets)
    said = logits(model, encoded).softmax(1).numpy()
    np.testing.assert_allclose(said, fitted.predict_proba(vectors), atol=0.01)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert (said.argmax(1) == targets).mean() > 0.5


def test_two_classes_get_a_row_of_weights_each(bert):
    table = texts(100, classes=("good", "bad"))
    model, encoded = build(bert, num_outputs=2), encode(bert, table["text"])
    start_from_probe(model, encoded, classes_of(table), pad_id=0)
    rows = model.head.head.output.weight.detach()
    torch.testing.assert_close(rows[0], -rows[1])
    assert (logits(model, encoded).argmax(1).numpy() == classes_of(table)).mean() > 0.7


def test_several_labels_get_a_regression_each_and_a_label_nobody_has_an_unlikely_start(bert):
    table = several(150)
    hot = np.array([[w in labels for w in DECIDING] for labels in table["labels"]], np.float32)
    hot = np.concatenate([hot, np.zeros((150, 1), np.float32)], axis=1)
    model, encoded = build(bert, "multi", 4), encode(bert, table["text"])
    start_from_probe(model, encoded, hot, pad_id=0)
    said = logits(model, encoded) > 0
    assert (said[:, :3].numpy() == (hot[:, :3] > 0.5)).mean() > 0.75
    assert not said[:, 3].any()


def test_numbers_are_learned_in_units_of_their_spread(bert):
    table = texts(120)
    numbers = (100 + 50 * classes_of(table)).astype(np.float32)
    model, encoded = build(bert, "number", 1), encode(bert, table["text"])
    model.fit(torch.from_numpy(numbers))
    start_from_probe(model, encoded, numbers, pad_id=0)
    predicted = model.decide(logits(model, encoded)).numpy()
    assert np.corrcoef(predicted, numbers)[0, 1] > 0.5
    assert predicted.mean() == pytest.approx(numbers.mean(), rel=0.05)


def test_windows_share_the_label_of_their_text(bert):
    table = texts(60)
    model = build(bert)
    encoded = encode(bert, table["text"] + " " + table["text"], max_length=6, truncation="windows")
    assert len(encoded) > 60
    start_from_probe(model, encoded, classes_of(table), pad_id=0)
    assert (logits(model, encoded).argmax(1).numpy() == classes_of(table)).mean() > 0.6


def test_of_many_texts_a_part_is_enough(bert, monkeypatch):
    table = texts(120)
    model, encoded = build(bert), encode(bert, table["text"])
    start_from_probe(model, encoded, classes_of(table), pad_id=0)
    of_all = model.head.head.output.weight.detach().clone()
    monkeypatch.setattr(probe, "PROBE_ROWS", 60)
    start_from_probe(model, encoded, classes_of(table), pad_id=0)
    assert not torch.equal(model.head.head.output.weight, of_all)
    assert (logits(model, encoded).argmax(1).numpy() == classes_of(table)).mean() > 0.6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"head": HeadSettings("mlp")}, "the head is 'mlp', not linear"),
        ({"structure": StructureSettings(block=BlockSettings("bilstm"))}, "block 'bilstm'"),
        ({"structure": StructureSettings(fusion=FusionSettings(width=8))}, "fusion.width"),
        ({"pooling": PoolingSettings("attention")}, "pooling 'attention'"),
    ],
)
def test_a_head_above_something_untrained_starts_at_random(bert, settings, words):
    model = build(bert, **settings)
    assert not uses_probe(model, "auto")
    with pytest.raises(ConfigError, match=f"head_start='probe' cannot act.*{words}"):
        uses_probe(model, "probe")


def test_a_pooler_that_the_checkpoint_lacks_is_untrained_too(bert):
    twice_as_wide = StructureSettings(fusion=FusionSettings("mean_max"))
    settings = {"structure": twice_as_wide, "loss": ClassifierLossSettings(auxiliary=True)}
    model = build(bert, pooling=PoolingSettings("pooler"), **settings)
    assert not uses_probe(model, "auto")
    with pytest.raises(ConfigError, match="untrained pooling 'pooler' stands below the head"):
        uses_probe(model, "probe")


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "pooler"])
def test_a_plain_linear_head_starts_from_a_probe_unless_told_otherwise(bert, pooling):
    model = build(bert, pooling=PoolingSettings(pooling))
    assert uses_probe(model, "auto") and uses_probe(model, "probe")
    many = build(bert, "multi", probe.MOST_LABELS + 1)
    assert not uses_probe(many, "auto") and uses_probe(many, "probe")
    assert not uses_probe(model, "random")
