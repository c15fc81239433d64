"""A plugin of the training commands: each step's seconds and interactions, for benchmarks.scaling.

Where IDBERT_STEP_TIMES names a file, the first process writes them there when training ends. The
interactions of a step are those of all processes.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from idbert import processes
from idbert.training.planned_trainer import PlannedTrainer

_steps: list[dict[str, float]] = []
_get_batches, _train = PlannedTrainer.get_batch_samples, PlannedTrainer.train_or_resume


def _counted(trainer: PlannedTrainer, *arguments: Any) -> Any:
    """Take the batches of a step; a step lasts from here to here."""
    now = time.perf_counter()
    if _steps:
        _steps[-1]["seconds"] += now
    batches, num_items = _get_batches(trainer, *arguments)
    real = sum(batch["attention_mask"].sum() for batch in batches if "is_spare" not in batch)
    # All processes have counted; this adds one small exchange to a step of several.
    interactions = float(processes.summed(real.float()))
    _steps.append({"seconds": -now, "interactions": interactions})
    return batches, num_items


def _timed(trainer: PlannedTrainer) -> None:
    _train(trainer)
    if _steps and processes.is_writer() and "IDBERT_STEP_TIMES" in os.environ:
        text = json.dumps(_steps[:-1])  # after the last step come evaluation and checkpoint
        Path(os.environ["IDBERT_STEP_TIMES"]).write_text(text, encoding="utf-8")


PlannedTrainer.get_batch_samples = _counted  # type: ignore[method-assign]
PlannedTrainer.train_or_resume = _timed  # type: ignore[method-assign]
