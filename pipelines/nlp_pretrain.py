"""python -m pipelines.nlp_pretrain: an encoder of texts, trained (further) by masked words."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int64
from transformers import PreTrainedTokenizerBase

from idbert.errors import ConfigError, DataError
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.label_tokens import add_label_tokens, label_ids
from idbert.inputs.tokenizers import open_tokenizer
from idbert.inputs.word_masking import WordMaskingSettings
from idbert.nn.losses.catalogue import LossSettings
from idbert.nn.progress_bars import without_progress_bars
from idbert.nn.word_config import WordEncoderSettings
from idbert.nn.word_heads import read_word_heads
from idbert.nn.word_models import MaskedWordModel, load_word_model
from idbert.run_dir import RunDir
from idbert.training.arguments import TrainingSettings
from idbert.training.planned_trainer import PlannedTrainer
from idbert.training.trainer import build_planned_trainer
from nlp_tasks.cls.config import PretrainedSettings
from nlp_tasks.cls.reading import TOKENIZER_FOLDER
from nlp_tasks.pretrain.corpus import Corpus, CorpusSettings, Documents, read_corpus
from nlp_tasks.pretrain.masked_data import WordData, masked_data, masked_pairs
from nlp_tasks.pretrain.pairs import TextPairs
from nlp_tasks.pretrain.report import PretrainContent, pretrain_report_html
from nlp_tasks.pretrain.start import WordStart
from nlp_tasks.pretrain.validation import (
    metrics_of,
    restored_examples,
    validation_of,
    word_metrics,
)
from nlp_tasks.pretrain.vocabulary import VocabularySettings
from pipelines.cli import logger, run_command, stage
from pipelines.corridor import RunFolder, as_dict
from pipelines.data_files import files_named_in, refuse_changed, remember_files
from pipelines.endings import check_finished, files_in, is_reported
from pipelines.frequency_start import start_word_model
from pipelines.nlp_corridor import open_pretrained, pretrained_folders
from pipelines.reporting import is_trained


@dataclass(frozen=True)
class WindowSettings:
    """How much text a sequence holds."""

    max_length: int = 128
    """Positions of a sequence, special tokens included. A longer text becomes several sequences."""


@dataclass(frozen=True)
class NlpPretrainSettings(RunFolder):
    """Pretraining on texts."""

    run: str = "runs/nlp_pretrain"
    """The run's folder: made if absent, resumed if unfinished."""
    model: str | None = None
    """What is trained further: a folder with a BERT or NEZHA, its name on the Hugging Face hub, or
    a run of nlp_pretrain or nlp_cls. null: an encoder and a vocabulary are made from nothing."""
    data: CorpusSettings = field(default_factory=CorpusSettings)
    """The texts"""
    text: WindowSettings = field(default_factory=WindowSettings)
    """How much text a sequence holds"""
    masking: WordMaskingSettings = field(default_factory=WordMaskingSettings)
    """Which tokens are hidden"""
    next_sentence: bool = False
    """Whether the model also learns which of two segments of text belong together."""
    encoder: PretrainedSettings = field(default_factory=PretrainedSettings)
    """What is changed about a pretrained encoder"""
    architecture: WordEncoderSettings = field(default_factory=WordEncoderSettings)
    """The encoder, what stands on it, and its head, where there is no pretrained model"""
    vocabulary: VocabularySettings = field(default_factory=VocabularySettings)
    """The vocabulary that is made of the texts, where there is no pretrained model"""
    start: WordStart = field(default_factory=WordStart)
    """What that vocabulary begins with: vectors and layers of a model of other words"""
    loss: LossSettings = field(default_factory=LossSettings)
    """The loss over the vocabulary"""
    batches: BatchSettings = field(default=BatchSettings(token_budget=2048))
    """Length buckets under a token budget"""
    training: TrainingSettings = field(
        default=TrainingSettings(
            epochs=10, learning_rate=1e-4, warmup=0.06, metric=None, precision="auto"
        )
    )
    """Optimizer, schedule, strategies, checkpoints, early stopping"""

    def __post_init__(self) -> None:
        own = "brings its own. Leave it out, or"
        if self.model:
            reasons = dict.fromkeys(
                ("architecture", "vocabulary", "start"), f"{self.model} {own} set model to null."
            )
        elif self.start.takes_layers:
            reasons = {"architecture": f"{self.start.model} {own} set start.layers to 0."}
        else:
            reasons = {
                "encoder": "it changes a pretrained model. Name one with model or start.model, "
                "or leave it out."
            }
        for name, reason in reasons.items():
            group = getattr(self, name)
            if group != type(group)():
                raise ConfigError(f"{name} is set and cannot act: {reason}")
        if self.data.pair and self.next_sentence:
            raise ConfigError(
                "next_sentence makes pairs of a document's sentences, and the texts are pairs "
                "already. Set next_sentence or data.pair to false."
            )


