"""python -m pipelines.nlp_predict: labels and probabilities for a file of texts."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from idbert.errors import ConfigError
from idbert.run_dir import RunDir
from nlp_tasks.cls.classifier import STAGE, Classifier
from nlp_tasks.cls.examples import texts_of
from nlp_tasks.cls.parts import ClassificationData
from nlp_tasks.cls.prediction import TOKEN_BUDGET
from nlp_tasks.tables import read_table
from pipelines.cli import logger, naming_plugins_of, run_command
from pipelines.nlp_corridor import data_settings_of
from pipelines.nlp_output import FORMATS, PredictedParts, check_columns, write_predictions


@dataclass(frozen=True)
class NlpPredictSettings:
    """Which texts, by which run, and where to."""

    run: str = "runs/nlp_cls"
    """The finished run of nlp_cls."""
    input: str = "data/samples/reviews-new.jsonl"
    """Texts: a jsonl, csv, tsv or parquet file with the text columns of the run's training."""
    output: str = "predictions.jsonl"
    """A .jsonl, .csv or .parquet file: the input's rows and columns in their order, and prediction
    and probability; for several labels both are lists, a number has no probability."""
    text_columns: tuple[str, ...] | None = None
    """The columns of the texts. Default: those of the training."""
    probabilities: bool = False
    """Whether every label gets a column of its probability."""
    allow_empty: bool = False
    """Whether texts may be empty; they are then predicted from the special tokens alone."""
    chunk_rows: int = 20_000
    """Rows after which what is done is saved. The same command goes on from there."""
    token_budget: int = TOKEN_BUDGET
    """Tokens of a batch, padding included."""
    device: str = "auto"
    """auto: the GPU where there is one; cpu."""

    def __post_init__(self) -> None:
        if Path(self.output).suffix not in FORMATS:
            raise ConfigError(
                f"output is {self.output}; it must end in {', '.join(FORMATS[:-1])} or "
                f"{FORMATS[-1]}."
            )
        for name in ("chunk_rows", "token_budget"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")


def main(config: NlpPredictSettings) -> None:
    """Predict labels, or numbers, for the texts of a file.

    Texts are sorted by length within a chunk of rows, so that little is padded. Finished chunks lie
    in OUTPUT.parts until all are there; the same command, given again, goes on behind them.
    """
    run = RunDir.open(config.run, [STAGE])
    with naming_plugins_of(run):
        classifier = Classifier.load(
            config.run, device=config.device, token_budget=config.token_budget
        )
    settings = data_settings_of(run, ClassificationData)
    if config.text_columns is not None:
        settings = replace(settings, text_columns=config.text_columns)
    table = read_table(config.input, quotes=settings.quotes)
    texts, pairs = texts_of(table, settings, allow_empty=config.allow_empty)
    output = Path(config.output)
    check_columns(table, classifier.labels, output, probabilities=config.probabilities)
    parts = PredictedParts.open(
        output,
        run,
        Path(config.input).expanduser(),
        {"text_columns": list(settings.text_columns), "probabilities": config.probabilities},
        config.chunk_rows,
    )
    begun = time.monotonic()
    for chunk in parts.missing(len(texts)):
        predicted = classifier.predict(
            texts[chunk],
            None if pairs is None else pairs[chunk],
            allow_empty=config.allow_empty,
            probabilities=config.probabilities,
        )
        parts.write(chunk, predicted)
        rate = (chunk.stop - parts.first) / (time.monotonic() - begun)
        logger.info("%d of %d texts, %.0f a second", chunk.stop, len(texts), rate)
    write_predictions(
        output,
        table,
        parts.read(),
        classifier.labels,
        separator=settings.label_separator,
        probabilities=config.probabilities,
    )
    parts.remove()
    logger.info("%d predictions in %s", len(texts), output)


if __name__ == "__main__":
    run_command(main, NlpPredictSettings)
