"""Averages of the weights over the steps, which are evaluated and kept in their stead."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from idbert.errors import ConfigError, suggestion

AVERAGES = ("none", "ema", "swa")
DEFAULT_DECAY = 0.999
DEFAULT_START = {"ema": 0.0, "swa": 0.75}
FILE = "training_weights.safetensors"
"""In a checkpoint: the weights that training goes on from; model.safetensors holds the average."""


@dataclass(frozen=True)
class AveragingSettings:
    """An average of the weights stands in for the last ones, in evaluations and at the end."""

    name: str = "none"
    """none; ema: exponential moving average; swa: plain mean (stochastic weight averaging)."""

    decay: float | int | None = None
    """How slowly ema forgets: a step's weights count for about 1 / (1 - decay) steps. Default:
    0.999."""

    start: float | int | None = None
    """Share of all steps after which averaging begins. Default: 0 for ema, 0.75 for swa."""

    def __post_init__(self) -> None:
        if self.name not in AVERAGES:
            raise ConfigError(
                f"There is no averaging '{self.name}'.{suggestion(self.name, AVERAGES)} "
                f"Choose from: {', '.join(AVERAGES)}."
            )
        if self.decay is not None and self.name != "ema":
            raise ConfigError(
                f"averaging.decay={self.decay} cannot act with '{self.name}'; it is for 'ema'."
            )
        if self.start is not None and self.name == "none":
            raise ConfigError(
                f"averaging.start={self.start} cannot act with 'none'. Choose 'ema' or 'swa'."
            )
        if self.decay is not None and not 0 < self.decay < 1:
            raise ConfigError(f"averaging.decay is {self.decay}; it must be between 0 and 1.")
        if self.start is not None and not 0 <= self.start < 1:
            raise ConfigError(
                f"averaging.start is {self.start}; it must be at least 0 and below 1."
            )


def build_average(
    settings: AveragingSettings, model: nn.Module, total_steps: int
) -> "WeightAverage | None":
    """Return the average that the settings name, or None."""
    return None if settings.name == "none" else WeightAverage(settings, model, total_steps)


class WeightAverage(TrainerCallback):
    """The average of a model's parameters over the steps.

    average_t = average_(t-1) + share_t * (weights_t - average_(t-1)), where t counts the steps
    since averaging began. swa: share_t = 1 / t. ema: share_t = (1 - decay) / (1 - decay^t), so
    that the weights averaged have shares in proportion to decay^(age) that sum to 1, and the
    weights at the start have none. As decay tends to 1, ema becomes swa.
    Source: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better
    Generalization"; for the divisor of ema Kingma and Ba 2015, "Adam", section 3.

    Args:
        settings: Not those of name "none".
        model: Its parameters are averaged, each once however often it is used.
        total_steps: Of the training.
    """

    def __init__(self, settings: AveragingSettings, model: nn.Module, total_steps: int) -> None:
        self._settings = settings
        self._parameters = {name: p for name, p in model.named_parameters()}
        start = DEFAULT_START[settings.name] if settings.start is None else settings.start
        self._first_step = int(start * total_steps) + 1
        self._averages: dict[str, Tensor] = {}

    @property
    def description(self) -> str:
        """What must be the same when a training is resumed."""
        return f"{self._settings.name} from step {self._first_step}"

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take in the weights of this step."""
        self.update(state.global_step)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after an optimizer step, the first being 1."""
        age = step - self._first_step + 1
        if age < 1:
            return
        if age == 1 or not self._averages:
            self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}
            return
        torch._foreach_lerp_(
            list(self._averages.values()), list(self._parameters.values()), self._share(age)
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the average inside the block; before averaging begins, its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def take_over(self) -> None:
        """Give the model the average for good."""
        self._swap()
        self._averages = {}

    def save_training_weights(self, folder: Path) -> None:
        """Write the weights that training goes on from, where they are not the model's."""
        if self._averages:
            tensors = {name: p.detach().contiguous() for name, p in self._parameters.items()}
            save_file(tensors, folder / FILE)

    @torch.no_grad()
    def load_training_weights(self, folder: Path) -> None:
        """Take the model's weights, just loaded from a checkpoint, as the average.

        The model gets the weights that training goes on from.
        """
        self._averages = {}
        if (folder / FILE).is_file():
            self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}
            for name, tensor in load_file(folder / FILE).items():
                self._parameters[name].copy_(tensor)

    def _share(self, age: int) -> float:
        if self._settings.name == "swa":
            return 1 / age
        decay = float(self._settings.decay or DEFAULT_DECAY)
        return (1 - decay) / (1 - decay**age)

    def _swap(self) -> None:
        for name, average in self._averages.items():
            parameter = self._parameters[name]
            self._averages[name], parameter.data = parameter.data, average