def main(config: NlpPretrainSettings) -> None:
    """Train a BERT or NEZHA to restore words that are hidden in texts.

    Trains a pretrained model further, on texts of a domain or of a task, or one from nothing. The
    run's folder receives tokenizer and weights, the training curve, figures of the texts held out,
    and report.html; `nlp_cls --model RUN` starts from it. Texts whose words are numbers get a
    vocabulary of their own (vocabulary.kind=words), which may start from a BERT's vectors by
    frequency rank (start). Without arguments it makes a small model from nothing on the sample
    reviews.
    """
    run = RunDir.create(config.run, "nlp_pretrain", as_dict(config))
    trained = is_trained(run)
    if trained:
        refuse_changed(run, files_named_in(config.data))
        if is_reported(run):
            return
    with stage("read the texts and the model"):
        corpus = read_corpus(config.data, least_held_out=2 if config.next_sentence else 1)
        torch.manual_seed(config.training.seed)
        tokenizer, model = open_trained(run) if trained else open_model(config, corpus)
        dev = held_out_data(config, corpus, tokenizer, model)
    if not trained:
        remember_files(run, files_named_in(config.data))
        data = data_of(corpus.train, config, tokenizer, model, seed=config.training.seed)
        model.loss.fit(torch.from_numpy(target_counts(data, tokenizer, model.config.vocab_size)))
        trainer = build_planned_trainer(
            model,
            data,
            config.batches,
            config.training,
            output_dir=run.checkpoints,
            evaluate=None if dev is None else validation_of(model, dev),
            metrics=metrics_of(dev),
        )
        trainer.train_or_resume()
        save_run(run, model, tokenizer, trainer)
    write_report(run, model, tokenizer, corpus, dev)


def open_model(
    config: NlpPretrainSettings, corpus: Corpus
) -> tuple[PreTrainedTokenizerBase, MaskedWordModel]:
    """Open tokenizer, encoder and heads of the pretrained model, or make them from nothing.

    Raises:
        CheckpointError: there is no such model, or its parts do not belong together.
        ConfigError: sequences may be longer than it reads.
    """
    tokenizer: PreTrainedTokenizerBase
    if config.model is None:
        tokenizer = config.vocabulary.train(corpus.training_texts)
        if corpus.label_names is not None:
            add_label_tokens(tokenizer, corpus.label_names)
        model = start_word_model(
            config.start,
            corpus.training_texts,
            tokenizer,
            config.architecture,
            config.encoder,
            next_sentence=config.next_sentence,
            loss=config.loss,
        )
    else:
        encoder, folder = open_pretrained(config.model, config.encoder)
        tokenizer = open_tokenizer(folder, vocab_size=encoder.config.vocab_size)
        heads = read_word_heads(pretrained_folders(config.model)[0])
        model = MaskedWordModel.continue_from(
            encoder, heads, next_sentence=config.next_sentence, loss=config.loss
        )
        if corpus.label_names is not None:
            add_label_tokens(tokenizer, corpus.label_names)
            if len(tokenizer) > model.config.vocab_size:
                model.resize_token_embeddings(len(tokenizer))
    longest = model.max_length
    if longest is not None and config.text.max_length > longest:
        raise ConfigError(
            f"text.max_length is {config.text.max_length}, and the model reads at most {longest} "
            "tokens. Lower it; longer texts become several sequences."
        )
    return tokenizer, model


