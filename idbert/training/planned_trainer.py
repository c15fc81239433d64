"""The trainer of every model: planned batches, any evaluation, all strategies of training."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from idbert.inputs.planned_loader import SPARE, Batch, PlannedLoader
from idbert.nn.products import fast_products
from idbert.training.adversarial import Attack, build_attack
from idbert.training.arguments import TrainingSettings
from idbert.training.heap import keep_freed_memory
from idbert.training.strategy_trainer import Evaluate, StrategyTrainer
from idbert.training.targets import as_countable, check_divides_by_targets


class PlannedTrainer(StrategyTrainer):
    """Trainer that takes planned batches and knows the strategies of fine-tuning.

    Built by `build_planned_trainer`.

    Attributes:
        finished: Whether `train_or_resume` has come to the end, not to a SIGTERM.
        precision: float32, medium or bfloat16, of the passes in training.
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
        self._attack = build_attack(settings.adversarial, model)
        super().__init__(
            model,
            loader,
            settings,
            trained=model,
            encoder=encoder,
            hidden_size=model.config.hidden_size,
            output_dir=output_dir,
            evaluate=evaluate,
            metrics=metrics,
            callbacks=callbacks,
        )
        keep_freed_memory()
        self.model_accepts_loss_kwargs = True  # `check_divides_by_targets` has seen to it

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """Take the batches of a step, and count what each of their losses is divided by."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for labels, argument in getattr(self._model, "counted_labels", {}).items():
            counts = [
                {"labels": batch[labels]} | {key: batch[key] for key in batch.keys() & {SPARE}}
                for batch in batches
            ]
            total = self._get_num_items_in_batch(counts, device)
            batches = [{**batch, argument: total} for batch in batches]
        return batches, num_items

    def _get_num_items_in_batch(
        self, batch_samples: list[Batch], device: torch.device
    ) -> Tensor | int | None:
        countable = [{"labels": as_countable(batch)} for batch in batch_samples]
        total = super()._get_num_items_in_batch(countable, device)
        return total.clamp(min=1) if isinstance(total, Tensor) else total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute a batch's loss; that of a spare one is 0, and so are its gradients."""
        given = {name: tensor for name, tensor in inputs.items() if name != SPARE}
        loss = super().compute_loss(model, given, return_outputs, num_items_in_batch)
        return loss * 0 if SPARE in inputs else loss

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Add a batch's gradients to those of its step, those of adversarial passes with them."""
        rounded_on = self.args.device.type if self.precision == "medium" else None
        with fast_products(rounded_on=rounded_on):
            if self._attack is not None:
                return self._attacked_step(self._attack, model, inputs, num_items_in_batch)
            step_loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return step_loss

    def _attacked_step(
        self,
        attack: Attack,
        model: nn.Module,
        inputs: Batch,
        num_items_in_batch: Tensor | int | None,
    ) -> Tensor:
        model.train()
        batch = self._prepare_inputs(inputs)

        def loss() -> Tensor:
            with self.compute_loss_context_manager():
                value = self.compute_loss(model, batch, num_items_in_batch=num_items_in_batch)
            assert isinstance(value, Tensor)  # no outputs were asked for
            return value

        return attack.backward(
            loss, self.accelerator.backward, lambda: self.accelerator.no_sync(model)
        )
