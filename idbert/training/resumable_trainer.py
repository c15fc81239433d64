"""Transformers' Trainer with whole checkpoints: a run that was stopped anywhere goes on."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from idbert import processes
from idbert.nn.progress_bars import without_progress_bars
from idbert.training.arguments import TrainingSettings
from idbert.training.averaging import WeightAverage
from idbert.training.callbacks import EarlyStopping, ExtraCheckpoints, StopWhereDiverged
from idbert.training.checkpoints import (
    aside_path,
    check_origin,
    checkpoint_path,
    newest_checkpoint,
    remove_leftovers,
    remove_old,
    writing_checkpoint,
)
from idbert.training.curve import STATE, curve_of
from idbert.training.heap import release_freed_memory
from idbert.training.interruption import StopOnSigterm
from idbert.training.launch import check_launch, facts_of
from idbert.training.progress import Progress
from idbert.training.translation import to_training_arguments

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """Trainer that writes whole checkpoints, stops at a SIGTERM and goes on where it stood.

    Beside another library's trainer, as a second base behind this one, it makes that one resumable.

    Args:
        model: Saved in each checkpoint.
        loader: Of the training part; it has `dataset`, and as its length the batches of an epoch.
        settings: Of the training.
        output_dir: The folder of the checkpoints.
        metric: What decides which weights are best; None: there is no evaluation.
        average: Saved in the place of the weights; None: there is none.
        callbacks: Beside those for logs, checkpoints and early stopping.
        options: What another trainer takes beside transformers' own.

    Attributes:
        finished: Whether `train_or_resume` has come to the end, not to a SIGTERM.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Any,
        settings: TrainingSettings,
        *,
        output_dir: Path,
        metric: str | None,
        average: WeightAverage | None,
        callbacks: Sequence[TrainerCallback],
        **options: Any,
    ) -> None:
        check_launch(settings)
        processes.join()
        self.finished = False
        self._model, self._loader, self._settings = model, loader, settings
        self._average = average
        self._steps_per_epoch = settings.steps_per_epoch(len(loader))
        self._sigterm = StopOnSigterm()
        self._early_stopping = None
        own: list[TrainerCallback] = [
            self._sigterm,
            ExtraCheckpoints(settings.checkpoint_every_steps),
            Progress(metric),
            StopWhereDiverged(),
        ]
        if settings.patience is not None and metric is not None:
            self._early_stopping = EarlyStopping(metric, settings.patience)
            own.append(self._early_stopping)
        if average is not None:
            own.append(average)
        super().__init__(
            model=model,
            args=self._arguments(output_dir, metric),
            train_dataset=loader.dataset,
            eval_dataset=metric,  # Trainer only asks whether there is any
            callbacks=[*own, *callbacks],
            **options,
        )
        self.remove_callback(PrinterCallback)  # `Progress` stands in for it
        if processes.num_processes() > 1:  # else all would drop out the same units
            torch.manual_seed(processes.seed_of_process(settings.seed))

    @property
    def resumes(self) -> bool:
        """Whether there is a complete checkpoint to go on from."""
        return newest_checkpoint(self._folder) is not None

    def train_or_resume(self) -> None:
        """Train to the end, from the newest complete checkpoint if there is one.

        A resumed run on the same machine ends with the weights of an uninterrupted one, bit for
        bit. After a SIGTERM a checkpoint is written and `finished` stays False.

        Raises:
            CheckpointError: a checkpoint cannot be written, or was written by another training.
            DataError: the processes of torchrun have other data or settings.
            TrainingError: the loss is no longer a number.
        """
        if processes.is_writer():
            remove_leftovers(self._folder)
        newest = newest_checkpoint(self._folder)
        processes.check_agreement(
            facts_of(self._model, self._loader, self._settings)
            | {"the newest checkpoint": "none" if newest is None else newest.name}
        )
        if newest is not None:
            check_origin(newest, self._origin)
            state = TrainerState.load_from_json(str(newest / STATE))
            if self._is_at_the_end(state):
                self._take_up_finished(newest, state)
                return
            logger.info("resuming from %s", newest)
        release_freed_memory()
        with self._sigterm.listening():
            self.train(resume_from_checkpoint=None if newest is None else str(newest))
        release_freed_memory()
        self.finished = not self._sigterm.received
        if self.finished and not self._ends_with_the_best:
            self._take_over_average()

    def curve(self) -> list[dict[str, float]]:
        """Return loss and metrics over time; see `curve_of`."""
        return curve_of(self.state.log_history)

    def _arguments(self, output_dir: Path, metric: str | None) -> TrainingArguments:
        """Return the settings in the words of the trainer."""
        backbone = getattr(self._model, "backbone", None)
        return to_training_arguments(
            self._settings,
            output_dir,
            steps_per_epoch=self._steps_per_epoch,
            metric=metric,
            finds_unused=getattr(backbone, "leaves_layers_unread", False),
        )

    # What follows overrides Trainer, whose names and arguments are kept.

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count no operations: nobody reads them, and theirs looks at every parameter each step."""
        return 0

    def get_train_dataloader(self) -> Any:
        """Return our loader as it is: accelerate would share its batches out a second time."""
        return self._loader

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write `checkpoint-N` aside, complete it, rename it; then delete old ones."""
        self.store_flos()
        best_step = self.state.best_global_step
        self.state.best_model_checkpoint = self._best_checkpoint()
        with self._writing_checkpoint() as folder:
            with self._averaged():
                self.save_model(folder, _internal_call=True)
            if self._average is not None and self.args.should_save:
                self._average.save_training_weights(Path(folder))
            self._save_optimizer_and_scheduler(folder)
            self._save_scaler(folder)
            self._save_rng_state(folder)
            if self.args.should_save:
                self.state.stateful_callbacks = self._callback_states()
                self.state.save_to_json(os.path.join(folder, STATE))
        if self.args.should_save:
            remove_old(self._folder, keep=self._settings.keep_checkpoints, best_step=best_step)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the model, and not the arguments, which only a pickle could hold."""
        with without_progress_bars():
            model: Any = self._model
            model.save_pretrained(output_dir or self._folder, is_main_process=self.args.should_save)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._average is not None:
            self._average.load_training_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self.state.best_model_checkpoint = self._best_checkpoint()
        super()._load_best_model()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Go on with the numbers of this process; after a change of their count, with new ones."""
        super()._load_rng_state(checkpoint)
        name = "rng_state.pth"
        if self.args.world_size > 1:
            name = f"rng_state_{self.args.process_index}.pth"
        if checkpoint is not None and not (Path(checkpoint) / name).is_file():
            logger.warning(
                "%s was written by another number of processes: dropout goes on with other numbers",
                checkpoint,
            )
            step = self.state.global_step
            torch.manual_seed(processes.seed_of_process(self._settings.seed, step))

    # Our own helpers.

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    @cached_property
    def _data_fingerprint(self) -> str | None:
        """What tells data of the same size apart; None where the loader cannot."""
        fingerprint = getattr(self._loader, "fingerprint", None)
        return None if fingerprint is None else str(fingerprint())

    @property
    def _origin(self) -> dict[str, Any]:
        """What must be the same when a run is resumed.

        Batches and steps follow from it, or the optimizer's state brings the old value back.
        """
        return {
            "batches_per_epoch": len(self._loader),
            "accumulation": self._settings.accumulation,
            "seed": self._settings.seed,
            "learning_rate": self._settings.learning_rate,
            "weight_decay": self._settings.weight_decay,
            "head_learning_rate": self._settings.head_learning_rate,
            "layer_decay": self._settings.layer_decay,
            "frozen_layers": self._settings.frozen_layers,
            "unfreeze_every": self._settings.unfreeze_every,
            "sparse_rows": self._settings.sparse_rows,
            "averaging": "none" if self._average is None else self._average.description,
            "data": self._data_fingerprint,
        }

    @property
    def _ends_with_the_best(self) -> bool:
        return self.args.load_best_model_at_end and self.state.best_global_step is not None

    def _averaged(self) -> AbstractContextManager[None]:
        """Return the block in which the model has its average, while it is being trained."""
        if self._average is None or not self.is_in_train:
            return nullcontext()
        return self._average.in_place()

    def _take_over_average(self) -> None:
        if self._average is not None:
            self._average.take_over()

    @contextmanager
    def _writing_checkpoint(self) -> Iterator[str]:
        """Let the first process make, complete and rename the folder; the others write into it."""
        step = self.state.global_step
        if self.args.should_save:
            with writing_checkpoint(
                self._folder, step, origin=self._origin, needed_bytes=self._checkpoint_bytes()
            ) as aside:
                processes.wait()
                yield str(aside)
                processes.wait()
        else:
            processes.wait()
            yield str(aside_path(self._folder, step))
            processes.wait()
        processes.wait()

    def _checkpoint_bytes(self) -> int:
        """Estimate a checkpoint's size: weights, two moments of each, and perhaps an average."""
        copies = 3 if self._average is None else 4
        return copies * sum(p.numel() * p.element_size() for p in self._model.parameters())

    def _best_checkpoint(self) -> str | None:
        """Return where the best checkpoint lies in this folder, wherever it was written."""
        best_step = self.state.best_global_step
        return str(checkpoint_path(self._folder, best_step)) if best_step else None

    def _callback_states(self) -> Any:
        """Return the states that callbacks want to be saved, by class."""
        callbacks = [*self.callback_handler.callbacks, self.control]
        stateful: Any = [c for c in callbacks if isinstance(c, ExportableState)]
        return TrainerState(stateful_callbacks=stateful).stateful_callbacks

    def _is_at_the_end(self, state: TrainerState) -> bool:
        if self._early_stopping and self._early_stopping.is_exhausted(state.log_history):
            return True
        return bool(state.global_step >= self._settings.total_steps(self._steps_per_epoch))

    def _take_up_finished(self, checkpoint: Path, state: TrainerState) -> None:
        """Load what a finished training ended with; Trainer would go a step further."""
        logger.info("%s is the end of this training; nothing is left to do", checkpoint)
        self.state = state
        self._load_from_checkpoint(str(checkpoint))
        if self._ends_with_the_best:
            self._load_best_model()
        else:
            self._take_over_average()
        self.finished = True
