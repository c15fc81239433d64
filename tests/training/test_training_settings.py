"""The settings of a training: each one acts, and none that cannot is taken."""

import functools
import math
import tempfile
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from idbert.errors import ConfigError, MissingExtraError
from idbert.training import arguments
from idbert.training.adversarial import AdversarialSettings
from idbert.training.arguments import SCHEDULES, TrainingSettings
from idbert.training.averaging import AveragingSettings
from idbert.training.translation import to_training_arguments
from tests.training.small import BATCHES, build, checkpoint_steps, weights_sha256

WARMUP, STEPS, PEAK = 3, 2 * BATCHES, 0.01


def after_warmup(step):
    return (step - WARMUP) / (STEPS - WARMUP)


EXPECTED = {
    "constant": lambda step: 1.0,
    "constant_with_warmup": lambda step: 1.0,
    "linear": lambda step: 1 - after_warmup(step),
    "cosine": lambda step: (1 + math.cos(math.pi * after_warmup(step))) / 2,
    "cosine_with_restarts": lambda step: (
        (1 + math.cos(math.pi * (2 * after_warmup(step) % 1.0))) / 2
    ),
    "polynomial": lambda step: (1 - after_warmup(step)) ** 2,
    "inverse_sqrt": lambda step: math.sqrt(WARMUP / step),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_learning_rate_follows_the_named_curve(schedule, tmp_path):
    warmup = 0 if schedule == "constant" else WARMUP
    trainer = build(
        tmp_path,
        with_validation=False,
        schedule=schedule,
        warmup=warmup,
        learning_rate=PEAK,
        log_every_steps=1,
    )
    trainer.train_or_resume()
    rates = [row["learning_rate"] for row in trainer.curve()]
    expected = [
        PEAK * (step / warmup if step < warmup else EXPECTED[schedule](step))
        for step in range(STEPS)
    ]
    assert rates == pytest.approx(expected)


def test_a_warmup_below_one_is_a_share_of_all_steps(tmp_path):
    trainer = build(tmp_path, with_validation=False, warmup=0.25, log_every_steps=1)
    trainer.train_or_resume()
    rates = [row["learning_rate"] for row in trainer.curve()]
    assert rates.index(max(rates)) == STEPS // 4


@functools.cache
def outcome(**settings):
    """Return all that a setting can change."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(folder, **settings)
        trainer.train_or_resume()
        arguments = trainer.args.to_dict()
        return {
            "arguments": arguments | {"output_dir": None},
            "weights": weights_sha256(trainer.model),
            "curve": trainer.curve(),
            "checkpoints": checkpoint_steps(Path(folder)),
            "workers": trainer.get_train_dataloader().num_workers,
        }


BASE = {"epochs": 3, "schedule": "linear", "learning_rate": 0.01}


ACTING = [
    ("epochs", 2, "weights", {}),
    ("max_steps", 4, "weights", {}),
    ("learning_rate", 0.02, "weights", {}),
    ("weight_decay", 0.5, "weights", {}),
    ("schedule", "cosine", "weights", {}),
    ("warmup", 0.5, "weights", {}),
    ("cycles", 3, "weights", {"schedule": "cosine_with_restarts"}),
    ("power", 3, "weights", {"schedule": "polynomial"}),
    ("accumulation", 2, "weights", {}),
    ("clip_norm", 0.01, "weights", {}),
    ("evaluate_every", 0.5, "curve", {}),
    ("metric", "recall@1", "arguments", {}),
    ("patience", 1, "curve", {"learning_rate": 1e-12}),
    ("load_best", False, "weights", {"metric": "recall@20"}),
    ("checkpoint_every_steps", 5, "checkpoints", {}),
    ("keep_checkpoints", 1, "checkpoints", {"metric": "recall@20"}),
    ("log_every_steps", 2, "curve", {}),
    ("seed", 1, "weights", {}),
    ("precision", "bfloat16", "weights", {}),
    ("num_workers", 1, "workers", {}),
    ("gradient_checkpointing", True, "arguments", {}),
    ("head_learning_rate", 0.02, "weights", {}),
    ("layer_decay", 0.5, "weights", {}),
    ("frozen_layers", 0, "weights", {}),
    ("unfreeze_every", 1, "weights", {"frozen_layers": "all"}),
    ("adversarial", AdversarialSettings("fgm"), "weights", {}),
    ("averaging", AveragingSettings("ema"), "weights", {}),
]
ATTACKED = [
    ("epsilon", 0.5, "fgm"),
    ("alpha", 0.1, "pgd"),
    ("steps", 2, "pgd"),
    ("epsilon", 0.1, "freelb"),
    ("alpha", 0.1, "freelb"),
    ("steps", 2, "freelb"),
    ("parameter", "position_embeddings", "fgm"),
]
SHORT = {"with_validation": False, "warmup": 0}
AVERAGED = [("decay", 0.5, "ema"), ("start", 0.5, "ema"), ("start", 0.5, "swa")]


@pytest.mark.parametrize(("field", "value", "seen_in", "beside"), ACTING)
def test_every_setting_acts(field, value, seen_in, beside):
    settings = BASE | beside
    before, after = outcome(**settings), outcome(**settings | {field: value})
    assert before[seen_in] != after[seen_in]


@pytest.mark.parametrize(("field", "value", "name"), ATTACKED)
def test_every_setting_of_an_attack_acts(field, value, name):
    before, after = (
        outcome(**SHORT, max_steps=2, adversarial=AdversarialSettings(name, **changed))
        for changed in ({}, {field: value})
    )
    assert before["weights"] != after["weights"]
    assert {field for field, *_ in ATTACKED} | {"name"} == names_of(AdversarialSettings)


@pytest.mark.parametrize(("field", "value", "name"), AVERAGED)
def test_every_setting_of_an_average_acts(field, value, name):
    before, after = (
        outcome(**SHORT, max_steps=4, averaging=AveragingSettings(name, **changed))
        for changed in ({}, {field: value})
    )
    assert before["weights"] != after["weights"]
    assert {field for field, *_ in AVERAGED} | {"name"} == names_of(AveragingSettings)


def names_of(settings_class):
    return {setting.name for setting in fields(settings_class)}


def test_no_setting_is_without_a_test_that_it_acts():
    # Below, in test_row_adamw.py and in test_memory.py
    elsewhere = {"device", "trackers", "sparse_rows", "check_memory"}
    assert names_of(TrainingSettings) == {field for field, *_ in ACTING} | elsewhere


class OnManyGpus(TrainingArguments):
    """In place of transformers' arguments, on a machine with eight GPUs."""

    n_gpu = 8

    def __init__(self, **given):
        self.given = given


def test_of_several_gpus_one_is_trained_on_and_the_cpu_if_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    more = {"steps_per_epoch": 1, "metric": None, "arguments_class": OnManyGpus}
    auto, cpu = (
        to_training_arguments(TrainingSettings(device=device), "out", **more)
        for device in ("auto", "cpu")
    )
    assert not auto.given["use_cpu"] and cpu.given["use_cpu"]
    assert auto._n_gpu == 1


def test_trackers_are_handed_to_transformers(monkeypatch):
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", lambda: ["trackio"])
    settings = TrainingSettings(trackers=("trackio",))
    translated = to_training_arguments(settings, "out", steps_per_epoch=1, metric=None)
    assert translated.report_to == ["trackio"]


def test_steps_follow_from_epochs_and_accumulation():
    settings = TrainingSettings(epochs=3, accumulation=4, evaluate_every=0.5)
    assert settings.steps_per_epoch(batches_per_epoch=10) == 3
    assert settings.total_steps(steps_per_epoch=3) == 9
    assert settings.steps_between_evaluations(steps_per_epoch=3) == 2
    assert settings.steps_between_evaluations(steps_per_epoch=1) == 1
    assert TrainingSettings(epochs=3, max_steps=7).total_steps(steps_per_epoch=3) == 7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1."),
        ({"max_steps": 0}, "max_steps is 0; it must be at least 1."),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0."),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be above 0."),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be at least 0."),
        ({"warmup": -1}, "warmup is -1; it must be at least 0."),
        ({"clip_norm": 0}, "clip_norm is 0; it must be above 0."),
        ({"evaluate_every": 0}, "evaluate_every is 0; it must be above 0."),
        ({"patience": 0}, "patience is 0; it must be at least 1."),
        ({"num_workers": -1}, "num_workers is -1; it must be at least 0."),
        ({"schedule": "linaer"}, "There is no schedule 'linaer'. Did you mean 'linear'?"),
        ({"precision": "float16"}, "There is no precision 'float16'. Did you mean 'bfloat16'?"),
        ({"device": "gpu"}, "There is no device 'gpu'. Did you mean 'cpu'?"),
        ({"trackers": ("wandbb",)}, "There is no tracker 'wandbb'. Did you mean 'wandb'?"),
        ({"schedule": "constant"}, "warmup=0.05 cannot act with the schedule 'constant'"),
        ({"schedule": "constant_with_warmup", "warmup": 0}, "needs a warmup above 0"),
        ({"cycles": 3}, "cycles=3 cannot act with the schedule 'linear'"),
        ({"head_learning_rate": 0}, "head_learning_rate is 0; it must be above 0."),
        ({"layer_decay": 0}, "layer_decay is 0; it must be above 0."),
        ({"layer_decay": 1.1}, "layer_decay is 1.1; it must be at most 1."),
        ({"frozen_layers": -1}, "frozen_layers is -1; it must be at least 0."),
        ({"unfreeze_every": 0, "frozen_layers": 1}, "unfreeze_every is 0; it must be above 0."),
        ({"unfreeze_every": 1}, "unfreeze_every=1 cannot act without frozen_layers"),
        (
            {"layer_decay": 0.5, "frozen_layers": "all"},
            "layer_decay=0.5 cannot act on an encoder that is frozen as a whole",
        ),
        ({"power": 3}, "power=3 cannot act with the schedule 'linear'"),
    ],
)
def test_a_setting_out_of_range_or_without_effect_is_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        TrainingSettings(**settings)
    assert words in str(error.value)


def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", lambda: [])
    with pytest.raises(MissingExtraError, match="'comet_ml' is not installed. Run: pip install co"):
        TrainingSettings(trackers=("comet_ml",))
