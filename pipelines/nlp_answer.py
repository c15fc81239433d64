"""python -m pipelines.nlp_answer: answers to questions out of a folder of documents."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from idbert.errors import ConfigError
from idbert.files import written_aside
from idbert.run_dir import RunDir
from nlp_tasks.mrc.answering import Answerer, AnswerScoreSettings, FoundAnswer
from nlp_tasks.mrc.answers import AnswerSettings
from nlp_tasks.mrc.documents import DocumentColumns
from nlp_tasks.mrc.formats import Question, Questions
from nlp_tasks.mrc.open_questions import read_open_questions
from nlp_tasks.mrc.paragraphs import ParagraphSettings
from nlp_tasks.mrc.reader import STAGE
from nlp_tasks.mrc.recall import DEPTHS, RecallSettings
from nlp_tasks.mrc.retrieval_report import (
    AnsweredQuestion,
    AnswerReport,
    answer_metrics,
    answer_report_html,
    judge,
)
from pipelines.cli import logger, naming_plugins_of, run_command, stage
from pipelines.corridor import as_dict
from pipelines.nlp_output import FORMATS, PredictedParts

QUESTIONS_AT_ONCE = 32
"""So many are read before the bar moves, and what is done is saved."""
SHOWN_QUESTIONS = 20
"""Questions whose answers are printed; a file receives all."""


@dataclass(frozen=True)
class NlpAnswerSettings:
    """Which questions, of which documents, and where to."""

    documents: str = "data/samples/documents"
    """What is searched: a folder of .txt and .md files, or a jsonl, csv, tsv or parquet file with a
    document a row."""
    columns: DocumentColumns = field(default_factory=DocumentColumns)
    """Of a table of documents"""
    questions: str | None = None
    """A .txt file with a question a line; or a file as nlp_mrc reads it, whose contexts may be
    missing. Where it has answers, they are compared."""
    question: str | None = None
    """In place of questions: one, given by hand."""
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    """What is done about wrong questions of a file"""
    reader: str = "runs/nlp_mrc"
    """The finished run of nlp_mrc that reads the paragraphs."""
    paragraphs: ParagraphSettings = field(default_factory=ParagraphSettings)
    """How documents are cut"""
    recall: RecallSettings = field(default_factory=RecallSettings)
    """How paragraphs are found"""
    scores: AnswerScoreSettings = field(default_factory=AnswerScoreSettings)
    """What the score of an answer is made of"""
    k_paragraphs: int = 10
    """Paragraphs that are read for a question."""
    n_best: int = 1
    """Answers that are given to a question."""
    output: str | None = None
    """A .jsonl, .csv or .parquet file with an answer a row; default: print them. What is done lies
    in OUTPUT.parts until all is; the same command goes on from there. Where the questions have
    answers, NAME.metrics.json and NAME.report.html are written beside it."""
    device: str = "auto"
    """auto: the GPU where there is one; cpu."""

    def __post_init__(self) -> None:
        if (self.questions is None) == (self.question is None):
            raise ConfigError("give either questions, a file, or question, a text.")
        if self.question is not None and not self.question.strip():
            raise ConfigError("question is empty.")
        if self.output is not None and Path(self.output).suffix not in FORMATS:
            raise ConfigError(
                f"output is {self.output}; it must end in {', '.join(FORMATS[:-1])} or "
                f"{FORMATS[-1]}."
            )
        for name in ("k_paragraphs", "n_best"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")


def main(config: NlpAnswerSettings) -> None:
    """Answer questions out of documents.

    Documents are cut into paragraphs; those that may hold the answer are found by words, by
    sentence vectors or by both, and read by a run of nlp_mrc. Where the true answers are known,
    exact match, F1 and the recall of the right paragraph are computed, and a report shows the
    errors: not recalled, wrong paragraph, wrong span.
    """
    questions = _questions(config)
    run = RunDir.open(config.reader, [STAGE])
    with stage("read and index the documents"), naming_plugins_of(run):
        answerer = Answerer.load(
            config.reader,
            config.documents,
            columns=config.columns,
            paragraphs=config.paragraphs,
            recall=config.recall,
            scores=config.scores,
            device=config.device,
        )
    parts = _parts(config, run, answerer)
    started = time.monotonic()
    with stage("answer"):
        has_answers = any(question.has_answer for question in questions)
        depth = max(config.k_paragraphs, *DEPTHS) if has_answers else config.k_paragraphs
        scores_QK, rows_QK = answerer.find(questions.texts, depth)
        answers = _read(answerer, questions, scores_QK, rows_QK, config, parts)
    num_read = len(questions) - (0 if parts is None else min(parts.first, len(questions)))
    rate = num_read / (time.monotonic() - started)
    logger.info("%d questions read, %.1f a second", num_read, rate)
    if config.output is None:
        _print(questions, answers)
    else:
        _write(_table(questions, answers), Path(config.output))
    if has_answers:
        judged = judge(list(questions), answers, answerer.collection, rows_QK, config.k_paragraphs)
        _evaluate(config, answerer, judged, rows_QK.shape[1], rate)
    if parts is not None:
        parts.remove()


def _questions(config: NlpAnswerSettings) -> Questions:
    if config.questions is not None:
        return read_open_questions(config.questions, config.answers)
    assert config.question is not None
    return Questions([Question("question", config.question, "")], "question")


def _parts(config: NlpAnswerSettings, run: RunDir, answerer: Answerer) -> PredictedParts | None:
    """Return where finished answers are kept; None where they are not many, or are printed."""
    if config.output is None or config.questions is None:
        return None
    paragraphs = hashlib.blake2b(digest_size=16)
    for paragraph in answerer.collection.paragraphs:
        paragraphs.update(json.dumps([paragraph.id, paragraph.text]).encode())
    given = as_dict(config)
    names = ("answers", "recall", "scores", "k_paragraphs", "n_best")
    settings = {name: given[name] for name in names} | {"paragraphs": paragraphs.hexdigest()}
    source = Path(config.questions).expanduser()
    return PredictedParts.open(Path(config.output), run, source, settings, QUESTIONS_AT_ONCE)


def _read(
    answerer: Answerer,
    questions: Questions,
    scores_QK: np.ndarray,
    rows_QK: np.ndarray,
    config: NlpAnswerSettings,
    parts: PredictedParts | None,
) -> list[list[FoundAnswer]]:
    first = 0 if parts is None else parts.first
    answers: list[list[FoundAnswer]] = [[] for _ in questions]
    k, texts = config.k_paragraphs, questions.texts
    with tqdm(total=len(texts), initial=first, unit=" questions", disable=None, leave=False) as bar:
        for start in range(first, len(texts), QUESTIONS_AT_ONCE):
            chunk = slice(start, min(start + QUESTIONS_AT_ONCE, len(texts)))
            answers[chunk] = answerer.read(
                texts[chunk], scores_QK[chunk, :k], rows_QK[chunk, :k], n_best=config.n_best
            )
            if parts is not None:
                rows = [
                    {_PLACE: place} | asdict(answer)
                    for place in range(chunk.start, chunk.stop)
                    for answer in answers[place]
                ]
                parts.write(chunk, pd.DataFrame(rows, columns=[_PLACE, *_FIELDS]))
            bar.update(chunk.stop - chunk.start)
    if parts is not None and first:
        for row in _rows_before(parts, first):
            answers[row.pop(_PLACE)].append(FoundAnswer(**row))
    return answers


_PLACE = "place"
_FIELDS = tuple(FoundAnswer.__dataclass_fields__)


def _rows_before(parts: PredictedParts, first: int) -> list[dict[str, Any]]:
    """Return the answers, best first, of the questions that an earlier call has read."""
    table: pa.Table = parts.read()
    return [row for row in table.to_pylist() if row[_PLACE] < first]


def _table(questions: Questions, answers: Sequence[Sequence[FoundAnswer]]) -> pd.DataFrame:
    """Return an answer a row; a question without one keeps a row without values."""
    rows = []
    for question, best in zip(questions, answers, strict=True):
        asked = {"id": question.id, "question": question.text}
        for number, answer in enumerate(best or [None], start=1):
            given = {name: None if answer is None else getattr(answer, name) for name in _COLUMNS}
            rows.append(asked | {"answer_rank": None if answer is None else number} | given)
    table = pd.DataFrame(rows).rename(columns=_COLUMNS)
    integers = ["answer_rank", "start", "end", "paragraph_rank"]
    return table.astype(dict.fromkeys(integers, "Int64"))


_COLUMNS = {
    "text": "answer",
    "probability": "probability",
    "score": "score",
    "document": "document",
    "start": "start",
    "end": "end",
    "paragraph": "paragraph",
    "rank": "paragraph_rank",
    "paragraph_score": "paragraph_score",
    "has_answer": "has_answer",
}


def _write(table: pd.DataFrame, path: Path) -> None:
    with written_aside(path) as aside:
        if path.suffix == ".csv":
            table.to_csv(aside, index=False)
        elif path.suffix == ".parquet":
            table.to_parquet(aside, index=False)
        else:
            rows = table.astype(object).where(table.notna(), None).to_dict("records")
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    logger.info("%d answers in %s", int(table["answer"].notna().sum()), path)


def _print(questions: Questions, answers: Sequence[Sequence[FoundAnswer]]) -> None:
    for number, (question, best) in enumerate(zip(questions, answers, strict=True)):
        if number == SHOWN_QUESTIONS:
            print(f"... and {len(questions) - SHOWN_QUESTIONS} more; --output FILE writes all.")
            break
        print(f"\n{question.text}")
        for answer in best:
            place = f"{answer.paragraph}, characters {answer.start} to {answer.end}"
            print(f"  {answer.text}  ({answer.probability:.3f}; {place})")
        if not best:
            print("  no answer found")


def _evaluate(
    config: NlpAnswerSettings,
    answerer: Answerer,
    judged: Sequence[AnsweredQuestion],
    depth: int,
    rate: float,
) -> None:
    """Compute the figures; rate: questions a second, 0 where an earlier call has read them all."""
    metrics = answer_metrics(judged)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    logger.info("%d questions: %s", len(judged), shown)
    if config.output is None:
        return
    output = Path(config.output)
    with written_aside(output.with_suffix(".metrics.json")) as aside:
        figures = {"questions": len(judged), "questions_per_second": rate} | metrics
        aside.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    collection = answerer.collection
    report = AnswerReport(
        title=f"{output.stem}: {config.questions}",
        judged=judged,
        collection=collection,
        depth=depth,
        settings=as_dict(config),
        facts={
            "Questions": f"{len(judged):,}",
            "Paragraphs": f"{len(collection):,}",
            "Duplicates left out": f"{collection.num_duplicates:,}",
            "Questions a second": f"{rate:.1f}",
        },
    )
    with written_aside(output.with_suffix(".report.html")) as aside:
        aside.write_text(answer_report_html(report), encoding="utf-8")
    logger.info("%s is there to look at", output.with_suffix(".report.html"))


if __name__ == "__main__":
    run_command(main, NlpAnswerSettings)
