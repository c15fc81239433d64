"""Adversarial steps: what they add to the gradients, and nothing else."""

import copy

import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.training.adversarial import AdversarialSettings, find_embedding
from idbert.training.parameters import parameter_groups
from idbert.training.perturbation import direction, into_ball
from tests.training.small import Gradients, Weights, build, build_model
from tests.training.small_rows import build_rows, row_model

ONE_STEP = {"with_validation": False, "max_steps": 1, "warmup": 0, "log_every_steps": 1}


def attacked(folder, model, **settings):
    """Take one attacked step; return the trainer, its gradients and its weights."""
    gradients, weights = Gradients(), Weights()
    trainer = build(
        folder,
        model=model,
        model_class=type(model),
        callbacks=[gradients, weights],
        **ONE_STEP,
        **settings,
    )
    trainer.train_or_resume()
    return trainer, gradients, weights


def first_batch(trainer):
    loader = trainer.get_train_dataloader()
    loader.set_epoch(0)
    return next(iter(loader))


class ByHand:
    """Passes with a perturbation of one's own on the embedded items."""

    def __init__(self, model, batch):
        self.model, self.batch = copy.deepcopy(model).train(), batch

    def loss(self, delta):
        words = self.model.backbone.encoder.embeddings.word_embeddings
        handle = words.register_forward_hook(lambda _, inputs, embedded: embedded + delta)
        try:
            return self.model(**self.batch).loss
        finally:
            handle.remove()

    def zero(self):
        width = self.model.config.hidden_size
        return torch.zeros(*self.batch["input_ids"].shape, width, requires_grad=True)

    def gradient(self, delta):
        delta = delta.detach().requires_grad_()
        return torch.autograd.grad(self.loss(delta), delta)[0]

    def parameter_gradients(self):
        return [p.grad for p in self.model.parameters()]


def per_row(tensor, norm):
    """Return every row of a batch scaled to a norm."""
    return torch.stack([row * (norm / row.norm()) for row in tensor])


def cut(tensor, radius):
    return torch.stack([row * min(1.0, radius / float(row.norm())) for row in tensor])


@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
def test_fgm_leaves_the_weights_that_a_step_with_the_summed_gradients_would(model_class, tmp_path):
    model = build_model(model_class, hidden_dropout=0.0)
    before = copy.deepcopy(model)
    settings = AdversarialSettings("fgm", epsilon=0.5)
    trainer, _, weights = attacked(tmp_path, model, adversarial=settings, clip_norm=None)

    hand = ByHand(before, first_batch(trainer))
    clean = hand.loss(hand.zero())
    clean.backward()
    hand.loss(per_row(hand.gradient(hand.zero()), 0.5)).backward()
    optimizer = torch.optim.AdamW(parameter_groups(hand.model, 0.01), lr=0.01)
    optimizer.step()
    expected = {name: p.detach() for name, p in hand.model.named_parameters()}
    torch.testing.assert_close(weights.of_steps[0], expected, rtol=1e-4, atol=1e-5)
    assert trainer.curve()[0]["loss"] == pytest.approx(clean.item(), rel=1e-5)


def test_pgd_climbs_step_by_step_and_stays_in_the_ball(tmp_path):
    model = build_model(hidden_dropout=0.0)
    hand = ByHand(model, None)
    settings = AdversarialSettings("pgd", epsilon=0.5, alpha=0.3, steps=3)
    trainer, gradients, _ = attacked(tmp_path, model, adversarial=settings, clip_norm=None)

    hand.batch = first_batch(trainer)
    delta = hand.zero().detach()
    for _ in range(3):
        delta = cut(delta + per_row(hand.gradient(delta), 0.3), 0.5)
    assert float(delta.flatten(1).norm(dim=1).max()) == pytest.approx(0.5)  # the ball was reached
    hand.loss(hand.zero()).backward()
    hand.loss(delta).backward()
    torch.testing.assert_close(
        gradients.of_steps[0], hand.parameter_gradients(), rtol=1e-3, atol=1e-5
    )


