"""Groups of like length: the cheapest ones, and the same training without dropout."""

from contextlib import nullcontext
from itertools import combinations

import numpy as np
import pytest
import torch
from sentence_transformers.base.modules import Transformer

from idbert.nn.blocks import BlockSettings
from idbert.nn.structure import StructureSettings
from idbert.training.arguments import TrainingSettings
from nlp_tasks.match import grouped_encoding as subject
from nlp_tasks.match.grouped_encoding import GroupedEncoding, groups_of, twin_of
from nlp_tasks.match.settings import MatchBatchSettings, MatchLossSettings, TowerSettings
from nlp_tasks.match.towers import build_towers
from tests.nlp_tasks.match.match_world import NO_DROPOUT
from tests.nlp_tasks.match.test_match_training import SETTINGS, equal, trained, trainer_of
from tests.nlp_tasks.text_world import bert_folder

SHORT_TEXTS = ["a", "b c d e f g h a b c", "c d", "d e f g h a b c d e", "e"]


@pytest.fixture(autouse=True)
def cheap_groups(monkeypatch):
    monkeypatch.setattr(subject, "POSITIONS_OF_A_GROUP", 3)


def cost(lengths: np.ndarray, groups) -> int:
    return sum(len(places) * int(lengths[places].max()) + 3 for places in groups)


@pytest.mark.parametrize("seed", range(6))
def test_the_groups_are_the_cheapest_of_all_cuts_of_the_sorted_texts(seed):
    lengths = np.random.default_rng(seed).integers(1, 30, 7)
    order = np.argsort(lengths, kind="stable")
    cuts = [cut for count in range(7) for cut in combinations(range(1, 7), count)]
    best = min(cost(lengths, np.split(order, cut)) for cut in cuts)
    groups = groups_of(lengths)
    assert cost(lengths, groups) == best
    assert sorted(np.concatenate(groups).tolist()) == list(range(7))


def test_texts_of_one_length_are_one_group():
    assert [group.tolist() for group in groups_of(np.full(9, 12))] == [list(range(9))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"towers": TowerSettings(two_towers=True)},
        {"towers": TowerSettings(pooling="cls", width=4)},
        {"towers": TowerSettings(structure=StructureSettings(block=BlockSettings("bigru")))},
        {"loss": MatchLossSettings("cosent", matryoshka=(4,))},
        {"loss": MatchLossSettings("softmax"), "kind": "class"},
        {"loss": MatchLossSettings("CachedMultipleNegativesRankingLoss"), "kind": "none"},
    ],
    ids=["default", "two towers", "dense", "own structure", "matryoshka", "classifier", "cached"],
)
def test_without_dropout_the_weights_are_those_of_whole_batches(tmp_path, options):
    whole = trained(
        tmp_path, batches=MatchBatchSettings(8, by_length=False), **options, **NO_DROPOUT
    )
    grouped = trained(
        tmp_path, batches=MatchBatchSettings(8, by_length=True), **options, **NO_DROPOUT
    )
    assert whole.keys() == grouped.keys()
    for name, tensor in whole.items():
        if "key.bias" not in name:  # it has no effect, and its gradient is rounding
            torch.testing.assert_close(grouped[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_grouped_batch_has_the_vectors_of_its_texts_in_their_order(tmp_path):
    bert_folder(tmp_path / "bert")
    towers = build_towers(tmp_path / "bert", TowerSettings())
    features = towers.preprocess(SHORT_TEXTS)
    whole = towers(dict(features))["sentence_embedding"]
    seen = []
    towers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]["input_ids"].shape))
    with GroupedEncoding(towers).active():
        grouped = towers(dict(features))["sentence_embedding"]
    assert len(seen) > 1 and sum(shape[0] for shape in seen) == len(SHORT_TEXTS)
    torch.testing.assert_close(grouped, whole, rtol=1e-5, atol=1e-6)
    assert "forward" not in towers.__dict__ and "forward" not in towers[0].model.__dict__


