"""How a training is started: what torchrun and accelerate may ask for, and what must agree."""

import dataclasses
import hashlib
import os
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from idbert.errors import ConfigError
from idbert.inputs.planned_loader import PlannedLoader
from idbert.processes import num_processes
from idbert.training.arguments import TrainingSettings

_OTHER_ENGINES = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def check_launch(settings: TrainingSettings) -> None:
    """Check that this training can run the way it was started.

    Raises:
        ConfigError: accelerate is told to shard the model, or there are fewer GPUs than processes.
    """
    for variable, engine in _OTHER_ENGINES.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise ConfigError(
                f"{engine} is asked for ({variable}), and idbert's checkpoints and evaluations do "
                "not know sharded weights. Start with torchrun: each process holds the model. A "
                "table too large for that trains with a sampled loss and training.sparse_rows."
            )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if settings.device != "cpu" and torch.cuda.is_available() and here > torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started {here} processes on this machine, which has "
            f"{torch.cuda.device_count()} GPUs. Give --nproc_per_node as many, or "
            "--training.device cpu."
        )


def facts_of(model: nn.Module, loader: Any, settings: TrainingSettings) -> dict[str, str]:
    """Return what must be the same in all processes before the first step; nothing for one."""
    if num_processes() == 1:
        return {}
    config: Any = getattr(model, "config", None)
    architecture = config.to_json_string() if hasattr(config, "to_json_string") else repr(model)
    facts = {
        "idbert": version("idbert"),
        "torch": torch.__version__,
        "the model": hashlib.sha256(architecture.encode()).hexdigest()[:16],
    }
    if isinstance(loader, PlannedLoader):
        facts["the data"] = loader.fingerprint()
    for field in dataclasses.fields(settings):
        facts[f"training.{field.name}"] = repr(getattr(settings, field.name))
    return facts
