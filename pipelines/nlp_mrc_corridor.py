"""The ends of a run of nlp_mrc: its reader opened, its weights saved, its answers reported."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from idbert.errors import CheckpointError, ConfigError
from idbert.inputs.tokenizers import open_tokenizer
from idbert.nn.encoder import Encoder
from idbert.nn.progress_bars import without_progress_bars
from idbert.nn.structure import StructureSettings
from idbert.run_dir import MARKER, RunDir
from idbert.training.planned_trainer import PlannedTrainer
from nlp_tasks.cls.config import PretrainedSettings
from nlp_tasks.cls.encoders import open_text_encoder, read_model_config
from nlp_tasks.mrc.config import ReaderConfig
from nlp_tasks.mrc.decoding import DecodingSettings
from nlp_tasks.mrc.dgcnn import DgcnnReaderModel, DgcnnSettings
from nlp_tasks.mrc.losses import SpanSettings
from nlp_tasks.mrc.metrics import F1
from nlp_tasks.mrc.model import ReaderModel
from nlp_tasks.mrc.parts import QuestionData, QuestionParts, read_parts
from nlp_tasks.mrc.reader import (
    DECODING_FILE,
    STAGE,
    AnyReaderModel,
    Reader,
    save_decoding,
)
from nlp_tasks.mrc.reading import READING_FILE, TOKENIZER_FOLDER, QuestionReader
from nlp_tasks.mrc.report import ReportContent, reading_intervals, reading_report_html
from nlp_tasks.mrc.validation import Evaluated, evaluate_reader, find_threshold
from nlp_tasks.mrc.windows import WindowSettings
from nlp_tasks.mrc.word_vectors import check_coverage, read_word_vectors
from nlp_tasks.mrc.word_vocabulary import WordVocabulary, character_tokenizer
from pipelines.cli import logger, naming_plugins_of, stage
from pipelines.endings import check_finished, files_in, is_reported, layer_weights
from pipelines.nlp_corridor import data_settings_of, open_pretrained, pretrained_folders


class ReaderSettings(Protocol):
    """The settings that decide what a reader is; those of nlp_mrc have them."""

    reader: Any
    model: str | None
    windows: WindowSettings
    encoder: PretrainedSettings
    structure: StructureSettings
    dgcnn: DgcnnSettings
    span: SpanSettings


def open_reader(
    config: ReaderSettings, parts: QuestionParts
) -> tuple[AnyReaderModel, QuestionReader]:
    """Build the model that is trained, and how questions become its windows.

    Raises:
        CheckpointError: there is no such model or no tokenizer, or one of another model.
        ConfigError: windows may be longer than the encoder reads.
    """
    if config.reader == "dgcnn":
        return _open_dgcnn(config, parts)
    assert config.model is not None
    weights, tokenizer, encoder = _open_encoder(config.model, config.encoder)
    longest = encoder.config.max_position_embeddings
    if longest is not None and config.windows.max_length > longest:
        raise ConfigError(
            f"windows.max_length is {config.windows.max_length}, and the model reads at most "
            f"{longest} tokens. Lower it; longer contexts are cut into several windows."
        )
    model = ReaderModel.build(
        encoder,
        structure=config.structure,
        span=config.span,
        head_from=weights,
    )
    reading = QuestionReader(
        open_tokenizer(tokenizer, vocab_size=encoder.config.vocab_size),
        config.windows,
        num_token_types=encoder.config.type_vocab_size,
    )
    return model, reading


def _open_encoder(model: str, change: PretrainedSettings) -> tuple[str | Path, str | Path, Encoder]:
    """Return where weights and tokenizer lie, and the encoder; of a run of nlp_mrc too."""
    path = Path(model)
    if not (path / MARKER).is_file() or RunDir(path).stage != STAGE:
        encoder, tokenizer = open_pretrained(model, change)
        return pretrained_folders(model)[0], tokenizer, encoder
    run = RunDir.open(model, [STAGE])
    if read_model_config(run.model).get("model_type") != ReaderConfig.model_type:
        raise CheckpointError(
            f"{model} is a reader without an encoder. Give a BERT or NEZHA, or a run that began "
            "with one."
        )
    with naming_plugins_of(run):
        encoder = open_text_encoder(run.model, change)
    return run.model, run.path / TOKENIZER_FOLDER, encoder


def _open_dgcnn(
    config: ReaderSettings, parts: QuestionParts
) -> tuple[DgcnnReaderModel, QuestionReader]:
    settings = config.dgcnn
    texts = [*parts.train.texts, *dict.fromkeys(parts.train.contexts)]
    words = vectors = None
    if settings.word_vectors is not None:
        names, vectors = read_word_vectors(settings.word_vectors, max_words=settings.max_words)
        words = WordVocabulary(names)
        check_coverage(words, texts, settings.word_vectors)
    elif settings.word_width:
        words = WordVocabulary.build(
            texts, min_count=settings.min_count, max_words=settings.max_words
        )
    tokenizer = character_tokenizer(texts, min_count=settings.min_count)
    model = DgcnnReaderModel.build(
        settings,
        vocab_size=len(tokenizer),
        num_words=0 if words is None else len(words),
        span=config.span,
        word_vectors=vectors,
    )
    return model, QuestionReader(tokenizer, config.windows, words=words)


def finish_run(
    run: RunDir,
    trainer: PlannedTrainer,
    model: AnyReaderModel,
    reading: QuestionReader,
    parts: QuestionParts,
    decoding: DecodingSettings,
) -> None:
    """Save what training has made and the threshold, declare the run finished, and evaluate it.

    Raises:
        Unfinished: training was stopped by SIGTERM; a checkpoint is there to resume from.
    """
    check_finished(run, trainer)
    run.write_json("curve.json", trainer.curve())
    with run.writing("model") as folder, without_progress_bars():
        model.save_pretrained(folder)
    reading.save(run.path)
    if decoding.threshold is None and parts.validation is not None:
        reader = Reader(model, reading, decoding, device=str(model.device))
        threshold = find_threshold(reader, parts.validation, parts.language)
        decoding = replace(decoding, threshold=threshold)
    save_decoding(run.path, decoding)
    folders = files_in(run, TOKENIZER_FOLDER, "model")
    run.finish(["config.yaml", READING_FILE, DECODING_FILE, *folders])
    report_once(run, parts)


def report_once(run: RunDir, parts: QuestionParts | None = None) -> None:
    """Evaluate a trained run on its validation and test part, unless an earlier call has.

    Args:
        run: a finished run.
        parts: its questions, where they are at hand; else they are read again.
    """
    if is_reported(run):
        return
    if parts is None:
        parts = read_parts(data_settings_of(run, QuestionData))
    with naming_plugins_of(run):
        reader = Reader.load(run.path, device=run.read_config()["training"]["device"])
    evaluations = {}
    for name, questions in parts.evaluated.items():
        with stage(f"evaluate the {name} part"):
            evaluations[name] = evaluate_reader(reader, questions, parts.language)
        with run.writing(f"predictions-{name}.parquet") as aside:
            answer_table(evaluations[name]).to_parquet(aside, index=False)
    run.write_json("metrics.json", {n: _figures(e, reader) for n, e in evaluations.items()})
    run.write_text("report.html", _report(run, reader, parts, evaluations))
    logger.info("%s is finished: %s", run.path, run.report)


def answer_table(evaluated: Evaluated) -> pd.DataFrame:
    """Return questions, accepted answers, answers and their scores; two runs can be compared."""
    answers = evaluated.answers
    return pd.DataFrame(
        {
            "id": [question.id for question in evaluated.questions],
            "question": evaluated.questions.texts,
            "accepted": [list(question.answers) for question in evaluated.questions],
            "answer": [answer.text for answer in answers],
            "start": [answer.start for answer in answers],
            "end": [answer.end for answer in answers],
            "probability": [answer.probability for answer in answers],
            "has_answer": [answer.has_answer for answer in answers],
            "exact_match": evaluated.scores.exact_match_Q,
            "f1": evaluated.scores.f1_Q,
        }
    )


def _figures(evaluated: Evaluated, reader: Reader) -> dict[str, Any]:
    figures: dict[str, Any] = {"questions": len(evaluated.questions)} | evaluated.scores.means()
    if reader.decoding.threshold is not None:
        figures["threshold"] = reader.decoding.threshold
    return figures | {
        "intervals": {name: list(bounds) for name, bounds in reading_intervals(evaluated).items()}
    }


def _report(
    run: RunDir, reader: Reader, parts: QuestionParts, evaluations: dict[str, Evaluated]
) -> str:
    config = run.read_config()
    has_fusion = config["reader"] != "dgcnn"
    facts = {
        "Parameters": f"{reader.model.num_parameters():,}",
        "Training questions": f"{len(parts.train):,}",
        "Without an answer": f"{parts.train.num_unanswerable:,}",
        "Training contexts": f"{len(set(parts.train.contexts)):,}",
    }
    return reading_report_html(
        ReportContent(
            title=f"{run.path.name}: {config['data']['train']}",
            language=parts.language,
            evaluations=evaluations,
            threshold=reader.decoding.threshold,
            curve=run.read_json("curve.json"),
            metric=config["training"]["metric"] or F1,
            settings=config,
            facts=facts,
            layer_weights=layer_weights(reader.model.backbone.fusion) if has_fusion else {},
        )
    )
