"""python -m pipelines.nlp_cls: a text classifier on a pretrained encoder."""

from dataclasses import dataclass, field

import torch

from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.templates import TemplateSettings
from idbert.inputs.text import TextSettings
from idbert.inputs.text_batches import TextData
from idbert.nn.heads import HeadSettings
from idbert.nn.pooling import PoolingSettings
from idbert.nn.structure import StructureSettings
from idbert.run_dir import RunDir
from idbert.training.arguments import TrainingSettings
from idbert.training.trainer import build_planned_trainer
from nlp_tasks.cls.config import ClassifierLossSettings, PretrainedSettings
from nlp_tasks.cls.model import TextClassifier
from nlp_tasks.cls.parts import ClassificationData, read_parts
from nlp_tasks.cls.probe import HeadStart, start_from_probe, uses_probe
from nlp_tasks.cls.sampling import SamplingSettings, sample_rows
from nlp_tasks.cls.validation import metrics_of, validation_of
from pipelines.cli import run_command, stage
from pipelines.corridor import RunFolder, as_dict
from pipelines.data_files import files_named_in, refuse_changed, remember_files
from pipelines.nlp_corridor import open_pretrained, open_reader
from pipelines.nlp_reporting import finish_run, report_once, save_fold
from pipelines.reporting import is_trained


@dataclass(frozen=True)
class NlpClsSettings(RunFolder):
    """Classification of texts."""

    run: str = "runs/nlp_cls"
    """The run's folder: made if absent, resumed if unfinished."""
    model: str = field(kw_only=True)
    """The pretrained model: a folder with a BERT or NEZHA, its name on the Hugging Face hub, or a
    run of nlp_pretrain."""
    data: ClassificationData = field(default_factory=ClassificationData)
    """The labelled texts, and how to read them"""
    text: TextSettings = field(default_factory=TextSettings)
    """How long a text may be, and what of a longer one is read"""
    templates: TemplateSettings = field(default_factory=TemplateSettings)
    """Sentences that stand in many texts and are dropped"""
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    """Which rows are trained on"""
    encoder: PretrainedSettings = field(
        default=PretrainedSettings(hidden_dropout=0.2, attention_dropout=0.2)
    )
    """What is changed about the pretrained encoder"""
    structure: StructureSettings = field(default_factory=StructureSettings)
    """Fusion of the layers, and a block on it"""
    pooling: PoolingSettings = field(default_factory=PoolingSettings)
    """How the tokens' vectors become one"""
    head: HeadSettings = field(default_factory=HeadSettings)
    """What turns that vector into logits"""
    head_start: HeadStart = "auto"
    """probe: the head starts as a regression on the pretrained encoder's vectors, so that it need
    not find its way through them first; random: from random weights. auto: probe where the head is
    linear and nothing untrained stands below it."""
    loss: ClassifierLossSettings = field(default=ClassifierLossSettings(r_drop=1.0))
    """The loss over the labels"""
    batches: BatchSettings = field(default=BatchSettings(token_budget=4096, max_sequences=32))
    """Length buckets of up to 32 texts under a token budget"""
    training: TrainingSettings = field(
        default=TrainingSettings(
            epochs=3, learning_rate=5e-5, warmup=0.1, metric=None, precision="auto"
        )
    )
    """Optimizer, schedule, strategies, checkpoints, early stopping"""


def main(config: NlpClsSettings) -> None:
    """Fine-tune a BERT or NEZHA that tells one label, several labels or a number of a text.

    Reads labelled texts, or pairs of texts; holds out a part of them unless there is a dev file.
    The run's folder receives the labels, tokenizer and weights, the training curve, metrics.json,
    predictions of the validation and the test part, and report.html. `nlp_predict` labels a file
    with it.
    """
    run = RunDir.create(config.run, "nlp_cls", as_dict(config))
    if is_trained(run):
        refuse_changed(run, files_named_in(config.data))
        report_once(run)
        return
    with stage("read the texts and the model"):
        parts = read_parts(config.data)
        encoder, tokenizer = open_pretrained(config.model, config.encoder)
        reader = open_reader(tokenizer, encoder, config.text, config.templates, parts)
    remember_files(run, files_named_in(config.data))
    for fold in parts.folds:
        torch.manual_seed(config.training.seed)
        model = TextClassifier.build(
            encoder,
            kind=parts.labels.kind,
            num_outputs=parts.labels.num_outputs,
            structure=config.structure,
            pooling=config.pooling,
            head=config.head,
            loss=config.loss,
        )
        with_probe = uses_probe(model, config.head_start)
        train = fold.train.take(sample_rows(fold.train, config.sampling, seed=config.training.seed))
        model.fit(torch.from_numpy(train.targets))
        encoded = reader.encode_examples(train)
        trainer = build_planned_trainer(
            model,
            TextData(encoded, train.targets, pad_id=reader.pad_id),
            config.batches,
            config.training,
            output_dir=run.checkpoints / fold.name,
            evaluate=validation_of(model, reader, fold.validation),
            metrics=metrics_of(parts.labels.kind),
        )
        with stage("train"):
            if with_probe and not trainer.resumes:
                start_from_probe(
                    model,
                    encoded,
                    train.targets,
                    pad_id=reader.pad_id,
                    precision=trainer.precision,
                )
            trainer.train_or_resume()
        save_fold(run, fold.name, model, trainer)
    finish_run(run, reader, parts)


if __name__ == "__main__":
    run_command(main, NlpClsSettings)
