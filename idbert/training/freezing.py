"""Which parts of an encoder are not trained, and when they thaw."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from idbert.errors import ConfigError
from idbert.processes import num_processes
from idbert.training.arguments import TrainingSettings


def encoder_of(model: nn.Module) -> nn.Module | None:
    """Return `model.backbone.encoder`, or None where a model has no such part."""
    encoder = getattr(getattr(model, "backbone", None), "encoder", None)
    return encoder if isinstance(encoder, nn.Module) else None


def find_encoder(
    model: nn.Module, encoder: nn.Module | None, settings: TrainingSettings
) -> nn.Module | None:
    """Return the encoder that the settings of depth act on.

    Args:
        model: Its `backbone.encoder` is meant, by attribute.
        encoder: Meant instead.
        settings: Of the training.

    Raises:
        ConfigError: there is none, and a setting needs one.
    """
    encoder = encoder or encoder_of(model)
    acting = {
        "head_learning_rate": settings.head_learning_rate is not None,
        "layer_decay": settings.layer_decay != 1,
        "frozen_layers": settings.frozen_layers is not None,
    }
    if encoder is None and any(acting.values()):
        raise ConfigError(
            f"{next(name for name in acting if acting[name])} cannot act: "
            f"{type(model).__name__} has no backbone.encoder. Name the encoder."
        )
    return encoder


def freeze(
    model: nn.Module,
    encoder: nn.Module | None,
    settings: TrainingSettings,
    steps_per_epoch: int,
    total_steps: int,
) -> "tuple[list[nn.Parameter], GradualUnfreezing | None]":
    """Freeze what the settings say.

    Returns:
        The parameters that will thaw, and what thaws them.

    Raises:
        ConfigError: nothing is left to train, nothing would thaw, or the encoder is too shallow.
    """
    if settings.frozen_layers is None or encoder is None:
        return [], None
    # What was frozen before stays so.
    parts = [
        [parameter for parameter in part if parameter.requires_grad]
        for part in frozen_parts(encoder, settings.frozen_layers)
    ]
    frozen = {id(parameter) for part in parts for parameter in part}
    if all(id(p) in frozen or not p.requires_grad for p in model.parameters()):
        raise ConfigError(
            f"frozen_layers={settings.frozen_layers} leaves nothing to train: all that "
            f"{type(model).__name__} learns is in its encoder. Freeze fewer layers."
        )
    every_steps = max(1, round((settings.unfreeze_every or 1) * steps_per_epoch))
    if settings.unfreeze_every is not None and every_steps >= total_steps:
        raise ConfigError(
            f"unfreeze_every={settings.unfreeze_every} cannot act: the training ends after "
            f"{total_steps} steps, before anything thaws at step {every_steps}. Give fewer epochs."
        )
    if settings.unfreeze_every is not None and num_processes() > 1:
        raise ConfigError(
            "unfreeze_every cannot act in several processes, which share the gradients of what is "
            "trained from the start only. Train in one, or leave it out."
        )
    for part in parts:
        for parameter in part:
            parameter.requires_grad_(False)
    if settings.unfreeze_every is None:
        return [], None
    return [p for part in parts for p in part], GradualUnfreezing(parts, every_steps)


def depths(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """Return an encoder's parameters from the top down: above the layers, layers, embeddings.

    Raises:
        ConfigError: it is no encoder with `embeddings` and a list of layers, `encoder.layer`.
    """
    embeddings = getattr(encoder, "embeddings", None)
    layers = getattr(getattr(encoder, "encoder", None), "layer", None)
    if not isinstance(embeddings, nn.Module) or not isinstance(layers, nn.ModuleList):
        raise ConfigError(
            f"{type(encoder).__name__} has no `embeddings` and `encoder.layer`, so its depth is "
            "unknown: layer_decay and frozen_layers cannot act on it."
        )
    parts = [list(part.parameters()) for part in (*reversed(layers), embeddings)]
    below = {id(parameter) for part in parts for parameter in part}
    return [[p for p in encoder.parameters() if id(p) not in below], *parts]


def frozen_parts(
    encoder: nn.Module, frozen_layers: int | Literal["all"]
) -> list[list[nn.Parameter]]:
    """Return the parameters to freeze in the order in which they would thaw, the top first.

    Args:
        encoder: As `depths` takes it.
        frozen_layers: The embeddings and so many layers, the lowest; "all": the whole encoder.

    Raises:
        ConfigError: the encoder has not so many layers.
    """
    top, *parts = depths(encoder)
    num_layers = len(parts) - 1
    if isinstance(frozen_layers, str):  # all
        return [top + parts[0], *parts[1:]]
    if frozen_layers > num_layers:
        raise ConfigError(
            f"frozen_layers is {frozen_layers}, and the encoder has {num_layers} layers. Give a "
            "smaller number, or 'all'."
        )
    return parts[num_layers - frozen_layers :]


class GradualUnfreezing(TrainerCallback):
    """Let frozen parts thaw one after the other; which ones have is a function of the step.

    Source: Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification",
    section 3.3.

    Args:
        parts: In the order in which they thaw.
        every_steps: Optimizer steps from one to the next; the first thaws after so many.
    """

    def __init__(self, parts: Sequence[Sequence[nn.Parameter]], every_steps: int) -> None:
        self._parts, self._every_steps = parts, every_steps

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Thaw what is due."""
        self.thaw(state.global_step)

    def thaw(self, step: int) -> None:
        """Freeze and thaw as is due after so many steps."""
        for number, part in enumerate(self._parts):
            for parameter in part:
                parameter.requires_grad_(step >= (number + 1) * self._every_steps)
