"""What depends on depth: rates by layer, a rate of the head, frozen layers and their thawing."""

import pytest
import torch
from transformers import TrainerCallback

from idbert.errors import ConfigError
from idbert.nn.item_models import MaskedItemModel
from idbert.training.freezing import depths
from idbert.training.parameters import parameter_groups
from tests.training.small import build, build_model
from tests.training.small_rows import RowModel, build_rows, row_model

LAYERS = 3
STEPS_PER_EPOCH = 4


def rates(trainer):
    """Return the rate of every parameter that the optimizer has, by name."""
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    pairs = [(names[id(p)], group["lr"]) for group in groups for p in group["params"]]
    assert len(dict(pairs)) == len(pairs), "a parameter is in two groups"
    return dict(pairs)


def part_of(name):
    """Return "head", "embeddings" or the number of the layer."""
    if not name.startswith("backbone.encoder."):
        return "head"
    below = name.removeprefix("backbone.encoder.")
    if below.startswith("embeddings."):
        return "embeddings"
    return int(below.removeprefix("encoder.layer.").split(".")[0])


def test_a_layers_rate_falls_with_its_distance_from_the_top(tmp_path):
    trainer = build_rows(tmp_path, learning_rate=0.1, layer_decay=0.5)
    expected = {"head": 0.1, 2: 0.1, 1: 0.05, 0: 0.025, "embeddings": 0.0125}
    found = rates(trainer)
    assert set(found) == {name for name, _ in trainer.model.named_parameters()}
    for name, rate in found.items():
        assert rate == pytest.approx(expected[part_of(name)]), name


def test_the_heads_rate_is_that_of_all_that_is_not_in_the_encoder_whatever_it_is_called(tmp_path):
    trainer = build_rows(tmp_path, learning_rate=0.1, head_learning_rate=0.7)
    for name, rate in rates(trainer).items():
        assert rate == (0.7 if part_of(name) == "head" else 0.1), name
    head = [name for name, rate in rates(trainer).items() if rate == 0.7]
    assert sorted(head) == ["bert_cls.bias", "bert_cls.weight", "encoder_gate"]


def test_both_rates_and_the_decay_of_weights_go_together(tmp_path):
    trainer = build_rows(
        tmp_path, learning_rate=0.1, head_learning_rate=1, layer_decay=0.5, weight_decay=0.3
    )
    assert {part_of(name): rate for name, rate in rates(trainer).items()} == pytest.approx(
        {"head": 1.0, 2: 0.1, 1: 0.05, 0: 0.025, "embeddings": 0.0125}
    )
    for group in trainer.optimizer.param_groups:
        is_matrix = {p.ndim >= 2 for p in group["params"]}
        assert is_matrix == {group["weight_decay"] == 0.3}


def test_what_stands_on_the_layers_of_an_encoder_learns_as_its_top_layer():
    model = row_model(norm="pre")
    top, *parts = depths(model.backbone.encoder)
    final = model.backbone.encoder.encoder.final_LayerNorm
    assert {id(p) for p in top} == {id(p) for p in final.parameters()}
    assert len(parts) == LAYERS + 1
    groups = parameter_groups(
        model, 0.0, learning_rate=1.0, encoder=model.backbone.encoder, layer_decay=0.5
    )
    found = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {found[id(p)] for p in final.parameters()} == {1.0}


def test_the_learning_rate_reported_is_the_full_one_and_all_follow_the_schedule(tmp_path):
    seen = []

    class Rates(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer, **_):
            seen.append([group["lr"] / group["initial_lr"] for group in optimizer.param_groups])

    trainer = build_rows(
        tmp_path,
        learning_rate=0.1,
        layer_decay=0.5,
        head_learning_rate=0.7,
        warmup=0,
        log_every_steps=1,
        callbacks=[Rates()],
    )
    trainer.train_or_resume()
    reported = [row["learning_rate"] for row in trainer.curve()]
    assert reported == pytest.approx([0.1, 0.075, 0.05, 0.025])
    for factors in seen:
        assert factors == pytest.approx([factors[0]] * len(factors))
    assert seen[-1][0] == pytest.approx(0.0)


def test_the_tied_embeddings_of_items_belong_to_the_encoder(tmp_path):
    model = build_model(MaskedItemModel, num_layers=2)
    trainer = build(tmp_path, MaskedItemModel, model=model, layer_decay=0.5, head_learning_rate=0.3)
    found = rates(trainer)
    assert found["backbone.encoder.embeddings.word_embeddings.weight"] == pytest.approx(0.0025)
    assert found["head.bias"] == 0.3


def moved(model, before):
    """Return the parts of a model whose weights are others than before."""
    return {
        part_of(name)
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, before[name])
    }


ALL_PARTS = {"head", "embeddings", *range(LAYERS)}


