"""Averages of the weights: how they are made, evaluated and kept."""

import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.item_models import load_item_model
from idbert.training.averaging import FILE, AveragingSettings
from tests.training.small import BATCHES, Weights, build, checkpoint_steps, weights_sha256

STEPS = 2 * BATCHES


def averaged(folder, settings, **others):
    """Train with an average; return the trainer and the weights after every step."""
    weights = Weights()
    trainer = build(folder, averaging=settings, callbacks=[weights], **others)
    trainer.train_or_resume()
    return trainer, weights.of_steps


def ema(of_steps, decay):
    """Return the mean of weights whose shares fall with age, by the definition."""
    shares = torch.tensor([decay ** (len(of_steps) - 1 - step) for step in range(len(of_steps))])
    shares = shares / shares.sum()
    return {
        name: sum(share * weights[name] for share, weights in zip(shares, of_steps, strict=True))
        for name in of_steps[0]
    }


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_ema_is_the_mean_in_which_a_steps_share_falls_with_its_age(decay, tmp_path):
    settings = AveragingSettings("ema", decay=decay)
    trainer, of_steps = averaged(tmp_path, settings, with_validation=False)
    assert len(of_steps) == STEPS
    torch.testing.assert_close(weights_of(trainer.model), ema(of_steps, decay))


def test_ema_equals_a_loop_over_the_steps(tmp_path):
    settings = AveragingSettings("ema", decay=0.8)
    trainer, of_steps = averaged(tmp_path, settings, with_validation=False)
    sums = {name: torch.zeros_like(weights) for name, weights in of_steps[0].items()}
    for weights in of_steps:
        sums = {name: 0.8 * sums[name] + 0.2 * weights[name] for name in sums}
    expected = {name: total / (1 - 0.8**STEPS) for name, total in sums.items()}
    torch.testing.assert_close(weights_of(trainer.model), expected)


@pytest.mark.parametrize(("start", "first"), [(0.5, STEPS // 2), (None, STEPS * 3 // 4), (0, 0)])
def test_swa_is_the_plain_mean_of_the_steps_after_its_start(start, first, tmp_path):
    settings = AveragingSettings("swa", start=start)
    trainer, of_steps = averaged(tmp_path, settings, with_validation=False)
    expected = ema(of_steps[first:], 1.0)
    torch.testing.assert_close(weights_of(trainer.model), expected)


def test_ema_begins_where_it_is_told(tmp_path):
    settings = AveragingSettings("ema", decay=0.7, start=0.5)
    trainer, of_steps = averaged(tmp_path, settings, with_validation=False)
    torch.testing.assert_close(weights_of(trainer.model), ema(of_steps[STEPS // 2 :], 0.7))


def test_the_average_is_evaluated_and_saved_and_training_goes_on_without_it(tmp_path, monkeypatch):
    evaluated = []

    def metrics(model, *_):
        evaluated.append(weights_of(model))
        return {"ndcg@10": 0.5}

    monkeypatch.setattr("idbert.training.item_trainer.validation_metrics", metrics)
    plain = Weights()
    build(tmp_path / "plain", callbacks=[plain]).train_or_resume()
    evaluated.clear()
    settings = AveragingSettings("ema", decay=0.9)
    trainer, of_steps = averaged(tmp_path / "ema", settings, load_best=False)
    for step, weights in enumerate(of_steps):  # the way of the weights is the same
        torch.testing.assert_close(weights, plain.of_steps[step], rtol=0, atol=0)
    for number, step in enumerate((BATCHES, STEPS)):
        expected = ema(of_steps[:step], 0.9)
        torch.testing.assert_close(evaluated[number], expected)
        saved = load_item_model(tmp_path / "ema" / f"checkpoint-{step}")
        torch.testing.assert_close(weights_of(saved), evaluated[number], rtol=0, atol=0)
    assert weights_sha256(trainer.model) == weights_sha256(saved)


def test_the_average_of_the_best_evaluation_is_what_remains(tmp_path, monkeypatch):
    values = iter([0.5, 0.4])
    monkeypatch.setattr(
        "idbert.training.item_trainer.validation_metrics", lambda *_: {"ndcg@10": next(values)}
    )
    trainer, of_steps = averaged(tmp_path, AveragingSettings("ema", decay=0.9))
    torch.testing.assert_close(weights_of(trainer.model), ema(of_steps[:BATCHES], 0.9))


def test_after_training_the_model_is_evaluated_as_it_is(tmp_path, monkeypatch):
    values, evaluated = iter([0.5, 0.4, 0.3]), []

    def metrics(model, *_):
        evaluated.append(weights_sha256(model))
        return {"ndcg@10": next(values)}

    monkeypatch.setattr("idbert.training.item_trainer.validation_metrics", metrics)
    trainer, _ = averaged(tmp_path, AveragingSettings("swa", start=0))
    trainer.evaluate()
    assert evaluated[2] == evaluated[0] == weights_sha256(trainer.model) != evaluated[1]


def test_before_averaging_begins_the_weights_themselves_are_evaluated_and_saved(tmp_path):
    settings = AveragingSettings("swa", start=0.5)
    _, of_steps = averaged(tmp_path, settings, load_best=False)
    saved = load_item_model(tmp_path / f"checkpoint-{BATCHES}")
    torch.testing.assert_close(weights_of(saved), of_steps[BATCHES - 1], rtol=0, atol=0)
    assert not (tmp_path / f"checkpoint-{BATCHES}" / FILE).exists()
    assert (tmp_path / f"checkpoint-{STEPS}" / FILE).exists()


def test_a_finished_run_with_an_average_is_taken_up_with_it(tmp_path):
    for number, others in enumerate(({"with_validation": False}, {"load_best": True})):
        folder = tmp_path / str(number)
        settings = {"averaging": AveragingSettings("ema", decay=0.9)} | others
        first = build(folder, **settings)
        first.train_or_resume()
        steps = checkpoint_steps(folder)
        again = build(folder, **settings)
        again.train_or_resume()
        assert again.finished and checkpoint_steps(folder) == steps
        assert weights_sha256(again.model) == weights_sha256(first.model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "emma"}, "There is no averaging 'emma'. Did you mean 'ema'?"),
        ({"name": "ema", "decay": 1}, "averaging.decay is 1; it must be between 0 and 1."),
        ({"name": "swa", "start": 1}, "averaging.start is 1; it must be at least 0 and below 1."),
        ({"name": "swa", "decay": 0.9}, "decay=0.9 cannot act with 'swa'; it is for 'ema'"),
        ({"start": 0.5}, "start=0.5 cannot act with 'none'. Choose 'ema' or 'swa'."),
    ],
)
def test_a_setting_out_of_range_or_without_effect_is_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        AveragingSettings(**settings)
    assert words in str(error.value)