class Passes:
    """Records what reaches the first LayerNorm, and which units dropout keeps, in every pass."""

    def __init__(self, model):
        self.embedded, self.kept = [], []
        embeddings = model.backbone.encoder.embeddings
        embeddings.LayerNorm.register_forward_pre_hook(
            lambda _, inputs: self.embedded.append(inputs[0].detach())
        )
        embeddings.dropout.register_forward_hook(
            lambda _, inputs, output: self.kept.append(output != 0)
        )


def test_freelb_teaches_the_mean_over_its_steps_from_a_random_start(tmp_path):
    model = build_model(hidden_dropout=0.0)
    hand, passes = ByHand(model, None), Passes(model)
    settings = AdversarialSettings("freelb", epsilon=0.4, alpha=0.2, steps=3)
    trainer, gradients, _ = attacked(tmp_path, model, adversarial=settings, clip_norm=None)

    hand.batch = first_batch(trainer)
    clean = Passes(hand.model)
    hand.loss(hand.zero())
    deltas = [embedded - clean.embedded[0] for embedded in passes.embedded]
    assert len(deltas) == 3
    is_real = hand.batch["attention_mask"].bool()
    assert not deltas[0][~is_real].any()
    bound_B = 0.4 / (is_real.sum(1) * 16) ** 0.5
    start_B = deltas[0].abs().flatten(1).amax(1)
    assert (start_B <= bound_B * 1.001).all() and (start_B > bound_B * 0.8).all()
    for before, after in zip(deltas, deltas[1:], strict=False):
        expected = cut(before + per_row(hand.gradient(before), 0.2), 0.4)
        torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-4)
    losses = [hand.loss(delta) / 3 for delta in deltas]
    sum(losses).backward()
    torch.testing.assert_close(
        gradients.of_steps[0], hand.parameter_gradients(), rtol=1e-3, atol=1e-4
    )
    assert trainer.curve()[0]["loss"] == pytest.approx(sum(losses).item(), rel=1e-4)


