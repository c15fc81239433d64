"""The settings of a training, and their translation into transformers' TrainingArguments."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from idbert.errors import ConfigError, MissingExtraError, suggestion
from idbert.evaluation.metrics import CUTOFFS

SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
)
METRICS = tuple(f"{name}@{k}" for name in ("ndcg", "recall", "mrr") for k in CUTOFFS)
DEFAULT_CYCLES = 2
DEFAULT_POWER = 2.0


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained: AdamW, its learning rate over time, when to evaluate and save."""

    epochs: int = 20
    """Passes over the training sequences."""

    max_steps: int | None = None
    """Optimizer steps; where given, it overrules epochs."""

    learning_rate: float = 1e-3
    """Highest learning rate of AdamW."""

    weight_decay: float = 0.01
    """Decay of AdamW on matrices and embeddings; biases, norms and other vectors have none."""

    schedule: str = "linear"
    """The learning rate after the warm-up: constant, constant_with_warmup, linear (down to 0),
    cosine, cosine_with_restarts, polynomial, inverse_sqrt. Plain "constant" has no warm-up."""

    warmup: float | int = 0.05
    """Linear rise of the learning rate from 0: a share of all steps if below 1, else steps."""

    cycles: int | None = None
    """Starts of cosine_with_restarts. Default: 2."""

    power: float | int | None = None
    """Exponent of the polynomial schedule; 1 would be linear. Default: 2."""

    accumulation: int = 1
    """Batches whose gradients make one step; their loss is that of one large batch."""

    clip_norm: float | int | None = 1.0
    """Largest norm of the gradient; larger ones are scaled down to it. null: no limit."""

    evaluate_every: float | int = 1
    """Epochs between evaluations on the validation part, fractions allowed. A checkpoint is
    written at each, also where there is no validation part."""

    metric: str = "ndcg@10"
    """What is best on the validation part: ndcg, recall or mrr at 1, 5, 10 or 20."""

    patience: int | None = None
    """Evaluations without a new best after which training stops early. null: never."""

    load_best: bool = True
    """End with the weights of the best evaluation instead of the last ones."""

    checkpoint_every_steps: int | None = None
    """Steps between further checkpoints, for epochs so long that losing one would hurt."""

    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk, the best one not counted."""

    log_every_steps: int | None = None
    """Steps between reports of the loss; every checkpoint brings one too. Default: an epoch."""

    seed: int = 0
    """Of dropout, masks and the order of batches. Weights are drawn when the model is built."""

    precision: str = "float32"
    """float32, or bfloat16 (matrix products only: autocast; weights stay float32)."""

    device: str = "auto"
    """auto: the GPU where there is one; cpu."""

    num_workers: int = 0
    """Processes that build batches ahead; 0: none beside the one that trains."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    trackers: tuple[str, ...] = ()
    """Experiment trackers that transformers knows, such as tensorboard, trackio, mlflow, wandb."""

    def __post_init__(self) -> None:
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("metric", self.metric, METRICS)
        _check_choice("precision", self.precision, ("float32", "bfloat16"))
        _check_choice("device", self.device, ("auto", "cpu"))
        for name in ("epochs", "max_steps", "accumulation", "patience", "keep_checkpoints"):
            self._check(name, ">=", 1)
        for name in ("checkpoint_every_steps", "log_every_steps", "cycles"):
            self._check(name, ">=", 1)
        for name in ("weight_decay", "warmup", "seed", "num_workers"):
            self._check(name, ">=", 0)
        for name in ("learning_rate", "clip_norm", "evaluate_every", "power"):
            self._check(name, ">", 0)
        self._check_schedule()
        for tracker in self.trackers:
            _check_tracker(tracker)

    def _check(self, name: str, relation: Literal[">", ">="], bound: int) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if not (value > bound or (relation == ">=" and value == bound)):
            words = "above" if relation == ">" else "at least"
            raise ConfigError(f"{name} is {value}; it must be {words} {bound}.")

    def _check_schedule(self) -> None:
        if self.schedule == "constant" and self.warmup:
            raise ConfigError(
                f"warmup={self.warmup} cannot act with the schedule 'constant'. Set warmup=0, or "
                "choose 'constant_with_warmup'."
            )
        if self.schedule == "constant_with_warmup" and not self.warmup:
            raise ConfigError("The schedule 'constant_with_warmup' needs a warmup above 0.")
        if self.cycles is not None and self.schedule != "cosine_with_restarts":
            raise ConfigError(
                f"cycles={self.cycles} cannot act with the schedule '{self.schedule}'; it is for "
                "'cosine_with_restarts'."
            )
        if self.power is not None and self.schedule != "polynomial":
            raise ConfigError(
                f"power={self.power} cannot act with the schedule '{self.schedule}'; it is for "
                "'polynomial'."
            )

    @property
    def schedule_arguments(self) -> dict[str, Any]:
        """What transformers' scheduler of this name takes beside steps and warm-up."""
        if self.schedule == "cosine_with_restarts":
            return {"num_cycles": self.cycles or DEFAULT_CYCLES}
        if self.schedule == "polynomial":
            return {"power": self.power or DEFAULT_POWER, "lr_end": 0.0}
        return {}

    def steps_per_epoch(self, batches_per_epoch: int) -> int:
        """Return the optimizer steps of an epoch; the last may accumulate fewer batches."""
        return math.ceil(batches_per_epoch / self.accumulation)

    def steps_between_evaluations(self, steps_per_epoch: int) -> int:
        """Return `evaluate_every` in optimizer steps, at least 1."""
        return max(1, round(self.evaluate_every * steps_per_epoch))

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the optimizer steps of the whole training."""
        return self.max_steps or self.epochs * steps_per_epoch


def to_training_arguments(
    settings: TrainingSettings,
    output_dir: str | Path,
    *,
    steps_per_epoch: int,
    with_validation: bool,
) -> TrainingArguments:
    """Translate the settings for transformers; nowhere else do its arguments appear.

    Evaluations and checkpoints fall on steps, not on the ends of epochs: Trainer evaluates after
    the last step of an epoch has been saved, so that a run resumed from there would skip it.

    Args:
        settings: ours.
        output_dir: The folder of the checkpoints.
        steps_per_epoch: Optimizer steps of an epoch.
        with_validation: Whether there is a validation part.
    """
    every = settings.steps_between_evaluations(steps_per_epoch)
    bf16 = settings.precision == "bfloat16"
    return TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.schedule,
        lr_scheduler_kwargs=settings.schedule_arguments,
        warmup_steps=settings.warmup,
        gradient_accumulation_steps=settings.accumulation,
        max_grad_norm=settings.clip_norm or 0.0,
        eval_strategy="steps" if with_validation else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        logging_strategy="steps",
        logging_steps=settings.log_every_steps or steps_per_epoch,
        metric_for_best_model=settings.metric if with_validation else None,
        greater_is_better=True if with_validation else None,
        load_best_model_at_end=with_validation and settings.load_best,
        restore_callback_states_from_checkpoint=True,
        seed=settings.seed,
        bf16=bf16,
        use_cpu=settings.device == "cpu" or not torch.accelerator.is_available(),
        activation_checkpointing=settings.gradient_checkpointing,
        report_to=list(settings.trackers) or "none",
        # A batch comes from our own loader, whole and with the names that the model knows.
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        disable_tqdm=True,  # progress.py shows the progress
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            f"There is no {name} '{value}'.{suggestion(value, choices)} "
            f"Choose from: {', '.join(choices)}."
        )


def _check_tracker(name: str) -> None:
    _check_choice("tracker", name, tuple(sorted(INTEGRATION_TO_CALLBACK)))
    installed = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    if name not in installed:
        raise MissingExtraError(
            f"The tracker '{name}' is not installed. Run: pip install {name.replace('_', '-')}"
        )