@pytest.mark.parametrize(
    ("frozen_layers", "frozen"),
    [
        (None, set()),
        (0, {"embeddings"}),
        (2, {"embeddings", 0, 1}),
        (3, {"embeddings", 0, 1, 2}),
        ("all", {"embeddings", 0, 1, 2}),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_layers_stay_and_all_others_learn(frozen_layers, frozen, checkpointing, tmp_path):
    model = row_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    build_rows(
        tmp_path,
        model=model,
        frozen_layers=frozen_layers,
        weight_decay=0.5,
        gradient_checkpointing=checkpointing,
    ).train_or_resume()
    assert moved(model, before) == ALL_PARTS - frozen


class Thawed(TrainerCallback):
    """Keeps which parts are trained at each step."""

    def __init__(self):
        self.of_steps = []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        with_gradient = [name for name, p in model.named_parameters() if p.grad is not None]
        self.of_steps.append({part_of(name) for name in with_gradient})


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, [{"head"}, {2}, {1}, {0}, {"embeddings"}]),
        (0.5, [{"head"}, {1}, {"embeddings"}, set(), set()]),
        (2, [{"head"}, set(), {2}, set(), {1}]),
    ],
)
def test_frozen_parts_thaw_from_the_top_one_at_a_time(every, expected, tmp_path):
    thawed = Thawed()
    build_rows(
        tmp_path, frozen_layers="all", unfreeze_every=every, epochs=5, callbacks=[thawed]
    ).train_or_resume()
    first = [thawed.of_steps[epoch * STEPS_PER_EPOCH] for epoch in range(5)]
    if every == 0.5:  # two parts an epoch
        assert first == [{"head"}, {"head", 2, 1}, ALL_PARTS, ALL_PARTS, ALL_PARTS]
        assert thawed.of_steps[STEPS_PER_EPOCH // 2] == {"head", 2}
        return
    for epoch in range(5):
        assert first[epoch] == set().union(*expected[: epoch + 1])


def test_layers_that_were_never_frozen_are_trained_from_the_start(tmp_path):
    thawed = Thawed()
    build_rows(
        tmp_path, frozen_layers=1, unfreeze_every=1, epochs=3, callbacks=[thawed]
    ).train_or_resume()
    firsts = [thawed.of_steps[epoch * STEPS_PER_EPOCH] for epoch in range(3)]
    assert firsts == [{"head", 1, 2}, {"head", 0, 1, 2}, ALL_PARTS]


def test_a_frozen_part_is_neither_decayed_nor_moved_before_it_thaws(tmp_path):
    model = row_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    build_rows(
        tmp_path,
        model=model,
        frozen_layers="all",
        unfreeze_every=1,
        epochs=2,
        weight_decay=0.5,
    ).train_or_resume()
    assert moved(model, before) == {"head", 2}


def test_what_was_frozen_before_never_thaws(tmp_path):
    model = row_model()
    table = model.backbone.encoder.embeddings.word_embeddings.weight.requires_grad_(False)
    before = table.clone()
    build_rows(
        tmp_path, model=model, frozen_layers="all", unfreeze_every=0.25, epochs=2
    ).train_or_resume()
    assert torch.equal(table, before) and not table.requires_grad
    assert model.backbone.encoder.embeddings.token_type_embeddings.weight.requires_grad


class ElsewhereModel(RowModel):
    """Its encoder is not where it is looked for."""

    def __init__(self, config):
        super().__init__(config)
        self.words = self.backbone.encoder
        del self.backbone

    def logits(self, input_ids, attention_mask):
        states_BLD = self.words(input_ids, attention_mask=attention_mask)[0]
        return self.bert_cls(states_BLD[:, 0]) * self.encoder_gate


def test_an_encoder_elsewhere_is_named(tmp_path):
    model = row_model(ElsewhereModel)
    for settings in ({"frozen_layers": 0}, {"layer_decay": 0.5}, {"head_learning_rate": 1.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} cannot act: Elsewhere"):
            build_rows(tmp_path, model=model, **settings)
    trainer = build_rows(tmp_path, model=model, encoder=model.words, frozen_layers="all")
    assert not any(p.requires_grad for p in model.words.parameters())
    before = [p.clone() for p in model.words.parameters()]
    trainer.train_or_resume()
    assert all(map(torch.equal, before, model.words.parameters()))


def test_a_training_leaves_nothing_frozen_that_it_froze(tmp_path):
    model = row_model()
    build_rows(tmp_path / "one", model=model, frozen_layers="all").train_or_resume()
    assert all(p.requires_grad for p in model.parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    build_rows(tmp_path / "two", model=model).train_or_resume()
    assert 0 in moved(model, before)


def test_what_is_refused_has_frozen_nothing(tmp_path):
    model = row_model()
    with pytest.raises(ConfigError, match="unfreeze_every=9 cannot act"):
        build_rows(tmp_path, model=model, frozen_layers="all", unfreeze_every=9, epochs=1)
    assert all(p.requires_grad for p in model.parameters())


def test_an_encoder_of_unknown_depth_can_have_another_rate_but_no_depth(tmp_path):
    model = row_model()
    named = {"model": model, "encoder": model.bert_cls}
    assert build_rows(tmp_path, head_learning_rate=1.0, **named)
    with pytest.raises(ConfigError, match="Linear has no `embeddings` and `encoder.layer`"):
        build_rows(tmp_path, frozen_layers=1, **named)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frozen_layers": 4}, "frozen_layers is 4, and the encoder has 3 layers"),
        (
            {"frozen_layers": "all", "unfreeze_every": 2, "epochs": 2},
            "unfreeze_every=2 cannot act: the training ends after 8 steps, before anything thaws "
            "at step 8",
        ),
    ],
)
def test_what_cannot_act_on_this_model_is_refused_before_training(settings, words, tmp_path):
    with pytest.raises(ConfigError) as error:
        build_rows(tmp_path, **settings)
    assert words in str(error.value)


def test_a_model_of_which_nothing_is_left_to_train_is_refused(tmp_path):
    model = row_model()
    model.bert_cls.requires_grad_(False)
    model.encoder_gate.requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen_layers=all leaves nothing to train"):
        build_rows(tmp_path, model=model, frozen_layers="all")


def test_gradual_unfreezing_is_refused_in_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="unfreeze_every cannot act in several processes"):
        build_rows(tmp_path, frozen_layers="all", unfreeze_every=0.25)
