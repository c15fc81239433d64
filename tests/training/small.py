"""A training so small that it takes a fraction of a second."""

import hashlib

import numpy as np
import torch
from transformers import TrainerCallback

from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.sequences import Sequences
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MixedItemModel, NextItemModel
from idbert.training.arguments import TrainingSettings
from idbert.training.trainer import build_trainer
from idbert.training.validation import Validation
from tests.worlds import cycle_world

FIRST_ITEM, NUM_ITEMS = 4, 12
BATCHES = 6  # of an epoch, with the default token budget
TOKEN_BUDGET = 95


def histories(num_users=64):
    """Everybody's walk round the circle, as vocabulary rows."""
    events = cycle_world(num_users=num_users, num_items=NUM_ITEMS)
    rows = events["item_id"].str.split().str[1].astype(int) + FIRST_ITEM
    return [list(user) for _, user in rows.groupby(events["user_id"])]


def validation(targets=1):
    """Ask for everybody's last events, each with what came before it."""
    walks = [walk[: len(walk) - ago] for walk in histories() for ago in reversed(range(targets))]
    targets_Q = np.array([walk[-1] for walk in walks])
    known = Sequences.from_histories([walk[:-1] for walk in walks])
    users_Q = np.repeat(np.arange(len(walks) // targets), targets)
    return Validation(known, targets_Q, filter_seen=False, users_Q=users_Q)


def build_model(model_class=NextItemModel, seed=0, loss=None, **changes):
    torch.manual_seed(seed)
    settings = EncoderSettings(**{"hidden_size": 16, "num_layers": 1, "max_length": 12} | changes)
    is_causal = True if model_class is MixedItemModel else None
    return model_class.build(
        settings, vocab_size=FIRST_ITEM + NUM_ITEMS, loss=loss, is_causal=is_causal
    )


def build(
    folder,
    model_class=NextItemModel,
    with_validation=True,
    callbacks=(),
    token_budget=TOKEN_BUDGET,
    max_padding=0.08,
    model=None,
    weighted=False,
    masking=None,
    targets=None,
    windows=None,
    mixed=None,
    num_targets=1,
    **settings,
):
    """Build a trainer of two epochs on the circle; `settings` are TrainingSettings."""
    sequences = Sequences.from_histories([walk[:-1] for walk in histories()])
    if windows is not None:
        sequences = sequences.windows(*windows)
    if weighted:
        drawn = np.random.default_rng(0).uniform(0.1, 1.9, len(sequences.items))
        of = (sequences.users, sequences.items, sequences.offsets)
        sequences = Sequences(*of, weights=drawn.astype(np.float32))
    return build_trainer(
        model or build_model(model_class),
        sequences,
        (masking or MaskingSettings()) if model_class is not NextItemModel else None,
        BatchSettings(token_budget=token_budget, max_padding=max_padding),
        TrainingSettings(**{"epochs": 2, "learning_rate": 0.01} | settings),
        output_dir=folder,
        validation=validation(num_targets) if with_validation else None,
        callbacks=callbacks,
        targets=targets,
        mixed=mixed,
    )


def weights_sha256(model):
    """Return a digest of all weights, bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def checkpoint_steps(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


class Gradients(TrainerCallback):
    """Keeps the gradients that every step is taken with, and the steps' losses."""

    def __init__(self):
        self.of_steps, self.losses = [], []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self.of_steps.append([p.grad.clone() for p in model.parameters() if p.grad is not None])

    def on_log(self, args, state, control, logs, **_):
        self.losses += [logs["loss"]] if "loss" in logs else []


class Weights(TrainerCallback):
    """Keeps the weights after every step."""

    def __init__(self):
        self.of_steps = []

    def on_step_end(self, args, state, control, model, **_):
        self.of_steps.append({name: p.detach().clone() for name, p in model.named_parameters()})


class AtStep(TrainerCallback):
    """Does something before the step after `step`, once."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step and self.action is not None:
            action, self.action = self.action, None
            action()


class Killed(BaseException):
    """Stands for what ends a process at any moment."""


def die():
    raise Killed
