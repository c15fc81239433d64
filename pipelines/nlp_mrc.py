"""python -m pipelines.nlp_mrc: a reader that answers questions by spans of their contexts."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import BatchSettings
from idbert.nn.structure import StructureSettings
from idbert.run_dir import RunDir
from idbert.training.arguments import TrainingSettings
from idbert.training.trainer import build_planned_trainer
from nlp_tasks.cls.config import PretrainedSettings
from nlp_tasks.mrc.decoding import DecodingSettings
from nlp_tasks.mrc.dgcnn import DgcnnSettings
from nlp_tasks.mrc.losses import SpanSettings
from nlp_tasks.mrc.parts import QuestionData, read_parts
from nlp_tasks.mrc.validation import METRICS, validation_of
from nlp_tasks.mrc.windows import WindowSettings
from pipelines.cli import run_command, stage
from pipelines.corridor import RunFolder, as_dict
from pipelines.data_files import files_named_in, refuse_changed, remember_files
from pipelines.nlp_mrc_corridor import finish_run, open_reader, report_once
from pipelines.reporting import is_trained


@dataclass(frozen=True)
class NlpMrcSettings(RunFolder):
    """Extractive reading comprehension."""

    run: str = "runs/nlp_mrc"
    """The run's folder: made if absent, resumed if unfinished."""
    reader: Literal["encoder", "dgcnn"] = "encoder"
    """encoder: on a pretrained BERT or NEZHA; dgcnn: gated convolutions over characters and words,
    trained from nothing."""
    model: str | None = None
    """The pretrained model of an encoder: a folder with a BERT or NEZHA, its name on the Hugging
    Face hub, or a run of nlp_pretrain, nlp_cls or nlp_mrc. A head for start and end is taken
    over."""
    data: QuestionData = field(default_factory=QuestionData)
    """The questions, and how to read them"""
    windows: WindowSettings = field(default_factory=WindowSettings)
    """How long contexts are cut"""
    encoder: PretrainedSettings = field(default_factory=PretrainedSettings)
    """What is changed about the pretrained encoder"""
    structure: StructureSettings = field(default_factory=StructureSettings)
    """Fusion of the layers, and a block on it"""
    dgcnn: DgcnnSettings = field(default_factory=DgcnnSettings)
    """The reader without a pretrained encoder"""
    span: SpanSettings = field(default_factory=SpanSettings)
    """The heads and their loss"""
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    """Which spans can be answers, and when there is none"""
    batches: BatchSettings = field(default=BatchSettings(token_budget=6144, max_sequences=16))
    """Length buckets of up to 16 windows under a token budget"""
    training: TrainingSettings = field(
        default=TrainingSettings(
            epochs=3, learning_rate=5e-5, warmup=0.1, metric=None, precision="auto"
        )
    )
    """Optimizer, schedule, strategies, checkpoints, early stopping"""

    def __post_init__(self) -> None:
        if self.reader == "encoder" and self.model is None:
            raise ConfigError(
                "A reader on an encoder needs a pretrained model. Name it with --model, or choose "
                "--reader=dgcnn, which has none."
            )
        unused: tuple[tuple[str, object, object], ...] = (
            ("model", self.model, None),
            ("encoder", self.encoder, PretrainedSettings()),
            ("structure", self.structure, StructureSettings()),
        )
        if self.reader == "dgcnn" and self.training.gradient_checkpointing:
            raise ConfigError(
                "training.gradient_checkpointing recomputes an encoder's layers, and reader=dgcnn "
                "has none. Leave it out."
            )
        if self.reader == "encoder":
            unused = (("dgcnn", self.dgcnn, DgcnnSettings()),)
        for name, value, default in unused:
            if value != default:
                raise ConfigError(
                    f"{name} cannot act with reader '{self.reader}'. Leave it out, or choose the "
                    "other reader."
                )


def main(config: NlpMrcSettings) -> None:
    """Train a reader: the span of a context that answers a question, or that there is none.

    Reads questions with contexts and answers; holds out those of some contexts unless there is a
    dev file. The run's folder receives tokenizer and weights, the training curve, metrics.json,
    the answers to the questions of the validation and the test part, and report.html. `nlp_answer`
    answers questions from documents with it.
    """
    run = RunDir.create(config.run, "nlp_mrc", as_dict(config))
    if is_trained(run):
        refuse_changed(run, files_named_in(config.data))
        report_once(run)
        return
    with stage("read the questions and the model"):
        parts = read_parts(config.data)
        torch.manual_seed(config.training.seed)
        model, reading = open_reader(config, parts)
        data = reading.data(parts.train)
        for part in parts.evaluated.values():
            reading.check(part)
    remember_files(run, files_named_in(config.data))
    trainer = build_planned_trainer(
        model,
        data,
        config.batches,
        config.training,
        output_dir=run.checkpoints,
        evaluate=validation_of(model, reading, parts.validation, config.decoding, parts.language),
        metrics=METRICS,
    )
    with stage("train"):
        trainer.train_or_resume()
    finish_run(run, trainer, model, reading, parts, config.decoding)


if __name__ == "__main__":
    run_command(main, NlpMrcSettings)
