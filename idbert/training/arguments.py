"""The settings of a training."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from idbert.errors import ConfigError, MissingExtraError, suggestion
from idbert.training.adversarial import AdversarialSettings
from idbert.training.averaging import AveragingSettings

SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
)
PRECISIONS = ("auto", "float32", "medium", "bfloat16")
DEFAULT_CYCLES = 2
DEFAULT_POWER = 2.0


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained: AdamW, its learning rate over time, when to evaluate and save."""

    epochs: int = 20
    """Passes over the training data."""

    max_steps: int | None = None
    """Optimizer steps; where given, it overrules epochs."""

    learning_rate: float = 1e-3
    """Highest learning rate of AdamW."""

    head_learning_rate: float | int | None = None
    """The same of all that is not the encoder. Default: learning_rate."""

    layer_decay: float | int = 1.0
    """The encoder's rate falls with depth: layer n from the top, which is 0, learns at
    learning_rate * layer_decay^n, the embeddings one deeper than the lowest layer."""

    frozen_layers: int | Literal["all"] | None = None
    """Not trained: the embeddings and so many of the lowest layers; all: the whole encoder. The
    embeddings of a recommender score its items too."""

    unfreeze_every: float | int | None = None
    """Epochs after which one more frozen layer is trained, from the top; the embeddings come
    last. null: never."""

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

    metric: str | None = "ndcg@10"
    """What is best on the validation part, by the name that the evaluation gives it; of loss, mse
    and mae the smallest value. null: what the evaluation names first."""

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
    """float32; medium, which rounds what is multiplied to bfloat16 on a processor with tiles (AMX)
    and to TF32 on a GPU, while all results are float32; or bfloat16 (autocast; weights stay
    float32). auto: bfloat16 where the hardware computes it and the model is at least 256 wide.
    Evaluations: float32."""

    sparse_rows: bool | None = None
    """Only the rows of the item table that a step reads get a gradient and move, with one second
    moment a row: a step costs what it touches. Default: where the loss draws a sample and the table
    has over 200,000 rows."""

    adversarial: AdversarialSettings = field(default=AdversarialSettings())
    """Steps on perturbed inputs"""

    averaging: AveragingSettings = field(default=AveragingSettings())
    """Averages of the weights"""

    device: str = "auto"
    """auto: the GPU of CUDA or ROCm where there is one, the first of several; cpu."""

    num_workers: int = 0
    """Processes that build batches ahead; 0: none beside the one that trains."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    check_memory: bool = True
    """Refuse a training of items that is estimated to need more memory than there is."""

    trackers: tuple[str, ...] = ()
    """Experiment trackers that transformers knows, such as tensorboard, trackio, mlflow, wandb."""

    def __post_init__(self) -> None:
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("device", self.device, ("auto", "cpu"))
        for name in ("epochs", "max_steps", "accumulation", "patience", "keep_checkpoints"):
            self._check(name, ">=", 1)
        for name in ("checkpoint_every_steps", "log_every_steps", "cycles"):
            self._check(name, ">=", 1)
        for name in ("weight_decay", "warmup", "seed", "num_workers"):
            self._check(name, ">=", 0)
        for name in ("learning_rate", "clip_norm", "evaluate_every", "power"):
            self._check(name, ">", 0)
        for name in ("head_learning_rate", "layer_decay", "unfreeze_every"):
            self._check(name, ">", 0)
        self._check_schedule()
        self._check_depth()
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

    def _check_depth(self) -> None:
        if self.layer_decay > 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}; it must be at most 1.")
        if isinstance(self.frozen_layers, str):
            _check_choice("frozen_layers", self.frozen_layers, ("all",))
        elif self.frozen_layers is not None and self.frozen_layers < 0:
            raise ConfigError(f"frozen_layers is {self.frozen_layers}; it must be at least 0.")
        if self.unfreeze_every is not None and self.frozen_layers is None:
            raise ConfigError(
                f"unfreeze_every={self.unfreeze_every} cannot act without frozen_layers. Say how "
                "many layers are frozen at first, or 'all'."
            )
        if self.layer_decay != 1 and self.frozen_layers == "all" and self.unfreeze_every is None:
            raise ConfigError(
                f"layer_decay={self.layer_decay} cannot act on an encoder that is frozen as a "
                "whole. Freeze fewer layers, set unfreeze_every, or leave layer_decay out."
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
