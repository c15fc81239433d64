"""What happens at the steps of a training, beside the steps themselves."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from idbert.errors import TrainingError
from idbert.training.metric import evaluations_since_best


class ExtraCheckpoints(TrainerCallback):
    """Ask for a checkpoint every so many steps, and for a report of the loss with any checkpoint.

    The loss since the last report is not in a checkpoint. Reported with it, nothing is lost, and a
    resumed run writes the same curve.

    Args:
        every_steps: Steps between checkpoints; None: only those that are due anyway.
    """

    def __init__(self, every_steps: int | None) -> None:
        self._every_steps = every_steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Set the flags of `control`."""
        if self._every_steps is not None and state.global_step % self._every_steps == 0:
            control.should_save = True
        if control.should_save:
            control.should_log = True


class StopWhereDiverged(TrainerCallback):
    """End a training whose loss is no number, before its weights are saved.

    Raises:
        TrainingError: the loss since the last report is infinite or NaN.
    """

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Look at the loss that is reported."""
        loss: float = given["logs"].get("loss", 0.0)
        if not isfinite(loss):
            raise TrainingError(
                f"The training has diverged: up to step {state.global_step} its loss became "
                f"{loss}. Begin a new run with a lower training.learning_rate, a longer "
                "training.warmup, a smaller training.clip_norm, or training.precision=float32."
            )


class EarlyStopping(TrainerCallback):
    """Ask for the end of training once the metric has had no new best for `patience` evaluations.

    The evaluations are counted in the log, which a checkpoint holds; there is no other state.

    Args:
        metric: Its name.
        patience: Evaluations.
    """

    def __init__(self, metric: str, patience: int) -> None:
        self._metric, self._patience = metric, patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Set the flag of `control`."""
        if self.is_exhausted(state.log_history):
            control.should_training_stop = True

    def is_exhausted(self, log: Sequence[Mapping[str, float]]) -> bool:
        """Say whether the last `patience` evaluations of a log brought no new best."""
        name = f"eval_{self._metric}"
        values = [row[name] for row in log if name in row]
        return bool(values) and evaluations_since_best(values, self._metric) >= self._patience
