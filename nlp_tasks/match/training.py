"""Training of towers: sentence-transformers' trainer, made resumable, under our settings."""

import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.training_args import (
    BatchSamplers,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.products import fast_products
from idbert.training.adversarial import AdversarialSettings
from idbert.training.arguments import TrainingSettings
from idbert.training.heap import keep_freed_memory
from idbert.training.resumable_trainer import ResumableTrainer
from idbert.training.strategy_trainer import Evaluate, StrategyTrainer
from idbert.training.translation import to_training_arguments
from nlp_tasks.match.grouped_encoding import GroupedEncoding
from nlp_tasks.match.loss_inputs import FIRST, text_columns, training_set
from nlp_tasks.match.losses import MatchLoss
from nlp_tasks.match.pairs import PairExamples
from nlp_tasks.match.settings import MatchBatchSettings
from nlp_tasks.match.tower_encoders import encoder_of_module
from nlp_tasks.match.towers import DOCUMENT, QUERY

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
HASHED_AT_ONCE = 10_000


@dataclass(frozen=True)
class PairBatches:
    """The training set, and how it is put into batches.

    Attributes:
        dataset: its columns are what the loss reads.
        size: rows of a batch.
        unique: whether no text stands in a batch twice.
        by_length: whether a batch is encoded in groups of like length; None: in bfloat16 on
            a CPU.
    """

    dataset: Dataset
    size: int
    unique: bool
    by_length: bool | None = None

    def __len__(self) -> int:
        """Return the batches of an epoch, those of this process."""
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if processes > 1:
            return len(self.dataset) // self.size // processes
        return math.ceil(len(self.dataset) / self.size)

    def fingerprint(self) -> str:
        """Return what tells other pairs of the same number apart."""
        digest = hashlib.sha256(f"{self.size} {self.unique}".encode())
        for name in self.dataset.column_names:
            digest.update(json.dumps(name).encode())
            column = self.dataset.select_columns([name])
            for rows in column.iter(batch_size=HASHED_AT_ONCE):
                digest.update(json.dumps(rows[name]).encode())
        return digest.hexdigest()


class MatchTrainer(StrategyTrainer, SentenceTransformerTrainer):
    """Sentence-transformers' trainer with whole checkpoints, which hold the loss's weights too.

    Built by `build_match_trainer`.

    Attributes:
        finished: Whether `train_or_resume` has come to the end, not to a SIGTERM.
        precision: float32, medium or bfloat16, of the passes in training.
    """

    def __init__(
        self,
        towers: SentenceTransformer,
        loss: nn.Module,
        batches: PairBatches,
        settings: TrainingSettings,
        *,
        output_dir: Path,
        evaluate: Evaluate | None,
        metrics: Collection[str],
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        super().__init__(
            towers,
            batches,
            settings,
            trained=loss,
            encoder=encoder_of_module(towers[0]),
            hidden_size=_hidden_size(towers),
            output_dir=output_dir,
            evaluate=evaluate,
            metrics=metrics,
            callbacks=callbacks,
            loss=loss,
        )
        # Its losses are means over a batch, so accumulated ones are divided by their number.
        self.model_accepts_loss_kwargs = False
        by_length = batches.by_length
        if by_length is None:
            by_length = self.precision == "bfloat16" and self.args.device.type == "cpu"
        self._grouped = GroupedEncoding(towers) if by_length else None
        if by_length:
            keep_freed_memory()

    def _arguments(self, output_dir: Path, metric: str | None) -> TrainingArguments:
        batches: PairBatches = self._loader
        first, *others = text_columns(batches.dataset)
        has_pair = isinstance(self._model[0], Router)  # type: ignore[index]
        routes = {first: QUERY} | dict.fromkeys(others, DOCUMENT) if has_pair else {}
        return to_training_arguments(
            self._settings,
            output_dir,
            steps_per_epoch=self._steps_per_epoch,
            metric=metric,
            arguments_class=SentenceTransformerTrainingArguments,
            per_device_train_batch_size=batches.size,
            batch_sampler=(
                BatchSamplers.NO_DUPLICATES if batches.unique else BatchSamplers.BATCH_SAMPLER
            ),
            dataloader_num_workers=self._settings.num_workers,
            router_mapping=routes,
        )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Add a batch's gradients to those of its step."""
        rounded_on = self.args.device.type if self.precision == "medium" else None
        with ExitStack() as blocks:
            if rounded_on is not None or self._grouped is not None:
                blocks.enter_context(fast_products(rounded_on=rounded_on))
            if self._grouped is not None:
                blocks.enter_context(self._grouped.active())
            step_loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return step_loss

    def get_train_dataloader(self) -> Any:
        """Return sentence-transformers' own loader."""
        return super(ResumableTrainer, self).get_train_dataloader()

    def preprocess_dataset(self, dataset: Any = None, dataset_name: str | None = None) -> Any:
        """Leave alone what only says that there is a validation part."""
        if isinstance(dataset, str):
            return dataset
        return super().preprocess_dataset(dataset, dataset_name)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none: the card of a run is written once, by us."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the weights of the towers and of the loss into one file."""
        tensors = {name: t.detach().contiguous() for name, t in self._tensors().items()}
        save_file(tensors, Path(output_dir or self._folder) / WEIGHTS_FILE)

    @torch.no_grad()
    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        saved = load_file(Path(resume_from_checkpoint) / WEIGHTS_FILE)
        own = self._tensors()
        if saved.keys() != own.keys():
            raise CheckpointError(
                f"{resume_from_checkpoint} holds the weights of other towers or of another loss. "
                "Train in a new folder."
            )
        for name, tensor in saved.items():
            own[name].copy_(tensor)
        if self._average is not None:
            self._average.load_training_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        # Theirs goes on with the last weights where the best ones cannot be read.
        best = self._best_checkpoint()
        assert best is not None  # there has been an evaluation
        self.state.best_model_checkpoint = best
        self._load_from_checkpoint(best)

    def _tensors(self) -> dict[str, Tensor]:
        """Return all weights: those of the towers, then those that the loss has beside them."""
        towers = self._model.state_dict(keep_vars=True)
        known = {id(tensor) for tensor in towers.values()}
        beside = chain(self.loss.named_parameters(), self.loss.named_buffers())
        others = {name: tensor for name, tensor in beside if id(tensor) not in known}
        others = {name: t for name, t in others.items() if not _is_of_towers(name, self.loss)}
        return {f"towers.{name}": t for name, t in towers.items()} | {
            f"loss.{name}": t for name, t in others.items()
        }


def build_match_trainer(
    towers: SentenceTransformer,
    loss: MatchLoss,
    module: nn.Module,
    examples: PairExamples,
    batches: MatchBatchSettings,
    settings: TrainingSettings,
    *,
    output_dir: str | Path,
    evaluate: Evaluate | None = None,
    metrics: Collection[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> MatchTrainer:
    """Put towers, loss, pairs and settings together; `train_or_resume` of the result trains.

    Torch's seed is set to `settings.seed` here; all weights have been drawn before.

    Args:
        towers: From `build_towers` or `open_towers`; moved to the device.
        loss: From `find_loss`.
        module: From `build_loss` for these towers.
        examples: The training pairs.
        batches: How they are put together.
        settings: Optimizer, schedule, evaluations, checkpoints.
        output_dir: The folder of the checkpoints.
        evaluate: Returns metrics of the towers as they are; None: no evaluation, the last weights
            are kept.
        metrics: Names of what `evaluate` returns, the usual one first.
        callbacks: Your own, of transformers' kind.

    Raises:
        ConfigError: a setting cannot act.
        DataError: nothing is left to train on.
    """
    _check_settings(settings, towers, module, with_validation=evaluate is not None)
    dataset = training_set(loss, examples)
    unique = loss.batch_gives_negatives if batches.unique is None else batches.unique
    if loss.batch_gives_negatives and min(batches.size, len(dataset[FIRST])) < 2:
        raise ConfigError(
            f"The loss '{loss.name}' takes the other pairs of a batch for negatives, and there are "
            "none in batches of 1. Give larger batches, or more pairs."
        )
    planned = PairBatches(dataset, batches.size, unique, batches.by_length)
    if unique:
        _warn_of_repeated_texts(planned)
    return MatchTrainer(
        towers,
        module,
        planned,
        settings,
        output_dir=Path(output_dir),
        evaluate=evaluate,
        metrics=metrics,
        callbacks=callbacks,
    )


def _warn_of_repeated_texts(batches: PairBatches) -> None:
    """Say how many pairs cannot be trained on in an epoch, for each text stands once in a batch."""
    num_pairs, num_batches = len(batches.dataset), len(batches)
    for column in text_columns(batches.dataset):
        counts = Counter(batches.dataset[column])
        placed = sum(min(count, num_batches) for count in counts.values())
        if placed < num_pairs:
            text, count = counts.most_common(1)[0]
            logger.warning(
                "at most %d of %d pairs are trained on in an epoch of %d batches: a text stands "
                "once in a batch, and %r, for one, is in %d pairs. Set a smaller batches.size, or "
                "batches.unique=false",
                placed,
                num_pairs,
                num_batches,
                text[:40],
                count,
            )


def _check_settings(
    settings: TrainingSettings,
    towers: SentenceTransformer,
    module: nn.Module,
    *,
    with_validation: bool,
) -> None:
    if settings.patience is not None and not with_validation:
        raise ConfigError(
            f"patience={settings.patience} cannot act without a validation part. Give one, or "
            "leave patience out."
        )
    if settings.adversarial != AdversarialSettings():
        raise ConfigError(
            f"adversarial '{settings.adversarial.name}' cannot act on towers, whose loss reads "
            "several texts at once. Leave it out."
        )
    acting = {
        "head_learning_rate": settings.head_learning_rate is not None,
        "layer_decay": settings.layer_decay != 1,
        "frozen_layers": settings.frozen_layers is not None,
    }
    if isinstance(towers[0], Router) and any(acting.values()):
        name = next(name for name in acting if acting[name])
        raise ConfigError(
            f"{name} cannot act on two towers: it is for one encoder. Leave it out, or train one "
            "tower."
        )
    encoder = encoder_of_module(towers[0])
    inside = set() if encoder is None else {id(weight) for weight in encoder.parameters()}
    has_head = any(id(weight) not in inside for weight in module.parameters())
    if settings.head_learning_rate is not None and not has_head:
        raise ConfigError(
            f"head_learning_rate={settings.head_learning_rate} cannot act: all that is trained is "
            "in the encoder. Leave it out, or give the towers a width or a loss with a classifier."
        )


def _hidden_size(towers: SentenceTransformer) -> int:
    model = towers.transformers_model
    return 0 if model is None else int(getattr(model.config, "hidden_size", 0))


def _is_of_towers(name: str, loss: nn.Module) -> bool:
    """Say whether a tensor of a loss is one of its towers', as buffers that are not saved are."""
    parts = name.split(".")
    module: Any = loss
    for part in parts[:-1]:
        module = getattr(module, part)
        if isinstance(module, SentenceTransformer):
            return True
    return False
