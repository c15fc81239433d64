"""Transformers' Trainer with our batches, our evaluation and whole checkpoints."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.planned_loader import PlannedLoader
from idbert.nn.item_models import ItemModel
from idbert.nn.progress_bars import without_progress_bars
from idbert.training.arguments import TrainingSettings, to_training_arguments
from idbert.training.callbacks import EarlyStopping, ExtraCheckpoints
from idbert.training.checkpoints import (
    aside_path,
    check_origin,
    checkpoint_path,
    newest_checkpoint,
    remove_leftovers,
    remove_old,
    writing_checkpoint,
)
from idbert.training.interruption import StopOnSigterm
from idbert.training.parameters import parameter_groups
from idbert.training.progress import Progress
from idbert.training.validation import Validation, validation_metrics

logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"


class ItemTrainer(Trainer):
    """Trainer that takes planned batches, ranks the whole catalogue and writes whole checkpoints.

    Built by `build_trainer`.

    Attributes:
        finished: Whether `train_or_resume` has come to the end, not to a SIGTERM.
    """

    def __init__(
        self,
        model: ItemModel,
        loader: PlannedLoader,
        batches: BatchSettings,
        settings: TrainingSettings,
        *,
        output_dir: Path,
        validation: Validation | None,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self.finished = False
        self._loader, self._batches, self._settings = loader, batches, settings
        self._item_model, self._validation = model, validation
        self._steps_per_epoch = settings.steps_per_epoch(len(loader))
        self._sigterm = StopOnSigterm()
        self._early_stopping = None
        own: list[TrainerCallback] = [
            self._sigterm,
            ExtraCheckpoints(settings.checkpoint_every_steps),
            Progress(settings.metric),
        ]
        if settings.patience is not None:
            self._early_stopping = EarlyStopping(f"eval_{settings.metric}", settings.patience)
            own.append(self._early_stopping)
        super().__init__(
            model=model,
            args=to_training_arguments(
                settings,
                output_dir,
                steps_per_epoch=self._steps_per_epoch,
                with_validation=validation is not None,
            ),
            train_dataset=loader.dataset,
            eval_dataset=validation,
            callbacks=[*own, *callbacks],
        )
        self.remove_callback(PrinterCallback)  # `Progress` stands in for it

    def train_or_resume(self) -> None:
        """Train to the end, from the newest complete checkpoint if there is one.

        A resumed run on the same machine ends with the weights of an uninterrupted one, bit for
        bit. After a SIGTERM a checkpoint is written and `finished` stays False.

        Raises:
            CheckpointError: a checkpoint cannot be written, or was written by another training.
        """
        if self.args.should_save:
            remove_leftovers(self._folder)
        newest = newest_checkpoint(self._folder)
        if newest is not None:
            check_origin(newest, self._origin)
            state = TrainerState.load_from_json(str(newest / _STATE))
            if self._is_at_the_end(state):
                self._take_up_finished(newest, state)
                return
            logger.info("resuming from %s", newest)
        with self._sigterm.listening():
            self.train(resume_from_checkpoint=None if newest is None else str(newest))
        self.finished = not self._sigterm.received

    def curve(self) -> list[dict[str, float]]:
        """Return loss and metrics over time, one row a step at which anything was reported.

        Rows hold "epoch" and "step", "loss" and "learning_rate" where the loss was reported (its
        mean since the row before), and "ndcg@10", ... where the model was evaluated.
        """
        rows: dict[int, dict[str, float]] = {}
        for entry in self.state.log_history:
            values = {
                name.removeprefix("eval_"): value
                for name, value in entry.items()
                if name in ("loss", "learning_rate") or name.startswith("eval_")
            }
            if values:
                row = rows.setdefault(int(entry["step"]), {})
                # What came first stays: `evaluate` may be called again with the best weights.
                row.update({"epoch": entry["epoch"], "step": entry["step"]} | values | row)
        return [rows[step] for step in sorted(rows)]

    # What follows overrides Trainer, whose names and arguments are kept.

    def get_train_dataloader(self) -> PlannedLoader:
        """Return our loader as it is: accelerate would share its batches out a second time."""
        return self._loader

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW with decay on matrices only."""
        if self.optimizer is None:
            groups = parameter_groups(self._item_model, self._settings.weight_decay)
            self.optimizer = torch.optim.AdamW(groups, lr=self._settings.learning_rate, fused=True)
        return self.optimizer

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Rank the whole catalogue for the users of the validation part, and log the metrics.

        Raises:
            ConfigError: there is no validation part.
        """
        if self._validation is None:
            raise ConfigError("This trainer was built without a validation part to evaluate on.")
        metrics: list[Any] = [None]
        if self.is_world_process_zero():
            values = validation_metrics(self._item_model, self._validation, self._batches)
            metrics = [{f"{metric_key_prefix}_{name}": value for name, value in values.items()}]
        broadcast_object_list(metrics)
        self.log(metrics[0])
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics[0]
        )
        return dict(metrics[0])

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write `checkpoint-N` aside, complete it, rename it; then delete old ones."""
        self.store_flos()
        best_step = self.state.best_global_step
        self.state.best_model_checkpoint = self._best_checkpoint()
        with self._writing_checkpoint() as folder:
            self.save_model(folder, _internal_call=True)
            self._save_optimizer_and_scheduler(folder)
            self._save_scaler(folder)
            self._save_rng_state(folder)
            if self.args.should_save:
                self.state.stateful_callbacks = self._callback_states()
                self.state.save_to_json(os.path.join(folder, _STATE))
        if self.args.should_save:
            remove_old(self._folder, keep=self._settings.keep_checkpoints, best_step=best_step)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the model, and not the arguments, which only a pickle could hold."""
        with without_progress_bars():
            self._item_model.save_pretrained(
                output_dir or self._folder, is_main_process=self.args.should_save
            )

    def _load_best_model(self) -> None:
        self.state.best_model_checkpoint = self._best_checkpoint()
        super()._load_best_model()

    # Our own helpers.

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    @property
    def _origin(self) -> dict[str, float | int]:
        """What must be the same when a run is resumed.

        Batches and steps follow from it, or the optimizer's state brings the old value back.
        """
        return {
            "batches_per_epoch": len(self._loader),
            "accumulation": self._settings.accumulation,
            "world_size": self.args.world_size,
            "seed": self._settings.seed,
            "learning_rate": self._settings.learning_rate,
            "weight_decay": self._settings.weight_decay,
        }

    @contextmanager
    def _writing_checkpoint(self) -> Iterator[str]:
        """Let the first process make, complete and rename the folder; the others write into it."""
        step = self.state.global_step
        if self.args.should_save:
            with writing_checkpoint(
                self._folder, step, origin=self._origin, needed_bytes=self._checkpoint_bytes()
            ) as aside:
                self.accelerator.wait_for_everyone()
                yield str(aside)
                self.accelerator.wait_for_everyone()
        else:
            self.accelerator.wait_for_everyone()
            yield str(aside_path(self._folder, step))
            self.accelerator.wait_for_everyone()
        self.accelerator.wait_for_everyone()

    def _checkpoint_bytes(self) -> int:
        """Estimate a checkpoint's size: the weights, and two moments of each in the optimizer."""
        return 3 * sum(p.numel() * p.element_size() for p in self._item_model.parameters())

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
        if self.args.load_best_model_at_end and state.best_global_step is not None:
            self._load_best_model()
        self.finished = True
