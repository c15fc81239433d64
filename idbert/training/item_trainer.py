"""The trainer of item models: it ranks the whole catalogue to evaluate."""

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from idbert.evaluation.metrics import CUTOFFS
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.planned_loader import PlannedLoader
from idbert.nn.item_models import ItemModel
from idbert.training.arguments import TrainingSettings
from idbert.training.planned_trainer import PlannedTrainer
from idbert.training.validation import Validation, validation_metrics

METRICS = tuple(f"{name}@{k}" for name in ("ndcg", "recall", "mrr") for k in CUTOFFS)


class ItemTrainer(PlannedTrainer):
    """Trainer of item models, which ranks the whole catalogue to evaluate.

    Built by `build_trainer`.
    """

    evaluates_together = True

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
        def evaluate() -> dict[str, float]:
            assert validation is not None
            return validation_metrics(model, validation, batches)

        super().__init__(
            model,
            loader,
            settings,
            output_dir=output_dir,
            evaluate=None if validation is None else evaluate,
            metrics=METRICS,
            callbacks=callbacks,
            encoder=None,
        )
