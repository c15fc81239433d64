"""One progress bar for the whole training; without a terminal, plain lines in the log."""

import logging
import os
import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

_COLUMNS, _ROWS = 80, 24
"""Of a terminal that does not know its size."""


class Progress(TrainerCallback):
    """Show steps, loss, metric and the time left on stderr.

    Args:
        metric: Which of the validation metrics to show; None: there are none.
    """

    def __init__(self, metric: str | None) -> None:
        self._metric = metric
        self._bar: tqdm[Any] | None = None
        self._newest: dict[str, str] = {}
        self._first_step = 0
        self._started_s = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar where a resumed run stands."""
        self._first_step, self._started_s = state.global_step, time.monotonic()
        if state.is_world_process_zero and sys.stderr.isatty():
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                unit="step",
                file=sys.stderr,
                dynamic_ncols=_knows_its_size(),
                ncols=_COLUMNS,
                nrows=_ROWS,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Move the bar on."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Show a new loss or metric."""
        logs: dict[str, float] = given["logs"]
        wanted = {"loss": "loss"}
        if self._metric is not None:
            is_loss = self._metric == "loss"
            wanted[f"eval_{self._metric}"] = "validation_loss" if is_loss else self._metric
        values = {shown: f"{logs[name]:.4f}" for name, shown in wanted.items() if name in logs}
        if not values or not state.is_world_process_zero:
            return
        if self._bar is not None:
            self._newest |= values
            self._bar.set_postfix(self._newest)
            return
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        done = state.global_step - self._first_step
        if not done:  # an evaluation before the first step
            logger.info("step %d: %s", state.global_step, shown)
            return
        seconds = (time.monotonic() - self._started_s) / done
        logger.info(
            "step %d of %d, epoch %.4g: %s, %s left",
            state.global_step,
            state.max_steps,
            state.epoch,
            shown,
            tqdm.format_interval(seconds * (state.max_steps - state.global_step)),
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _knows_its_size() -> bool:
    """Say whether the terminal has a size; those of `script` and of some containers have none."""
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except OSError:
        return False
