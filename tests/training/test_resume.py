"""A run that was stopped anywhere ends as if it had not been."""

import json
import os
import resource
import signal
from contextlib import suppress

import pytest
import torch

from idbert.errors import CheckpointError
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.mixed_batches import MixedSettings
from idbert.inputs.recency import TargetSettings
from idbert.nn.item_models import MaskedItemModel, MixedItemModel, NextItemModel
from idbert.training.adversarial import AdversarialSettings
from idbert.training.averaging import AveragingSettings
from idbert.training.checkpoints import newest_checkpoint
from tests.training.small import (
    BATCHES,
    AtStep,
    Killed,
    build,
    build_model,
    checkpoint_steps,
    die,
    histories,
    weights_sha256,
)


def result(trainer):
    return weights_sha256(trainer.model), trainer.curve()


def uninterrupted(folder, **settings):
    trainer = build(folder, **settings)
    trainer.train_or_resume()
    return result(trainer)


def kill(folder, step, **settings):
    """Train until `step` steps are done, then die."""
    with pytest.raises(Killed):
        build(folder, callbacks=[AtStep(step, die)], **settings).train_or_resume()


def resumed(folder, **settings):
    """Train on, beginning with other weights and the generator elsewhere."""
    model_class = settings.get("model_class", NextItemModel)
    trainer = build(folder, model=build_model(model_class, seed=99), **settings)
    torch.manual_seed(99)
    trainer.train_or_resume()
    assert trainer.finished
    return result(trainer)


@pytest.mark.parametrize(
    ("model_class", "step"),
    [(MaskedItemModel, 3), (NextItemModel, BATCHES), (MaskedItemModel, 2 * BATCHES - 1)],
)
def test_a_killed_run_resumes_to_the_same_weights_and_curve(model_class, step, tmp_path):
    settings = {"model_class": model_class, "checkpoint_every_steps": 2, "evaluate_every": 0.5}
    expected = uninterrupted(tmp_path / "whole", **settings)
    kill(tmp_path / "killed", step, **settings)
    assert resumed(tmp_path / "killed", **settings) == expected


RECENT = [
    {"model_class": MaskedItemModel, "masking": MaskingSettings(recency=0.7)},
    {"model_class": MaskedItemModel, "masking": MaskingSettings(0.0, last_probability=1.0)},
    {"model_class": NextItemModel, "targets": TargetSettings(0.3, recency=0.7)},
    {"model_class": MaskedItemModel, "windows": (5, 2)},
    {"model_class": MixedItemModel, "mixed": MixedSettings()},
]


@pytest.mark.parametrize("objective", RECENT, ids=["masks", "last", "targets", "windows", "mixed"])
def test_drawn_targets_are_drawn_again_after_a_kill(objective, tmp_path):
    settings = objective | {"checkpoint_every_steps": 2, "evaluate_every": 0.5}
    expected = uninterrupted(tmp_path / "whole", **settings)
    kill(tmp_path / "killed", 3, **settings)
    assert resumed(tmp_path / "killed", **settings) == expected
    usual = {"model_class": objective["model_class"], "evaluate_every": 0.5}
    usual |= {"mixed": MixedSettings(0.2)} if "mixed" in objective else {}
    assert uninterrupted(tmp_path / "usual", **usual) != expected


