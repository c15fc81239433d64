"""Our settings in the words of transformers' Trainer."""

from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainingArguments

from idbert.training.arguments import TrainingSettings
from idbert.training.devices import device_type
from idbert.training.metric import is_smaller_better

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def to_training_arguments(
    settings: TrainingSettings,
    output_dir: str | Path,
    *,
    steps_per_epoch: int,
    metric: str | None,
    finds_unused: bool = False,
    arguments_class: type[Arguments] = TrainingArguments,  # type: ignore[assignment]
    **more: Any,
) -> Arguments:
    """Translate the settings for transformers; nowhere else do its arguments appear.

    Evaluations and checkpoints fall on steps, not on the ends of epochs: Trainer evaluates after
    the last step of an epoch has been saved, so that a run resumed from there would skip it.

    Args:
        settings: ours.
        output_dir: The folder of the checkpoints.
        steps_per_epoch: Optimizer steps of an epoch.
        metric: What is best on the validation part; None: there is none.
        finds_unused: Whether processes look in each step for weights that got no gradient.
        arguments_class: That of another library's trainer.
        more: Arguments that only this class has, or that no setting of ours stands for.
    """
    every = settings.steps_between_evaluations(steps_per_epoch)
    with_validation = metric is not None
    arguments = arguments_class(
        output_dir=str(output_dir),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type=settings.schedule,
        lr_scheduler_kwargs=settings.schedule_arguments,
        warmup_steps=settings.warmup,
        gradient_accumulation_steps=settings.accumulation,
        max_grad_norm=settings.clip_norm or 0.0,
        eval_strategy="steps" if with_validation else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        logging_strategy="steps",
        logging_steps=settings.log_every_steps or steps_per_epoch,
        metric_for_best_model=metric,
        greater_is_better=None if metric is None else not is_smaller_better(metric),
        load_best_model_at_end=with_validation and settings.load_best,
        restore_callback_states_from_checkpoint=True,
        seed=settings.seed,
        use_cpu=device_type(settings.device) == "cpu",
        activation_checkpointing=settings.gradient_checkpointing,
        report_to=list(settings.trackers) or "none",
        # A batch comes from our own loader, whole and with the names that the model knows.
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=finds_unused,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        disable_tqdm=True,  # progress.py shows the progress
        **more,
    )
    # One process trains on one GPU: of several, Trainer would make a DataParallel, which weighs
    # the losses of a batch's parts as if there were always as many parts as GPUs.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
