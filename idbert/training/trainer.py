"""Model, data and settings put together: `build_trainer` is where training begins."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from idbert import processes
from idbert.errors import ConfigError
from idbert.inputs.batch_plan import BatchPlan, BatchSettings
from idbert.inputs.item_batches import ItemData, MaskedItemData, NextItemData
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.mixed_batches import MixedItemData, MixedSettings
from idbert.inputs.planned_loader import PlannedData, PlannedLoader, train_loader
from idbert.inputs.recency import TargetSettings
from idbert.inputs.sequences import Sequences
from idbert.nn.item_models import ItemModel
from idbert.training.arguments import TrainingSettings
from idbert.training.item_trainer import ItemTrainer
from idbert.training.memory import check_memory
from idbert.training.planned_trainer import PlannedTrainer
from idbert.training.strategy_trainer import Evaluate
from idbert.training.validation import Validation

logger = logging.getLogger(__name__)


def build_trainer(
    model: ItemModel,
    sequences: Sequences,
    masking: MaskingSettings | None,
    batches: BatchSettings,
    settings: TrainingSettings,
    *,
    output_dir: str | Path,
    validation: Validation | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    targets: TargetSettings | None = None,
    mixed: MixedSettings | None = None,
) -> ItemTrainer:
    """Put model, data and settings together; `train_or_resume` of the result trains.

    Torch's seed is set to `settings.seed` here; the model's weights have been drawn before.

    Args:
        model: A masked-item or a next-item model; moved to the device.
        sequences: Of the training part.
        masking: How items are hidden; None for a next-item model.
        batches: How sequences are put together.
        settings: Optimizer, schedule, evaluations, checkpoints.
        output_dir: The folder of the checkpoints.
        validation: Histories and their next items; None: no evaluation, the last weights are kept.
        callbacks: Your own, of transformers' kind.
        targets: Which positions have a loss; None for a masked-item model, and for all of them.
        mixed: How many batches are of next items, for a mixed model alone.

    Raises:
        ConfigError: masking does not fit the model, a setting cannot act, or there is not enough
            memory.
    """
    _check_validation(settings, validation is not None)
    check_memory(model, sequences, masking, batches, settings, validation)
    data = training_data(model, sequences, masking, batches, settings.seed, targets, mixed)
    return ItemTrainer(
        model,
        _planned_loader(data, batches, settings),
        batches,
        settings,
        output_dir=Path(output_dir),
        validation=validation,
        callbacks=callbacks,
    )


def build_planned_trainer(
    model: PreTrainedModel,
    data: PlannedData,
    batches: BatchSettings,
    settings: TrainingSettings,
    *,
    output_dir: str | Path,
    evaluate: Evaluate | None = None,
    metrics: Collection[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
    encoder: nn.Module | None = None,
) -> PlannedTrainer:
    """Put any model, data and settings together; `train_or_resume` of the result trains.

    Torch's seed is set to `settings.seed` here; the model's weights have been drawn before.

    Args:
        model: Its `forward` takes a batch of `data` and `num_items_in_batch`, and returns a sum of
            losses divided by that number: the targets of the whole step, where those of integer
            `labels` are counted one by one (-100 is none), and of float ones by rows. Where a
            batch has further labels, the class says in `counted_labels` which argument receives
            their number: {"next_sentence_labels": "num_pairs_in_batch"}. Moved to the device.
        data: Of the training part.
        batches: How sequences are put together.
        settings: Optimizer, schedule, strategies, evaluations, checkpoints.
        output_dir: The folder of the checkpoints.
        evaluate: Returns metrics of the model as it is, which is in evaluation mode then; None: no
            evaluation, the last weights are kept.
        metrics: Names of what `evaluate` returns, the usual one first, to check `settings.metric`
            before training; empty: it is checked at the first evaluation.
        callbacks: Your own, of transformers' kind.
        encoder: What depth is counted in and what is not head; None: `model.backbone.encoder`.

    Raises:
        ConfigError: a setting cannot act, or the model does not take `num_items_in_batch`.
    """
    _check_validation(settings, evaluate is not None)
    return PlannedTrainer(
        model,
        _planned_loader(data, batches, settings),
        settings,
        output_dir=Path(output_dir),
        evaluate=evaluate,
        metrics=metrics,
        callbacks=callbacks,
        encoder=encoder,
    )


def training_data(
    model: ItemModel,
    sequences: Sequences,
    masking: MaskingSettings | None,
    batches: BatchSettings,
    seed: int,
    targets: TargetSettings | None = None,
    mixed: MixedSettings | None = None,
) -> ItemData | MixedItemData:
    """Return the data set of the model's objective.

    Of sequences longer than the model can hold the newest part is kept.

    Raises:
        ConfigError: masking is given to a next-item model, or lacks for a masked-item model; or
            targets are given to a masked-item model, or settings of a mixture to another one; or
            the model reads times that the log does not have.
    """
    if model.trained_for == "mixed":
        if masking is None or mixed is None:
            raise ConfigError("A mixed model needs settings of masking and of the mixture.")
        of_masked, following = (
            sequences
            if model.max_length is None
            else _newest(sequences, model.max_length + one_more)
            for one_more in (0, 1)
        )
        return MixedItemData(
            MaskedItemData(of_masked, masking, vocab_size=model.config.vocab_size, seed=seed),
            NextItemData(following, targets or TargetSettings(), seed=seed),
            mixed.share,
            seed=seed,
        )
    if mixed is not None:
        raise ConfigError(f"A mixture cannot act on a {type(model).__name__}. Leave it out.")
    if model.max_length is not None:
        # A next-item model reads all events but the last, which is only a target.
        sequences = _newest(sequences, model.max_length + (model.objective == "next"))
    if model.objective == "masked":
        if masking is None:
            raise ConfigError("A masked-item model needs masking settings.")
        if targets is not None:
            raise ConfigError("Settings of targets cannot act on a masked-item model: see masking.")
        return MaskedItemData(
            sequences,
            masking,
            vocab_size=model.config.vocab_size,
            seed=seed,
            times=model.config.reads_times,
        )
    if masking is not None:
        raise ConfigError("Masking cannot act on a next-item model. Leave it out.")
    return NextItemData(sequences, targets or TargetSettings(), model.config.reads_times, seed=seed)


def _newest(sequences: Sequences, max_length: int) -> Sequences:
    if sequences.lengths.max(initial=0) <= max_length:
        return sequences
    cut = sequences.newest(max_length)
    logger.info(
        "%d events left out: they are older than the newest %d, and the model holds no more",
        cut.num_dropped_events - sequences.num_dropped_events,
        max_length,
    )
    return cut


def _check_validation(settings: TrainingSettings, with_validation: bool) -> None:
    if settings.patience is not None and not with_validation:
        raise ConfigError(
            f"patience={settings.patience} cannot act without a validation part. Give one, or "
            "leave patience out."
        )


def _planned_loader(
    data: PlannedData, batches: BatchSettings, settings: TrainingSettings
) -> PlannedLoader:
    plan = BatchPlan(
        data.input_lengths,
        batches,
        seed=settings.seed,
        rank=processes.process_rank(),
        world_size=processes.num_processes(),
    )
    return train_loader(data, plan, settings.num_workers)