STRATEGIES = {
    "fgm": {"adversarial": AdversarialSettings("fgm"), "accumulation": 2},
    "pgd": {"adversarial": AdversarialSettings("pgd", steps=2)},
    "freelb": {"adversarial": AdversarialSettings("freelb", steps=2), "accumulation": 2},
    "ema": {"averaging": AveragingSettings("ema", decay=0.9)},
    "swa": {"averaging": AveragingSettings("swa", start=0.2), "load_best": False},
    "rates by depth": {"layer_decay": 0.5, "head_learning_rate": 0.05},
    "frozen": {"frozen_layers": 0},
    "unfreezing": {"frozen_layers": "all", "unfreeze_every": 0.25},
    "bfloat16": {"precision": "bfloat16"},
    "all": {
        "adversarial": AdversarialSettings("freelb", steps=2),
        "averaging": AveragingSettings("ema", decay=0.9),
        "layer_decay": 0.5,
        "head_learning_rate": 0.05,
        "frozen_layers": "all",
        "unfreeze_every": 0.25,
        "accumulation": 2,
        "precision": "bfloat16",
        "gradient_checkpointing": True,
    },
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_resumes_to_the_same_weights_and_curve(name, tmp_path):
    settings = STRATEGIES[name] | {"epochs": 1, "evaluate_every": 0.5, "checkpoint_every_steps": 1}
    settings["model_class"] = MaskedItemModel
    expected = uninterrupted(tmp_path / "whole", **settings)
    steps = BATCHES // settings.get("accumulation", 1)
    for step in (steps // 2, steps - 1):
        kill(tmp_path / "killed", step, **settings)
    assert resumed(tmp_path / "killed", **settings) == expected


def test_after_a_sigterm_every_strategy_goes_on_as_if_nothing_had_been(tmp_path):
    settings = STRATEGIES["all"] | {"load_best": False}
    expected, _ = uninterrupted(tmp_path / "whole", **settings)
    stop = AtStep(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    trainer = build(tmp_path / "stopped", callbacks=[stop], **settings)
    trainer.train_or_resume()
    assert not trainer.finished and 4 in checkpoint_steps(tmp_path / "stopped")
    assert resumed(tmp_path / "stopped", **settings)[0] == expected


def test_a_run_killed_again_and_again_resumes_to_the_same_weights(tmp_path):
    settings = {"accumulation": 4, "checkpoint_every_steps": 1, "epochs": 3, "patience": 3}
    expected = uninterrupted(tmp_path / "whole", **settings)
    for step in (1, 2, 5):
        kill(tmp_path / "killed", step, **settings)
    assert resumed(tmp_path / "killed", **settings) == expected


def test_worker_processes_change_nothing(tmp_path):
    settings = {"checkpoint_every_steps": 2, "epochs": 1}
    expected = uninterrupted(tmp_path / "whole", **settings)
    kill(tmp_path / "killed", 2, num_workers=1, **settings)
    assert resumed(tmp_path / "killed", num_workers=1, **settings) == expected


def test_a_run_killed_while_a_checkpoint_is_written_resumes_from_the_one_before(
    tmp_path, monkeypatch
):
    settings = {"checkpoint_every_steps": 2}
    expected = uninterrupted(tmp_path / "whole", **settings)
    trainer = build(tmp_path / "killed", **settings)
    save = trainer._save_rng_state

    def save_or_die(folder):
        if trainer.state.global_step == 4:
            raise Killed
        save(folder)

    monkeypatch.setattr(trainer, "_save_rng_state", save_or_die)
    # What SIGKILL leaves behind: nothing is cleaned up.
    monkeypatch.setattr("idbert.files._remove", lambda path: None)
    with pytest.raises(Killed):
        trainer.train_or_resume()
    monkeypatch.undo()
    assert (tmp_path / "killed" / ".checkpoint-4.partial" / "model.safetensors").exists()
    assert checkpoint_steps(tmp_path / "killed") == [2]
    assert resumed(tmp_path / "killed", **settings) == expected
    assert not list((tmp_path / "killed").glob(".*"))


def test_an_incomplete_checkpoint_is_passed_over(tmp_path, caplog):
    settings = {"checkpoint_every_steps": 2, "keep_checkpoints": 9}
    expected = uninterrupted(tmp_path, **settings)
    steps = checkpoint_steps(tmp_path)
    (tmp_path / f"checkpoint-{steps[-1]}" / "optimizer.pt").unlink()
    (tmp_path / f"checkpoint-{steps[-2]}" / "checkpoint.json").unlink()
    (tmp_path / f"checkpoint-{steps[-3]}" / "scheduler.pt").write_bytes(b"cut off")
    assert newest_checkpoint(tmp_path) == tmp_path / f"checkpoint-{steps[-4]}"
    assert f"checkpoint-{steps[-1]} is incomplete and is not used" in caplog.text
    assert resumed(tmp_path, **settings) == expected
    assert checkpoint_steps(tmp_path) == steps


def test_sigterm_leaves_a_checkpoint_and_an_unfinished_trainer(tmp_path):
    expected = uninterrupted(tmp_path / "whole")
    handler = signal.getsignal(signal.SIGTERM)
    stop = AtStep(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    trainer = build(tmp_path / "stopped", callbacks=[stop])
    trainer.train_or_resume()
    assert not trainer.finished
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoint_steps(tmp_path / "stopped") == [4]
    weights, curve = resumed(tmp_path / "stopped")
    assert weights == expected[0]
    assert [row["ndcg@10"] for row in curve if "ndcg@10" in row] == [
        row["ndcg@10"] for row in expected[1]
    ]


def test_a_finished_run_is_taken_up_without_another_step(tmp_path):
    for settings in ({"max_steps": BATCHES + 2}, {"epochs": 2}):
        folder = tmp_path / str(settings)
        expected = uninterrupted(folder, **settings)
        steps = checkpoint_steps(folder)
        assert resumed(folder, **settings) == expected
        assert checkpoint_steps(folder) == steps


def test_a_run_that_stopped_early_is_not_trained_on(tmp_path, monkeypatch):
    values = iter([0.5, 0.4, 0.3, 0.2, 0.1])
    monkeypatch.setattr(
        "idbert.training.item_trainer.validation_metrics", lambda *_: {"ndcg@10": next(values)}
    )
    settings = {"epochs": 9, "patience": 2}
    expected = uninterrupted(tmp_path, **settings)
    assert checkpoint_steps(tmp_path)[-1] == 3 * BATCHES
    assert resumed(tmp_path, **settings) == expected


def test_the_count_of_early_stopping_survives(tmp_path, monkeypatch):
    def metrics(model, *_):
        return {"ndcg@10": -float(model.head.bias.detach().norm())}  # worse and worse

    monkeypatch.setattr("idbert.training.item_trainer.validation_metrics", metrics)
    settings = {"epochs": 9, "patience": 3}
    expected = uninterrupted(tmp_path / "whole", **settings)
    kill(tmp_path / "killed", 3 * BATCHES, **settings)
    assert resumed(tmp_path / "killed", **settings) == expected


def test_a_moved_folder_resumes_and_finds_its_best_checkpoint(tmp_path):
    expected = uninterrupted(tmp_path / "whole")
    kill(tmp_path / "killed", 2 * BATCHES - 1)
    (tmp_path / "killed").rename(tmp_path / "moved")
    assert resumed(tmp_path / "moved") == expected


def test_nothing_in_a_checkpoint_needs_unpickling(tmp_path):
    build(tmp_path, epochs=1).train_or_resume()
    (checkpoint,) = tmp_path.iterdir()
    names = {path.name for path in checkpoint.iterdir()}
    assert "training_args.bin" not in names
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(checkpoint / name, weights_only=True)
    assert set(json.loads((checkpoint / "checkpoint.json").read_text())["files"]) == names - {
        "checkpoint.json"
    }


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    build(tmp_path, epochs=1).train_or_resume()
    with pytest.raises(CheckpointError, match="written with seed 0, and now it is 1"):
        build(tmp_path, seed=1).train_or_resume()
    with pytest.raises(CheckpointError, match="with batches_per_epoch 6, and now it is 8"):
        build(tmp_path, token_budget=60).train_or_resume()
    with pytest.raises(CheckpointError, match="with layer_decay 1.0, and now it is 0.5"):
        build(tmp_path, epochs=2, layer_decay=0.5).train_or_resume()
    with pytest.raises(CheckpointError, match="with frozen_layers None, and now it is 0"):
        build(tmp_path, epochs=2, frozen_layers=0).train_or_resume()
    with pytest.raises(CheckpointError, match="with sparse_rows None, and now it is False"):
        build(tmp_path, epochs=2, sparse_rows=False).train_or_resume()
    with pytest.raises(CheckpointError, match="averaging none, and now it is ema from step 1"):
        build(tmp_path, epochs=2, averaging=AveragingSettings("ema")).train_or_resume()
    for name in ("learning_rate", "weight_decay"):  # the optimizer's state would overrule it
        with pytest.raises(CheckpointError, match=f"with {name} 0.01, and now it is 0.5"):
            build(tmp_path, epochs=2, **{name: 0.5}).train_or_resume()


def test_other_data_of_the_same_size_is_refused(tmp_path, monkeypatch):
    build(tmp_path, epochs=1).train_or_resume()
    walks = histories()
    walks[7][2:4] = walks[7][3:1:-1]
    monkeypatch.setattr("tests.training.small.histories", lambda: walks)
    with pytest.raises(CheckpointError, match="written with data .*, 6 batches, and now it is"):
        build(tmp_path, epochs=2).train_or_resume()


def test_a_checkpoint_that_does_not_tell_a_setting_is_taken(tmp_path):
    build(tmp_path, epochs=1).train_or_resume()
    manifest = tmp_path / f"checkpoint-{BATCHES}" / "checkpoint.json"
    told = json.loads(manifest.read_text())
    del told["origin"]["learning_rate"]
    manifest.write_text(json.dumps(told))
    trainer = build(tmp_path, epochs=2)
    trainer.train_or_resume()
    assert trainer.finished and trainer.state.global_step == 2 * BATCHES


def test_a_full_disk_leaves_the_earlier_checkpoint_and_says_how_much_room_is_needed(tmp_path):
    def limit_file_size(size_bytes):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))

    shrink = AtStep(3, lambda: limit_file_size(20_000))
    trainer = build(tmp_path, checkpoint_every_steps=2, callbacks=[shrink])
    try:
        with pytest.raises(CheckpointError) as error:
            trainer.train_or_resume()
    finally:
        with suppress(ValueError):
            limit_file_size(resource.RLIM_INFINITY)
    words = str(error.value)
    assert "checkpoint-4 could not be written" in words
    assert "It needs about 1 MiB, and" in words and "MiB are free" in words
    assert checkpoint_steps(tmp_path) == [2]
    assert not list(tmp_path.glob(".*"))
    assert resumed(tmp_path, checkpoint_every_steps=2) == uninterrupted(
        tmp_path / "whole", checkpoint_every_steps=2
    )


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), RuntimeError("file write failed")]
)
def test_every_way_of_failing_to_write_is_one_error(failure, tmp_path, monkeypatch):
    trainer = build(tmp_path)
    monkeypatch.setattr(trainer, "_save_scaler", lambda folder: (_ for _ in ()).throw(failure))
    with pytest.raises(CheckpointError, match="make room, and start the same command again"):
        trainer.train_or_resume()
    assert not list(tmp_path.iterdir())
