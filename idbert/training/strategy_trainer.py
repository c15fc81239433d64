"""The trainer that knows the strategies of fine-tuning, whatever a batch and a loss are."""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn
from transformers import TrainerCallback

from idbert import processes
from idbert.errors import ConfigError
from idbert.nn.modes import evaluation_mode
from idbert.training.arguments import TrainingSettings
from idbert.training.averaging import build_average
from idbert.training.freezing import find_encoder, freeze
from idbert.training.metric import check_metric, choose_metric
from idbert.training.parameters import parameter_groups
from idbert.training.precision import autocast, resolve_precision
from idbert.training.resumable_trainer import ResumableTrainer
from idbert.training.row_adamw import (
    RowAdamW,
    clip_gradients,
    sparse_parameters,
    with_sparse_rows,
)
from idbert.training.sparse_exchange import exchange, take_from_ddp

Evaluate: TypeAlias = Callable[[], dict[str, float]]
"""How good the model is now: metrics by name."""


class StrategyTrainer(ResumableTrainer):
    """Resumable trainer with rates by depth, thawing, averaged weights, and any evaluation.

    Args:
        model: Saved in each checkpoint.
        loader: Of the training part, as for `ResumableTrainer`.
        settings: Of the training.
        trained: What holds all trained weights: the model, or a loss around it.
        encoder: The part of the model with layers; None: it is looked for where it is needed.
        hidden_size: Width of the encoder, which decides what precision pays.
        output_dir: The folder of the checkpoints.
        evaluate: Returns the metrics of the model as it is; None: no evaluation.
        metrics: Names of what `evaluate` returns, the usual one first.
        callbacks: Beside those for logs, checkpoints and early stopping.
        options: What another trainer takes beside transformers' own.

    Attributes:
        evaluates_together: Whether the processes of torchrun share the evaluation out, and all get
            the metrics; else the first evaluates and tells the others.
        finished: Whether `train_or_resume` has come to the end, not to a SIGTERM.
        precision: float32, medium or bfloat16, of the passes in training.
    """

    evaluates_together: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        loader: Any,
        settings: TrainingSettings,
        *,
        trained: nn.Module,
        encoder: nn.Module | None,
        hidden_size: int,
        output_dir: Path,
        evaluate: Evaluate | None,
        metrics: Collection[str],
        callbacks: Sequence[TrainerCallback],
        **options: Any,
    ) -> None:
        self._evaluate_model = evaluate
        self._metric = choose_metric(settings, metrics) if evaluate is not None else None
        self._trained, self._encoder = trained, find_encoder(model, encoder, settings)
        self._has_sparse_rows = with_sparse_rows(model, settings)
        steps_per_epoch = settings.steps_per_epoch(len(loader))
        total_steps = settings.total_steps(steps_per_epoch)
        was_trained = [parameter for parameter in trained.parameters() if parameter.requires_grad]
        self._thawing, unfreezing = freeze(
            trained, self._encoder, settings, steps_per_epoch, total_steps
        )
        self._frozen = [parameter for parameter in was_trained if not parameter.requires_grad]
        super().__init__(
            model,
            loader,
            settings,
            output_dir=output_dir,
            metric=self._metric,
            average=build_average(settings.averaging, trained, total_steps),
            callbacks=[*([] if unfreezing is None else [unfreezing]), *callbacks],
            **options,
        )
        self.precision = resolve_precision(settings.precision, hidden_size, self.args.device.type)
        self._row_parameters = sparse_parameters(model) if self._has_sparse_rows else []
        if processes.num_processes() > 1:
            take_from_ddp(model, self._row_parameters)

    def train_or_resume(self) -> None:
        """Train as `ResumableTrainer` does; what was frozen for it can then be trained again."""
        try:
            super().train_or_resume()
        finally:
            for parameter in self._frozen:
                parameter.requires_grad_(True)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW with decay on matrices only, and rates by depth where the settings say so."""
        if self.optimizer is None:
            groups = parameter_groups(
                self._trained,
                self._settings.weight_decay,
                learning_rate=self._settings.learning_rate,
                encoder=self._encoder,
                layer_decay=self._settings.layer_decay,
                head_learning_rate=self._settings.head_learning_rate,
                frozen=self._thawing,
            )
            rate = self._settings.learning_rate
            self.optimizer = (
                RowAdamW(groups, lr=rate)
                if self._has_sparse_rows
                else torch.optim.AdamW(groups, lr=rate, fused=True)
            )
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self._has_sparse_rows:
            return self._clip_with_sparse_rows(model, self.args.max_grad_norm)
        return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None and self._has_sparse_rows:
            return self._clip_with_sparse_rows(model, math.inf)
        return super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]

    def _clip_with_sparse_rows(self, model: nn.Module, max_norm: float) -> torch.Tensor:
        """Clip the gradients of all processes together; those of the rows have yet to meet."""
        if processes.num_processes() > 1:
            exchange(self._row_parameters)
        return clip_gradients(model.parameters(), max_norm)

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager[Any]:
        """Return the block of a forward pass in training.

        Left to accelerate, evaluations would be in bfloat16 too, and differ from those of the saved
        model.
        """
        return autocast(self.precision, self.args.device.type)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate the model, in evaluation mode and without gradients, and log the metrics.

        While training, it is evaluated with the averages of its weights, if there are any.

        Raises:
            ConfigError: there is no validation part, or the metric to watch is not reported.
        """
        if self._evaluate_model is None:
            raise ConfigError("This trainer was built without a validation part to evaluate on.")
        evaluate = self._evaluate_model
        if self.evaluates_together:
            values = self._evaluated(evaluate)
        else:
            values = processes.by_writer(lambda: self._evaluated(evaluate))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return dict(metrics)

    def _evaluated(self, evaluate: Evaluate) -> dict[str, float]:
        with evaluation_mode(self._trained), self._averaged(), torch.no_grad():
            values = {name: float(value) for name, value in evaluate().items()}
        if self._metric is None:
            return values
        check_metric(self._metric, values)
        return {self._metric: values[self._metric]} | values  # what decides comes first