def open_trained(run: RunDir) -> tuple[PreTrainedTokenizerBase, MaskedWordModel]:
    """Open what a finished training has saved."""
    return open_tokenizer(run.path / TOKENIZER_FOLDER), load_word_model(run.model)


def target_counts(
    data: WordData, tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> Int64[np.ndarray, "V"]:
    """Return how often each token occurs that may be a target; by them a sampled loss may draw."""
    counts_V = np.bincount(data.token_ids, minlength=vocab_size)
    never = set(tokenizer.all_special_ids) - set(label_ids(tokenizer).values())
    counts_V[list(never)] = 0
    return counts_V


def data_of(
    documents: Documents,
    config: NlpPretrainSettings,
    tokenizer: PreTrainedTokenizerBase,
    model: MaskedWordModel,
    *,
    seed: int,
) -> WordData:
    """Return documents, or pairs, as masked sequences for this model."""
    if isinstance(documents, TextPairs):
        return masked_pairs(
            documents,
            tokenizer,
            config.masking,
            max_length=config.text.max_length,
            label_probability=config.data.chance_of_labels,
            seed=seed,
            num_token_types=model.config.type_vocab_size,
        )
    return masked_data(
        documents,
        tokenizer,
        config.masking,
        max_length=config.text.max_length,
        next_sentence=config.next_sentence,
        seed=seed,
        num_token_types=model.config.type_vocab_size,
    )


def held_out_data(
    config: NlpPretrainSettings,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    model: MaskedWordModel,
) -> WordData | None:
    """Return the texts to validate on as masked sequences; None where none are held out.

    Raises:
        DataError: nothing can be asked of them.
    """
    if not len(corpus.dev):
        return None
    try:
        return data_of(corpus.dev, config, tokenizer, model, seed=config.data.split_seed)
    except DataError as error:
        raise DataError(f"The texts held out cannot be used: {error}") from error


def save_run(
    run: RunDir,
    model: MaskedWordModel,
    tokenizer: PreTrainedTokenizerBase,
    trainer: PlannedTrainer,
) -> None:
    """Save what training has made, and declare the run finished.

    Raises:
        Unfinished: training was stopped by SIGTERM; a checkpoint is there to resume from.
    """
    check_finished(run, trainer)
    with run.writing(TOKENIZER_FOLDER) as folder:
        tokenizer.save_pretrained(folder)
    with run.writing("model") as folder, without_progress_bars():
        model.save_pretrained(folder)
    run.write_json("curve.json", trainer.curve())
    run.finish(["config.yaml", *files_in(run, TOKENIZER_FOLDER, "model")])


def write_report(
    run: RunDir,
    model: MaskedWordModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    dev: WordData | None,
) -> None:
    """Evaluate a finished run on the texts held out; write metrics.json and report.html."""
    model.train(False)
    metrics = {} if dev is None else word_metrics(model, dev)
    run.write_json("metrics.json", {"validation": metrics} if metrics else {})
    facts = {
        "Parameters": f"{model.num_parameters():,}",
        "Vocabulary": f"{len(tokenizer):,}",
        "Training texts": f"{len(corpus.train):,}",
        "Held-out texts": f"{len(corpus.dev):,}",
    }
    content = PretrainContent(
        title=f"{run.path.name}: {run.read_config()['data']['train']}",
        metrics=metrics,
        curve=run.read_json("curve.json"),
        examples=[] if dev is None else restored_examples(model, dev, tokenizer),
        settings=run.read_config(),
        facts=facts,
    )
    run.write_text("report.html", pretrain_report_html(content))
    logger.info("%s is finished: %s", run.path, run.report)


if __name__ == "__main__":
    run_command(main, NlpPretrainSettings)
