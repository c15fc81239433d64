"""python -m pipelines.nlp_match: towers that turn texts into vectors whose cosine compares them."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from idbert.run_dir import MARKER, RunDir
from idbert.training.arguments import TrainingSettings
from nlp_tasks.match.losses import build_loss, find_loss
from nlp_tasks.match.mining import MiningSettings
from nlp_tasks.match.parts import MatchData, read_match_parts
from nlp_tasks.match.scoring import validation_of
from nlp_tasks.match.settings import MatchBatchSettings, MatchLossSettings, TowerSettings
from nlp_tasks.match.towers import STAGE, build_towers
from nlp_tasks.match.training import build_match_trainer
from pipelines.cli import naming_plugins_of, run_command, stage
from pipelines.corridor import RunFolder, as_dict
from pipelines.data_files import files_named_in, refuse_changed, remember_files
from pipelines.nlp_corridor import pretrained_folders
from pipelines.nlp_match_reporting import (
    Trained,
    check_loss,
    classifier_of,
    finish_run,
    mine,
    questions_of,
    report_once,
)
from pipelines.reporting import is_trained


@dataclass(frozen=True)
class NlpMatchSettings(RunFolder):
    """Matching of texts by towers."""

    run: str = "runs/nlp_match"
    """The run's folder: made if absent, resumed if unfinished."""
    model: str = field(kw_only=True)
    """The pretrained model: a SentenceTransformer, or a BERT or NEZHA, its folder or its name on
    the Hugging Face hub; or a run of nlp_pretrain or nlp_match."""
    data: MatchData = field(default_factory=MatchData)
    """The pairs, and how to read them"""
    towers: TowerSettings = field(default_factory=TowerSettings)
    """How texts become vectors"""
    loss: MatchLossSettings = field(default_factory=MatchLossSettings)
    """The loss over pairs of vectors"""
    mining: MiningSettings = field(default_factory=MiningSettings)
    """Hard negatives, found before training"""
    batches: MatchBatchSettings = field(default_factory=MatchBatchSettings)
    """How pairs are put together"""
    training: TrainingSettings = field(
        default=TrainingSettings(
            epochs=3, learning_rate=2e-5, warmup=0.1, metric=None, precision="auto"
        )
    )
    """Optimizer, schedule, strategies, checkpoints, early stopping"""


def main(config: NlpMatchSettings) -> None:
    """Train towers on pairs of texts: one encoder, or two, whose vectors are compared.

    Reads labelled pairs, pairs that belong together, or texts alone; holds out a part of the pairs
    unless there is a dev file. The run's folder receives the towers, which SentenceTransformer
    opens, with a model card; a classifier if the loss trains one; the training curve, metrics.json,
    predictions of the validation and the test part, and report.html. `nlp_search` searches with it.
    """
    run = RunDir.create(config.run, STAGE, as_dict(config))
    if is_trained(run):
        refuse_changed(run, files_named_in(config.data))
        report_once(run)
        return
    with stage("read the pairs"):
        parts = read_match_parts(config.data)
        questions = questions_of(parts, config.loss)
        check_loss(parts.train, config.loss, config.mining)
    remember_files(run, files_named_in(config.data))
    with stage("open the model"), _naming_plugins(config.model):
        torch.manual_seed(config.training.seed)
        source, tokenizer = _pretrained(config.model)
        towers = build_towers(source, config.towers, tokenizer=tokenizer)
    train = mine(towers, parts.train, config.mining, seed=config.training.seed)
    loss = find_loss(config.loss, train)
    module = build_loss(loss, towers, train, config.loss.matryoshka)
    classifier = classifier_of(loss, module, train)
    validation = parts.validation
    trainer = build_match_trainer(
        towers,
        loss,
        module,
        train,
        config.batches,
        config.training,
        output_dir=run.checkpoints,
        evaluate=None
        if validation is None
        else validation_of(towers, classifier, validation, questions["validation"]),
        metrics=() if validation is None else questions["validation"].metrics(validation),
    )
    with stage("train"):
        trainer.train_or_resume()
    finish_run(run, Trained(towers, loss, classifier, train), parts, trainer)


def _pretrained(model: str) -> tuple[str | Path, str | Path | None]:
    """Return where the weights lie, and where the tokenizer does if not with them."""
    if (Path(model) / MARKER).is_file() and RunDir(Path(model)).stage == STAGE:
        return RunDir.open(model, [STAGE]).model, None
    weights, tokenizer = pretrained_folders(model)
    return weights, None if tokenizer == weights else tokenizer


def _naming_plugins(model: str) -> AbstractContextManager[None]:
    is_run = (Path(model) / MARKER).is_file()
    return naming_plugins_of(RunDir(Path(model))) if is_run else nullcontext()


if __name__ == "__main__":
    run_command(main, NlpMatchSettings)
