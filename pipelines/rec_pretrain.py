"""python -m pipelines.rec_pretrain: an encoder of item ids, pretrained by masked-item modelling."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch

from idbert.errors import ConfigError
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.mixed_batches import MixedSettings
from idbert.nn.blocks.block import NO_BLOCK
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import ItemModel, MaskedItemModel, MixedItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.processes import check_agreement
from idbert.run_dir import RunDir
from idbert.training.arguments import TrainingSettings
from idbert.training.memory import check_memory_first
from idbert.training.trainer import build_trainer
from nlp_tasks.pretrain.start import ItemStart
from pipelines.cli import run_command, stage
from pipelines.corridor import (
    CorridorSettings,
    as_dict,
    as_prepared,
    check_choosing,
    check_titles,
    check_windows,
    read_attributes,
)
from pipelines.data_files import files_of_log, refuse_changed, remember_files
from pipelines.frequency_start import start_items
from pipelines.reporting import finish_run, is_trained, report_once
from pipelines.split_log import read_split_log


@dataclass(frozen=True)
class RecPretrainSettings(CorridorSettings):
    """Masked-item pretraining."""

    run: str = "runs/rec_pretrain"
    """The run's folder: made if absent, resumed if unfinished."""
    objective: Literal["masked", "mixed"] = "masked"
    """masked: hidden items, from both sides (BERT4Rec); mixed: each batch either that or the next
    item at every position, from the past alone, with the same weights (UniLM)."""
    mixed: MixedSettings = field(default_factory=MixedSettings)
    """How objective=mixed mixes them"""
    masking: MaskingSettings = field(default=MaskingSettings(last_probability=0.25))
    """Which items are masked"""
    model: EncoderSettings = field(default_factory=EncoderSettings)
    """The encoder, what stands on it, and its head"""
    start: ItemStart = field(default_factory=ItemStart)
    """What the items begin with: vectors of a BERT's words, by popularity"""
    loss: LossSettings = field(default_factory=LossSettings)
    """The loss over the catalogue"""
    training: TrainingSettings = field(
        default=TrainingSettings(epochs=50, learning_rate=2e-3, evaluate_every=5)
    )
    """Optimizer, schedule, checkpoints, early stopping"""

    def __post_init__(self) -> None:
        check_windows(self.sequences, self.model, is_causal=False)
        check_choosing(self.split, self.training)
        if self.objective != "mixed" and self.mixed != MixedSettings():
            raise ConfigError("the settings of --mixed are for --objective mixed. Give it, too.")
        if self.objective == "mixed" and self.model.block.name != NO_BLOCK:
            raise ConfigError(
                f"the block '{self.model.block.name}' reads in one direction, and objective=mixed "
                "in both. Leave the block out, or choose objective=masked."
            )


def main(config: RecPretrainSettings) -> None:
    """Pretrain an encoder of item ids by masked-item modelling (BERT4Rec).

    Reads a log of user, item and time; holds out each user's last two events; masks items of the
    rest and learns to name them. The run's folder receives the vocabulary, the weights, the
    training curve, validation figures against the baselines (test figures with --split.train_until
    test, none with end), and report.html. Items may start from the vectors of a BERT's words, the
    most popular from the most frequent (start). With --objective mixed, batches of next items come
    between those of masked ones. Without arguments it runs on MovieLens-100K.
    """
    config = as_prepared(config)
    run = RunDir.create(config.run, "rec_pretrain", as_dict(config))
    if is_trained(run):
        refuse_changed(run, files_of_log(config.data))
        report_once(run)
        return
    with stage("read and split the log"):
        log = read_split_log(config)
        check_titles(config.data, log.vocabulary)  # refused now, not after training
    remember_files(run, files_of_log(config.data))
    vocabulary = log.vocabulary
    check_agreement({"the vocabulary": vocabulary.fingerprint()})
    sequences = log.train(config.sequences)
    validation = log.validation(config.sequences.max_length, filter_seen=config.filter_seen)
    shift = log.popularity_shift(config.popularity)
    del log  # its tables are as large as the sequences
    is_mixed = config.objective == "mixed"
    build: Callable[[], ItemModel] = partial(
        MixedItemModel.build if is_mixed else MaskedItemModel.build,
        config.model,
        vocab_size=len(vocabulary),
        num_behaviours=len(vocabulary.behaviours),
        loss=config.loss,
        item_counts=vocabulary.counts_V,
        is_causal=is_mixed and config.mixed.used_as == "next",
        attributes=read_attributes(config.data, vocabulary),
        popularity_shift=shift,
    )
    check_memory_first(
        build, sequences, config.masking, config.batches, config.training, validation
    )
    torch.manual_seed(config.training.seed)
    model = build()
    start_items(model, vocabulary, config.start)
    trainer = build_trainer(
        model,
        sequences,
        config.masking,
        config.batches,
        config.training,
        output_dir=run.checkpoints,
        validation=validation,
        mixed=config.mixed if is_mixed else None,
    )
    trainer.train_or_resume()
    finish_run(run, model, vocabulary, trainer)


if __name__ == "__main__":
    run_command(main, RecPretrainSettings, in_processes=True)
