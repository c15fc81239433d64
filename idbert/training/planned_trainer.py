"""The trainer of every model: planned batches, any evaluation, all strategies of training."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from idbert.errors import ConfigError
from idbert.inputs.planned_loader import Batch, PlannedLoader
from idbert.training.adversarial import build_attack
from idbert.training.arguments import TrainingSettings
from idbert.training.averaging import build_average
from idbert.training.freezing import find_encoder, freeze
from idbert.training.metric import check_metric, choose_metric
from idbert.training.parameters import parameter_groups
from idbert.training.precision import autocast, resolve_precision
from idbert.training.resumable_trainer import ResumableTrainer
from idbert.training.targets import as_countable, check_divides_by_targets

Evaluate: TypeAlias = Callable[[], dict[str, float]]
"""How good the model is now: metrics by name."""


class PlannedTrainer(ResumableTrainer):
    """Trainer that takes planned batches and knows the strategies of fine-tuning.

    Built by `build_planned_trainer`.

    Attributes:
        finished: Whether `train_or_resume` has come to the end, not to a SIGTERM.
        precision: float32 or bfloat16, of the passes in training.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        loader: PlannedLoader,
        settings: TrainingSettings,
        *,
        output_dir: Path,
        evaluate: Evaluate | None,
        metrics: Collection[str],
        callbacks: Sequence[TrainerCallback],
        encoder: nn.Module | None,
    ) -> None:
        check_divides_by_targets(model)
        self._evaluate_model = evaluate
        self._metric = choose_metric(settings, metrics) if evaluate is not None else None
        self._encoder = find_encoder(model, encoder, settings)
        self._attack = build_attack(settings.adversarial, model)
        steps_per_epoch = settings.steps_per_epoch(len(loader))
        total_steps = settings.total_steps(steps_per_epoch)
        self._thawing, unfreezing = freeze(
            model, self._encoder, settings, steps_per_epoch, total_steps
        )
        super().__init__(
            model,
            loader,
            settings,
            output_dir=output_dir,
            metric=self._metric,
            average=build_average(settings.averaging, model, total_steps),
            callbacks=[*([] if unfreezing is None else [unfreezing]), *callbacks],
        )
        self.model_accepts_loss_kwargs = True  # `check_divides_by_targets` has seen to it
        self.precision = resolve_precision(
            settings.precision, model.config.hidden_size, self.args.device.type
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW with decay on matrices only, and rates by depth where the settings say so."""
        if self.optimizer is None:
            groups = parameter_groups(
                self._model,
                self._settings.weight_decay,
                learning_rate=self._settings.learning_rate,
                encoder=self._encoder,
                layer_decay=self._settings.layer_decay,
                head_learning_rate=self._settings.head_learning_rate,
                frozen=self._thawing,
            )
            self.optimizer = torch.optim.AdamW(groups, lr=self._settings.learning_rate, fused=True)
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """Take the batches of a step, and count what each of their losses is divided by."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for labels, argument in getattr(self._model, "counted_labels", {}).items():
            counts = [{"labels": batch[labels]} for batch in batches]
            total = self._get_num_items_in_batch(counts, device)
            batches = [{**batch, argument: total} for batch in batches]
        return batches, num_items

    def _get_num_items_in_batch(
        self, batch_samples: list[Batch], device: torch.device
    ) -> Tensor | int | None:
        countable = [{"labels": as_countable(batch)} for batch in batch_samples]
        total = super()._get_num_items_in_batch(countable, device)
        return total.clamp(min=1) if isinstance(total, Tensor) else total

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Add a batch's gradients to those of its step, those of adversarial passes with them."""
        if self._attack is None:
            step_loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return step_loss
        model.train()
        batch = self._prepare_inputs(inputs)

        def loss() -> Tensor:
            with self.compute_loss_context_manager():
                value = self.compute_loss(model, batch, num_items_in_batch=num_items_in_batch)
            assert isinstance(value, Tensor)  # no outputs were asked for
            return value

        return self._attack.backward(
            loss, self.accelerator.backward, lambda: self.accelerator.no_sync(model)
        )

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
        metrics: list[Any] = [None]
        if self.is_world_process_zero():
            values = self._evaluated(self._evaluate_model)
            metrics = [{f"{metric_key_prefix}_{name}": value for name, value in values.items()}]
        broadcast_object_list(metrics)
        self.log(metrics[0])
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics[0]
        )
        return dict(metrics[0])

    def _evaluated(self, evaluate: Evaluate) -> dict[str, float]:
        was_training = self._model.training
        self._model.train(False)
        try:
            with self._averaged(), torch.no_grad():
                values = {name: float(value) for name, value in evaluate().items()}
        finally:
            self._model.train(was_training)
        if self._metric is not None:
            check_metric(self._metric, values)
        return values
