"""Losses of pairs: sentence-transformers' own, found by name, and refused where they do not fit."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer import losses as published

from idbert.errors import CheckpointError, ConfigError
from nlp_tasks.match.loss_inputs import training_set
from nlp_tasks.match.losses import (
    KNOWN_CLASSES,
    MATCH_LOSSES,
    UNFIT_CLASSES,
    MatchLoss,
    build_loss,
    find_loss,
    published_losses,
)
from nlp_tasks.match.pair_classifier import PairClassifier
from nlp_tasks.match.settings import MatchLossSettings, TowerSettings
from tests.nlp_tasks.match.match_world import pairs, tiny_towers, with_negatives

KIND_OF = {"softmax": "class", "cosine_mse": "score", "cosent": "score", "in_batch": "none"}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory):
    return tiny_towers(tmp_path_factory.mktemp("bert"))


def value(towers, settings: MatchLossSettings, examples, *, seed: int = 0) -> float:
    """Return the loss of all pairs as one batch; dropout is off, new weights are drawn by seed."""
    loss = find_loss(settings, examples)
    torch.manual_seed(seed)
    module = build_loss(loss, towers, examples, settings.matryoshka).eval()
    columns = training_set(loss, examples).to_dict()
    labels = columns.pop("label", None)
    features = [towers.preprocess(texts) for texts in columns.values()]
    with torch.no_grad():
        return float(module(features, None if labels is None else torch.tensor(labels)))


def vectors(towers, texts):
    return towers.encode(list(texts), convert_to_tensor=True)


def test_cosine_mse_is_the_squared_distance_to_the_scaled_score(towers):
    examples = pairs(12, "score")
    cosines = F.cosine_similarity(
        vectors(towers, examples.firsts), vectors(towers, examples.seconds)
    )
    expected = F.mse_loss(cosines, torch.from_numpy(examples.targets) / 5)
    got = value(towers, MatchLossSettings("cosine_mse"), examples)
    assert got == pytest.approx(float(expected), abs=1e-5)


def test_cosent_is_its_formula(towers):
    examples = pairs(12)
    cosines = F.cosine_similarity(
        vectors(towers, examples.firsts), vectors(towers, examples.seconds)
    )
    targets = torch.from_numpy(examples.targets)
    gaps = (cosines[None, :] - cosines[:, None])[(targets[:, None] > targets[None, :])] / 0.1
    expected = torch.logsumexp(torch.cat([torch.zeros(1), gaps]), dim=0)
    got = value(towers, MatchLossSettings("cosent", {"temperature": 0.1}), examples)
    assert got == pytest.approx(float(expected), rel=1e-4)


def test_in_batch_is_a_softmax_over_the_seconds_and_the_hard_negatives(towers):
    examples = with_negatives(pairs(5, "none"), [2])
    u, v = vectors(towers, examples.firsts), vectors(towers, examples.seconds)
    negatives = [vectors(towers, [texts[n] for texts in examples.negatives]) for n in range(2)]
    candidates = F.normalize(torch.cat([v, *negatives]))
    expected = F.cross_entropy(F.normalize(u) @ candidates.T / 0.2, torch.arange(5))
    got = value(towers, MatchLossSettings("in_batch", {"temperature": 0.2}), examples)
    assert got == pytest.approx(float(expected), rel=1e-4)


def test_triplet_and_contrastive_are_their_formulas(towers):
    examples = with_negatives(pairs(4, "none"), [1])
    u, v = vectors(towers, examples.firsts), vectors(towers, examples.seconds)
    n = vectors(towers, [texts[0] for texts in examples.negatives])
    expected = F.relu(F.cosine_similarity(u, n) - F.cosine_similarity(u, v) + 0.5).mean()
    got = value(towers, MatchLossSettings("triplet", {"margin": 0.5}), examples)
    assert got == pytest.approx(float(expected), abs=1e-5)

    examples = pairs(12)
    u, v = vectors(towers, examples.firsts), vectors(towers, examples.seconds)
    distances, targets = 1 - F.cosine_similarity(u, v), torch.from_numpy(examples.targets)
    parts = targets * distances**2 + (1 - targets) * F.relu(0.4 - distances) ** 2
    got = value(towers, MatchLossSettings("contrastive", {"margin": 0.4}), examples)
    assert got == pytest.approx(float(parts.mean() / 2), abs=1e-5)


@pytest.mark.parametrize("concatenation", ["uv", "diff", "uv_diff", "uv_diff_product"])
def test_the_classifiers_read_what_is_concatenated(towers, concatenation: str):
    for name, kind in (("softmax", "class"), ("focal", "binary"), ("bce", "binary")):
        examples = pairs(12, kind)
        settings = MatchLossSettings(name, {"concatenation": concatenation})
        loss = find_loss(settings, examples)
        torch.manual_seed(3)
        module = build_loss(loss, towers, examples)
        classifier = PairClassifier(module.classifier, concatenation, ("no", "yes"))
        probabilities = classifier.probabilities(
            vectors(towers, examples.firsts), vectors(towers, examples.seconds)
        )
        own = probabilities[torch.arange(12), torch.from_numpy(examples.targets)]
        factor = (1 - own) ** 2 if name == "focal" else 1.0
        expected = -(factor * own.log()).mean()
        got = value(towers, settings, examples, seed=3)
        assert got == pytest.approx(float(expected), rel=1e-4), name


def test_bce_takes_scores_for_probabilities(towers):
    examples = pairs(8, "score")
    settings = MatchLossSettings("bce")
    halves = replace(examples, targets=np.linspace(2, 3, 8, dtype=np.float32))
    assert value(towers, settings, examples) != value(towers, settings, halves)
    above = replace(examples, max_score=4.0)
    with pytest.raises(ConfigError, match="takes scores for probabilities, and . of world are not"):
        find_loss(settings, above)


def test_simcse_reads_every_text_twice_and_needs_no_labels(towers):
    examples = pairs(6, "score")
    loss = find_loss(MatchLossSettings("simcse"), examples)
    columns = training_set(loss, examples).to_dict()
    texts = list(dict.fromkeys(examples.firsts + examples.seconds))
    assert columns == {"first": texts, "second": texts}


def test_a_matryoshka_is_the_sum_over_the_widths(towers):
    examples = pairs(12)
    both = value(towers, MatchLossSettings("cosine_mse", matryoshka=(4,)), examples)
    u, v = vectors(towers, examples.firsts)[:, :4], vectors(towers, examples.seconds)[:, :4]
    narrow = F.mse_loss(F.cosine_similarity(u, v), torch.from_numpy(examples.targets).float())
    full = value(towers, MatchLossSettings("cosine_mse"), examples)
    assert both == pytest.approx(full + float(narrow), rel=1e-4)


def test_positives_are_those_that_are_said_to_be(towers):
    scores = pairs(12, "score")
    loss = find_loss(MatchLossSettings("in_batch", {"positive": 3}), scores)
    assert len(training_set(loss, scores)) == int((scores.targets >= 3).sum())
    classes = pairs(12, "class")
    loss = find_loss(MatchLossSettings("in_batch", {"positive": "same"}), classes)
    assert len(training_set(loss, classes)) == int(classes.targets.sum())
    binary = pairs(12)
    loss = find_loss(MatchLossSettings("in_batch"), binary)
    assert len(training_set(loss, binary)) == int(binary.targets.sum())


def test_rows_with_fewer_negatives_repeat_theirs_and_rows_without_are_left_out(caplog):
    examples = with_negatives(pairs(6, "none"), [2, 1, 0])
    columns = training_set(find_loss(MatchLossSettings("in_batch"), examples), examples).to_dict()
    assert list(columns) == ["first", "second", "negative_1", "negative_2"]
    assert len(columns["first"]) == 4 and columns["negative_1"][1] == columns["negative_2"][1]
    assert "2 of 6 pairs have no hard negative and are left out" in caplog.text
    one = MatchLossSettings("in_batch", {"hard_negatives": 1})
    assert len(training_set(find_loss(one, examples), examples).column_names) == 3
    none = MatchLossSettings("in_batch", {"hard_negatives": 0})
    assert len(training_set(find_loss(none, examples), examples)) == 6
    triplets = training_set(find_loss(MatchLossSettings("triplet"), examples), examples).to_dict()
    assert len(triplets["negative_1"]) == 6  # two rows with two, two with one


def test_every_kind_of_pairs_has_a_usual_loss():
    names = {kind: find_loss(MatchLossSettings(), pairs(4, kind)).name for kind in
             ("binary", "score", "class", "none")}  # fmt: skip
    assert names == {
        "binary": "cosent",
        "score": "cosent",
        "class": "softmax",
        "none": "in_batch",
    }


OPTIONS = {
    "softmax": {"concatenation": "uv"},
    "bce": {"concatenation": "uv", "pos_weight": 3.0},
    "focal": {"concatenation": "uv", "gamma": 5.0, "alpha": [1.0, 3.0]},
    "cosent": {"temperature": 1.0},
    "contrastive": {"margin": 0.1, "distance": "euclidean"},
    "triplet": {"margin": 3.0, "distance": "euclidean", "positive": 5},
    "in_batch": {"temperature": 1.0, "hard_negatives": 0, "positive": 5},
    "simcse": {"temperature": 1.0},
}


def cases() -> list[tuple[str, str]]:
    return [(name, option) for name, options in OPTIONS.items() for option in options]


def test_all_options_are_tried():
    known = {name: {f.name for f in fields(MATCH_LOSSES[name].Options)} for name in MATCH_LOSSES}
    assert {name: set(options) for name, options in OPTIONS.items()} == {
        name: options for name, options in known.items() if options
    }


@pytest.mark.parametrize(("name", "option"), cases())
def test_every_option_acts(towers, name: str, option: str):
    examples = pairs(12, "score" if option == "positive" else "binary")
    if name in ("in_batch", "triplet"):
        examples = with_negatives(examples, [1])
    base: dict = {"margin": 2.0} if (name, option) == ("contrastive", "distance") else {}
    if option == "positive":
        base = {"positive": 0}
    plain = value(towers, MatchLossSettings(name, base), examples)
    changed = value(
        towers, MatchLossSettings(name, base | {option: OPTIONS[name][option]}), examples
    )
    assert changed != pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("name", sorted(KNOWN_CLASSES))
def test_classes_of_sentence_transformers_are_found_by_their_names(towers, name: str):
    inputs, kinds, _ = KNOWN_CLASSES[name]
    examples = pairs(8, kinds[0])
    if inputs == "triplets":
        examples = with_negatives(examples, [1])
    loss = find_loss(MatchLossSettings(name), examples)
    assert type(build_loss(loss, towers, examples)) is getattr(published, name)


def test_another_class_is_taken_where_it_is_said_what_it_reads(towers):
    settings = MatchLossSettings("GlobalOrthogonalRegularizationLoss", inputs="positives")
    loss = find_loss(settings, pairs(8))
    assert type(build_loss(loss, towers, pairs(8))) is published.GlobalOrthogonalRegularizationLoss
    assert loss.inputs == "positives" and loss.batch_gives_negatives


def test_every_class_is_known_unfit_or_asked_about():
    for name in set(published_losses()) - KNOWN_CLASSES.keys() - UNFIT_CLASSES.keys():
        with pytest.raises(ConfigError, match="It is not known here what the loss"):
            MatchLossSettings(name)
    for name in UNFIT_CLASSES:
        with pytest.raises(ConfigError, match=f"'{name}' cannot be named here"):
            MatchLossSettings(name)


def test_a_loss_of_ones_own_is_a_class_and_a_registration(towers):
    class Constant(MatchLoss):
        kinds, inputs = ("binary",), "labelled"

        def build(self, model, examples):
            class Module(torch.nn.Module):
                def forward(self, features, labels):
                    return labels.sum()

            return Module()

    MATCH_LOSSES.register("constant")(Constant)
    try:
        examples = pairs(6)
        assert value(towers, MatchLossSettings("constant"), examples) == examples.targets.sum()
    finally:
        del MATCH_LOSSES._entries["constant"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "cosnet"}, "There is no loss of pairs 'cosnet'. Did you mean 'cosent'"),
        ({"name": "cosent", "options": {"margin": 1}}, "The loss 'cosent' has no option 'margin'"),
        ({"name": "cosent", "options": {"temperature": 0.0}}, "temperature is 0.0"),
        ({"name": "triplet", "options": {"distance": "far"}}, "The loss 'triplet'"),
        ({"name": "softmax", "options": {"concatenation": "u"}}, "loss 'softmax'"),
        ({"name": "in_batch", "options": {"hard_negatives": -1}}, "hard_negatives is -1"),
        ({"name": "AnglELoss", "options": {"margin": 1}}, "'AnglELoss' has no option 'margin'"),
        ({"name": "AnglELoss", "inputs": "texts"}, "inputs=texts cannot act"),
        ({"name": "cosent", "inputs": "texts"}, "inputs=texts cannot act on the loss 'cosent'"),
        ({"options": {"margin": 1}}, "cannot act without its name"),
        ({"matryoshka": ()}, "matryoshka names no width"),
        ({"matryoshka": (4, 4)}, "give different widths"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        MatchLossSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        (MatchLossSettings("softmax"), "score", "cannot be trained on pairs that have scores"),
        (MatchLossSettings("cosine_mse"), "class", "that have classes.*Choose from: .*softmax"),
        (MatchLossSettings("contrastive"), "none", "that have no labels"),
        (MatchLossSettings("triplet"), "none", "needs a negative for each pair"),
        (MatchLossSettings("in_batch"), "score", "Give the least score that counts"),
        (MatchLossSettings("in_batch"), "class", "Give the class that counts"),
        (MatchLossSettings("in_batch", {"positive": 1}), "binary", "positive=1 cannot act"),
        (MatchLossSettings("in_batch", {"positive": 9}), "score", "No pair of world belongs"),
        (MatchLossSettings("in_batch", {"positive": "maybe"}), "class", "which class belongs"),
        (MatchLossSettings("in_batch", {"hard_negatives": 2}), "none", "cannot act: world names"),
        (MatchLossSettings("softmax", matryoshka=(4,)), "class", "classifier reads vectors of one"),
        (MatchLossSettings("AnglELoss"), "class", "'AnglELoss' cannot be trained on"),
    ],
)
def test_a_loss_that_does_not_fit_the_pairs_is_refused(settings, kind: str, words: str):
    with pytest.raises(ConfigError, match=words):
        find_loss(settings, pairs(8, kind))


@pytest.mark.parametrize("name", ["cosent", "softmax", "AnglELoss"])
def test_labels_that_are_all_the_same_teach_nothing(name: str):
    examples = pairs(8)
    for label in (0, 1):
        same = replace(examples, targets=np.full(8, label))
        with pytest.raises(ConfigError, match="all 8 pairs of world have the same"):
            find_loss(MatchLossSettings(name), same)
    assert find_loss(MatchLossSettings("in_batch"), replace(examples, targets=np.ones(8, int)))


@pytest.mark.parametrize("name", ["cosent", "bce", "simcse", "ContrastiveLoss"])
def test_hard_negatives_that_a_loss_would_not_read_are_refused(name: str):
    examples = with_negatives(pairs(8), [1])
    with pytest.raises(ConfigError, match=f"'{name}' reads no hard negatives.*in_batch or triplet"):
        find_loss(MatchLossSettings(name), examples)


def test_a_width_of_a_matryoshka_is_below_the_full_one(towers):
    settings = MatchLossSettings(matryoshka=(16,))
    with pytest.raises(ConfigError, match="names the width 16, and the vectors have 16"):
        build_loss(find_loss(settings, pairs(4)), towers, pairs(4), settings.matryoshka)


def test_options_that_a_published_class_refuses_are_explained(towers):
    settings = MatchLossSettings("GISTEmbedLoss", {"guide": "a name"}, inputs="positives")
    with pytest.raises(ConfigError, match="'GISTEmbedLoss' .* cannot be built with .*a name"):
        build_loss(find_loss(settings, pairs(4)), towers, pairs(4))


def test_a_classifier_is_saved_and_read_back(tmp_path: Path):
    linear = torch.nn.Linear(12, 3)
    classifier = PairClassifier(linear, "uv_diff", ("a", "b", "c"))
    classifier.save(tmp_path)
    again = PairClassifier.load(tmp_path)
    u, v = torch.randn(5, 4), torch.randn(5, 4)
    torch.testing.assert_close(again.probabilities(u, v), classifier.probabilities(u, v))
    assert again.names == ("a", "b", "c") and again.concatenation == "uv_diff"
    (tmp_path / "classifier.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no classifier of pairs"):
        PairClassifier.load(tmp_path)


def test_two_towers_and_a_matryoshka_can_be_trained_together(tmp_path: Path):
    towers = tiny_towers(tmp_path, TowerSettings(two_towers=True))
    examples = pairs(6)
    loss = find_loss(MatchLossSettings("cosent", matryoshka=(4,)), examples)
    module = build_loss(loss, towers, examples, (4,))
    features = [
        towers.preprocess(examples.firsts, task="query"),
        towers.preprocess(examples.seconds, task="document"),
    ]
    module(features, torch.from_numpy(examples.targets).float()).backward()
    grads = [p.grad is not None for p in towers[0].parameters() if p.ndim == 2]
    assert any(grads)