def test_the_twin_of_a_bert_has_its_very_weights(tmp_path):
    bert_folder(tmp_path / "bert")
    model = build_towers(tmp_path / "bert", TowerSettings())[0].model
    own = dict(model.named_parameters())
    assert all(own[name] is weight for name, weight in twin_of(model).named_parameters())
    assert not any(buffer.is_meta for buffer in twin_of(model).buffers())


def test_what_is_frozen_stays_frozen(tmp_path):
    bert_folder(tmp_path / "bert")
    model = build_towers(tmp_path / "bert", TowerSettings())[0].model
    model.embeddings.requires_grad_(False)
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert twin_of(model) is not None
    assert {name: w.requires_grad for name, w in model.named_parameters()} == trained
    assert not all(trained.values()) and any(trained.values())


def test_gradient_checkpointing_reaches_the_layers(tmp_path):
    bert_folder(tmp_path / "bert")
    towers = build_towers(tmp_path / "bert", TowerSettings()).train()
    features, calls = towers.preprocess(SHORT_TEXTS), []
    first = towers[0].model.encoder.layer[0]
    first.register_forward_hook(lambda *_: calls.append(1))
    for checkpoints in (False, True):
        if checkpoints:
            towers[0].model.activation_checkpointing_enable()
        with GroupedEncoding(towers).active():
            towers(dict(features))["sentence_embedding"].sum().backward()
        assert bool(calls) == checkpoints  # without them the twin's layers are computed


def test_gradients_are_those_of_whole_batches_and_padding_has_none(tmp_path):
    bert_folder(tmp_path / "bert")
    towers = build_towers(tmp_path / "bert", TowerSettings())
    found = []
    for block in (nullcontext(), GroupedEncoding(towers).active()):
        towers.zero_grad()
        with block:
            for texts in (SHORT_TEXTS, SHORT_TEXTS[::-1]):  # a second column adds to the first
                towers(towers.preprocess(texts))["sentence_embedding"].pow(3).sum().backward()
        parameters = towers.named_parameters()
        found.append({name: w.grad.clone() for name, w in parameters if w.grad is not None})
    whole, grouped = found
    assert whole.keys() == grouped.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(grouped[name], gradient, rtol=1e-4, atol=1e-6)
    words = towers[0].model.embeddings.word_embeddings
    assert not grouped["0.model.embeddings.word_embeddings.weight"][words.padding_idx].any()


def test_another_model_has_no_twin(tmp_path):
    bert_folder(tmp_path / "bert")
    model = build_towers(tmp_path / "bert", TowerSettings())[0].model
    model.encoder.layer[0].adapter = torch.nn.Linear(2, 2)
    assert twin_of(model) is None
    assert twin_of(torch.nn.Linear(2, 2)) is None


def test_a_model_without_a_twin_is_grouped_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "twin_of", lambda model: None)
    bert_folder(tmp_path / "bert")
    towers = build_towers(tmp_path / "bert", TowerSettings())
    features = towers.preprocess(SHORT_TEXTS)
    whole = towers(dict(features))["sentence_embedding"]
    with GroupedEncoding(towers).active():
        grouped = towers(dict(features))["sentence_embedding"]
    torch.testing.assert_close(grouped, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "by_length", "expected"),
    [("float32", None, False), ("bfloat16", None, True), ("bfloat16", False, False)],
)
def test_batches_are_grouped_where_steps_are_not_bit_for_bit_anyway(
    tmp_path, precision, by_length, expected
):
    settings = TrainingSettings(
        epochs=1, learning_rate=1e-3, metric=None, device="cpu", precision=precision
    )
    trainer = trainer_of(tmp_path, settings, batches=MatchBatchSettings(8, by_length=by_length))
    calls = []
    encoder = trainer._model[0]
    assert isinstance(encoder, Transformer)
    encoder.register_forward_hook(lambda *_: calls.append(1))
    trainer.train_or_resume()
    steps = trainer.state.global_step
    assert (len(calls) > 2 * steps) == expected


def test_a_grouped_training_is_the_same_twice(tmp_path):
    batches = MatchBatchSettings(8, by_length=True)
    first = trained(tmp_path / "a", SETTINGS, batches=batches)
    assert equal(first, trained(tmp_path / "b", SETTINGS, batches=batches))
