"""python -m pipelines.rec_finetune: a next-item model, from a pretrained run or from nothing."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from idbert.errors import ConfigError
from idbert.inputs.recency import TargetSettings
from idbert.inputs.sequences import SequenceSettings
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import EncoderSettings
from idbert.nn.frequency_start import NO_ROW
from idbert.nn.item_models import ItemModel, NextItemModel, load_item_model
from idbert.nn.losses.catalogue import LossSettings
from idbert.processes import check_agreement
from idbert.rows import FIRST_ITEM, UNK
from idbert.run_dir import RunDir
from idbert.training.arguments import TrainingSettings
from idbert.training.memory import check_memory_first
from idbert.training.trainer import build_trainer
from pipelines.cli import logger, naming_plugins_of, run_command, stage
from pipelines.corridor import (
    STAGES,
    CorridorSettings,
    LogSettings,
    as_dict,
    as_prepared,
    check_choosing,
    check_titles,
    check_windows,
    log_settings_of,
    read_attributes,
)
from pipelines.data_files import files_of_log, is_same, refuse_changed, remember_files
from pipelines.reporting import finish_run, is_trained, report_once
from pipelines.split_log import read_split_log


@dataclass(frozen=True)
class RecFinetuneSettings(CorridorSettings):
    """Next-item training."""

    run: str = "runs/rec_finetune"
    """The run's folder: made if absent, resumed if unfinished."""
    pretrained: str | None = None
    """The run whose backbone and items are the start: of rec_pretrain on the same log, or of either
    training command on another one (last week's), whose items are found by their ids, and new ones
    drawn like them. null: start from nothing."""
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
    if config.pretrained is not None and not Path(config.run).exists():
        RunDir.open(config.pretrained, STAGES)  # refused now, before the folder is made
    run = RunDir.create(config.run, "rec_finetune", as_dict(config))
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
        model.start_from(*open_pretrained(config.pretrained, vocabulary, config))
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


def open_pretrained(
    folder: str, vocabulary: Vocabulary, config: LogSettings
) -> tuple[ItemModel, np.ndarray | None]:
    """Open the model of a trained run, and find the items of a log in it.

    Args:
        folder: Of the run.
        vocabulary: Of the log that is to be trained on.
        config: How that log is read and split.

    Returns:
        The model, and for each row of the vocabulary the model's row of the same item, or NO_ROW;
        None where all rows are the same.

    Raises:
        CheckpointError: the folder is no finished run of rec_pretrain or rec_finetune.
        ConfigError: it was trained on the same log, split or read otherwise; or on one without an
            item in common, or with other behaviours.
    """
    pretrained = RunDir.open(folder, STAGES)
    theirs = Vocabulary.load(pretrained.path)
    rows_V = None
    if theirs.fingerprint() != vocabulary.fingerprint():
        same = is_same(pretrained, files_of_log(config.data))
        if same is None:  # a named data set, or a run of before, of which only the name is known
            same = log_settings_of(pretrained).data.source == config.data.source
        if same:
            raise ConfigError(
                f"{folder} was trained on another catalogue of the same log: {theirs.num_items:,} "
                f"items there, {vocabulary.num_items:,} here, or in another order. Use the same "
                "--data and --split settings for both, so that nothing is trained on that is held "
                "out here."
            )
        rows_V = _rows_there(theirs, vocabulary, folder)
    with naming_plugins_of(pretrained):
        return load_item_model(pretrained.model), rows_V


def _rows_there(theirs: Vocabulary, ours: Vocabulary, folder: str) -> np.ndarray:
    """Return for each row of a vocabulary the other's row of the same item, or NO_ROW."""
    if theirs.behaviours != ours.behaviours:
        raise ConfigError(
            f"{folder} knows the behaviours {', '.join(theirs.behaviours) or 'none'}, and this log "
            f"has {', '.join(ours.behaviours) or 'none'}. Train from nothing."
        )
    rows_N = np.full(ours.num_items, UNK)
    if theirs.ids.type == ours.ids.type:
        rows_N = theirs.rows(ours.ids)
    elif pa.types.is_integer(theirs.ids.type):  # one new item with another name makes ours text
        places = pc.index_in(ours.ids, value_set=theirs.ids.cast(ours.ids.type))
        rows_N = FIRST_ITEM + pc.fill_null(places, UNK - FIRST_ITEM).to_numpy().astype(np.int64)
    known = int(np.count_nonzero(rows_N != UNK))
    if not known:
        raise ConfigError(
            f"{folder} was trained on another catalogue: none of this log's {ours.num_items:,} "
            "items is in it. Train from nothing, or on this log first."
        )
    logger.warning(
        "%d of %d items start as %s knows them, the others like these. It was trained on another "
        "log: figures hold only if nothing that is held out here was in that.",
        known,
        ours.num_items,
        folder,
    )
    return np.concatenate([np.arange(FIRST_ITEM), np.where(rows_N == UNK, NO_ROW, rows_N)])


if __name__ == "__main__":
    run_command(main, RecFinetuneSettings, in_processes=True)
