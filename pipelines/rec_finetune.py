"""python -m pipelines.rec_finetune: a next-item model, from a pretrained run or from nothing."""

from dataclasses import dataclass, field
from functools import partial

import torch

from idbert.errors import ConfigError
from idbert.inputs.recency import TargetSettings
from idbert.inputs.sequences import SequenceSettings
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import ItemModel, NextItemModel, load_item_model
from idbert.nn.losses.catalogue import LossSettings
from idbert.processes import check_agreement
from idbert.run_dir import RunDir
from idbert.training.arguments import TrainingSettings
from idbert.training.memory import check_memory_first
from idbert.training.trainer import build_trainer
from pipelines.cli import naming_plugins_of, run_command, stage
from pipelines.corridor import (
    CorridorSettings,
    as_dict,
    as_prepared,
    check_choosing,
    check_windows,
    read_attributes,
    read_titles,
)
from pipelines.data_files import files_of_log, refuse_changed, remember_files
from pipelines.reporting import finish_run, is_trained, report_once
from pipelines.split_log import read_split_log


@dataclass(frozen=True)
class RecFinetuneSettings(CorridorSettings):
    """Next-item training."""

    run: str = "runs/rec_finetune"
    """The run's folder: made if absent, resumed if unfinished."""
    pretrained: str | None = None
    """The run of rec_pretrain whose backbone is the start; null: start from nothing."""
    sequences: SequenceSettings = field(default=SequenceSettings(max_length=201))
    """One sequence a user"""
    targets: TargetSettings = field(default_factory=TargetSettings)
    """At which positions there is a loss"""
    model: EncoderSettings = field(default=EncoderSettings(hidden_dropout=0.2))
    """The encoder and what stands on it; of the pretrained run's shape, where there is one"""
    loss: LossSettings = field(default_factory=LossSettings)
    """The loss over the catalogue"""
    training: TrainingSettings = field(default=TrainingSettings(epochs=20, patience=5))
    """Optimizer, schedule, checkpoints, early stopping"""

    def __post_init__(self) -> None:
        # A block that looks ahead is refused now, not after the log has been read.
        self.model.to_config(vocab_size=1, is_causal=True)
        check_windows(self.sequences, self.model, is_causal=True)
        check_choosing(self.split, self.training)


def main(config: RecFinetuneSettings) -> None:
    """Train an encoder of item ids for the next item (SASRec with a full softmax).

    Starts from the weights of a run of rec_pretrain, or from nothing. The run's folder receives the
    vocabulary, the weights, the training curve, validation figures against the baselines (test
    figures with --split.train_until test, none with end), and report.html. Give both stages the
    same --data, --split and --model settings.
    """
    config = as_prepared(config)
    run = RunDir.create(config.run, "rec_finetune", as_dict(config))
    if is_trained(run):
        refuse_changed(run, files_of_log(config.data))
        report_once(run)
        return
    remember_files(run, files_of_log(config.data))
    with stage("read and split the log"):
        log = read_split_log(config)
        read_titles(config.data, log.vocabulary.ids.type)  # refused now, not after training
    vocabulary = log.vocabulary
    check_agreement({"the vocabulary": vocabulary.fingerprint()})
    sequences = log.train(config.sequences)
    validation = log.validation(config.sequences.max_length, filter_seen=config.filter_seen)
    shift = log.popularity_shift(config.popularity)
    del log  # its tables are as large as the sequences
    build = partial(
        NextItemModel.build,
        config.model,
        vocab_size=len(vocabulary),
        num_behaviours=len(vocabulary.behaviours),
        loss=config.loss,
        item_counts=vocabulary.counts_V,
        attributes=read_attributes(config.data, vocabulary),
        popularity_shift=shift,
    )
    check_memory_first(build, sequences, None, config.batches, config.training, validation)
    torch.manual_seed(config.training.seed)
    model = build()
    if config.pretrained is not None:
        model.start_from(open_pretrained(config.pretrained, vocabulary))
    trainer = build_trainer(
        model,
        sequences,
        None,
        config.batches,
        config.training,
        output_dir=run.checkpoints,
        validation=validation,
        targets=config.targets,
    )
    trainer.train_or_resume()
    finish_run(run, model, vocabulary, trainer)


def open_pretrained(folder: str, vocabulary: Vocabulary) -> ItemModel:
    """Open the model of a pretrained run, whose rows must mean the same items.

    Raises:
        CheckpointError: the folder is no finished run of rec_pretrain.
        ConfigError: it was trained on another catalogue.
    """
    pretrained = RunDir.open(folder, ["rec_pretrain"])
    theirs = Vocabulary.load(pretrained.path)
    if theirs.fingerprint() != vocabulary.fingerprint():
        raise ConfigError(
            f"{folder} was pretrained on another catalogue: {theirs.num_items:,} items there, "
            f"{vocabulary.num_items:,} here, or in another order. Use the same --data and --split "
            "settings for both, or pretrain on this log first."
        )
    with naming_plugins_of(pretrained):
        return load_item_model(pretrained.model)


if __name__ == "__main__":
    run_command(main, RecFinetuneSettings, in_processes=True)