def test_the_passes_of_freelb_drop_the_same_units_and_other_batches_other_ones(tmp_path):
    model = build_model(hidden_dropout=0.3)
    passes = Passes(model)
    settings = AdversarialSettings("freelb", epsilon=1e-6, steps=2)
    attacked(tmp_path, model, adversarial=settings, accumulation=2)
    assert len(passes.kept) == 4
    assert torch.equal(passes.kept[0], passes.kept[1])
    assert torch.equal(passes.kept[2], passes.kept[3])
    rows, length = (min(kept.shape[axis] for kept in passes.kept) for axis in (0, 1))
    first, second = (passes.kept[place][:rows, :length] for place in (0, 2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("attack", ["fgm", "pgd"])
@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
def test_accumulated_batches_equal_one_large_batch(model_class, attack, tmp_path):
    of_step = []
    for batches in ({"token_budget": 9999, "max_padding": 0.9}, {"accumulation": 6}):
        model = build_model(model_class, hidden_dropout=0.0)
        _, gradients, _ = attacked(
            tmp_path / str(len(of_step)),
            model,
            adversarial=AdversarialSettings(attack),
            clip_norm=None,
            **batches,
        )
        of_step.append(gradients.of_steps[0])
    torch.testing.assert_close(of_step[0], of_step[1], rtol=1e-3, atol=1e-5)


def test_a_step_of_no_length_is_no_attack_but_counts_the_batch_twice(tmp_path):
    plain = attacked(tmp_path / "plain", build_model(hidden_dropout=0.0), clip_norm=None)[1]
    settings = AdversarialSettings("fgm", epsilon=1e-9)
    fgm = attacked(
        tmp_path / "fgm", build_model(hidden_dropout=0.0), adversarial=settings, clip_norm=None
    )[1]
    twice = [2 * gradient for gradient in plain.of_steps[0]]
    torch.testing.assert_close(fgm.of_steps[0], twice, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attack", ["fgm", "pgd", "freelb"])
def test_an_attack_acts_though_the_table_is_frozen(attack, tmp_path):
    weights = {}
    for name in ("none", attack):
        model = row_model()
        build_rows(
            tmp_path / name, model=model, frozen_layers=0, adversarial=AdversarialSettings(name)
        ).train_or_resume()
        weights[name] = model.state_dict()
    table = "backbone.encoder.embeddings.word_embeddings.weight"
    assert torch.equal(weights["none"][table], row_model().state_dict()[table])
    assert torch.equal(weights[attack][table], weights["none"][table])
    assert not torch.equal(weights[attack]["bert_cls.weight"], weights["none"]["bert_cls.weight"])


def test_every_example_is_moved_by_its_own_gradient_and_one_without_is_left():
    gradient = torch.zeros(3, 2, 2)
    gradient[0] = 4.0
    gradient[1] = 1e-12
    unit = direction(gradient)
    assert unit.flatten(1).norm(dim=1).tolist() == pytest.approx([1.0, 1.0, 0.0])
    inside = into_ball(gradient, 0.5)
    assert inside.flatten(1).norm(dim=1).tolist() == pytest.approx([0.5, 2e-12, 0.0])


@pytest.mark.parametrize(
    "name",
    [
        "word_embeddings",
        "embeddings.word_embeddings",
        "backbone.encoder.embeddings.word_embeddings",
        "word_embeddings.weight",
    ],
)
def test_an_embedding_is_found_by_the_end_of_its_path(name):
    model = row_model()
    found = find_embedding(model, name)
    assert found is model.backbone.encoder.embeddings.word_embeddings


@pytest.mark.parametrize("name", ["word_embedings", "embeddings", "word", "emb", "bert_cls"])
def test_a_name_that_is_only_part_of_one_or_of_none_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=f"'{name}': the model has no embedding of that name"):
        build_rows(tmp_path, adversarial=AdversarialSettings("fgm", parameter=name))


def test_the_nearest_name_and_all_are_told():
    with pytest.raises(ConfigError) as error:
        find_embedding(row_model(), "word_embedding")
    words = str(error.value)
    assert "Did you mean 'word_embeddings'?" in words
    assert "Choose from: backbone.encoder.embeddings.word_embeddings, " in words


def test_a_name_of_two_embeddings_is_refused():
    towers = torch.nn.ModuleDict({"left": row_model(), "right": row_model()})
    with pytest.raises(ConfigError, match="is the name of 2 embeddings: left.*, right.*more of"):
        find_embedding(towers, "word_embeddings")
    assert find_embedding(towers, "left.backbone.encoder.embeddings.word_embeddings")


def test_an_embedding_that_is_read_without_a_lookup_cannot_be_attacked(tmp_path):
    settings = AdversarialSettings("fgm", parameter="token_type_embeddings")
    with pytest.raises(ConfigError, match="without looking ids up in it"):
        build_rows(tmp_path, adversarial=settings).train_or_resume()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "fgsm"}, "There is no attack 'fgsm'. Did you mean 'fgm'?"),
        ({"name": "fgm", "epsilon": 0}, "adversarial.epsilon is 0; it must be above 0."),
        ({"name": "pgd", "alpha": -1.0}, "adversarial.alpha is -1.0; it must be above 0."),
        ({"name": "pgd", "steps": 0}, "adversarial.steps is 0; it must be above 0."),
        ({"name": "fgm", "alpha": 0.1}, "alpha=0.1 cannot act with the attack 'fgm'"),
        ({"name": "fgm", "steps": 2}, "steps=2 cannot act with the attack 'fgm'"),
        ({"epsilon": 1.0}, "epsilon=1.0 cannot act with the attack 'none'"),
        ({"parameter": "x"}, "parameter=x cannot act with the attack 'none'"),
    ],
)
def test_a_setting_out_of_range_or_without_effect_is_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        AdversarialSettings(**settings)
    assert words in str(error.value)
