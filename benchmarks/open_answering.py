"""python -m benchmarks.open_answering: questions answered out of a collection of paragraphs.

The contexts of a file of questions (CMRC2018's dev: 848) are one collection. Printed, and kept in
OUT/recall.json: recall of each question's own context at 1, 10 and 50, and questions a second, of
BM25 (both engines), of the towers, and of both fused by ranks and by scores. With --reader also, in
OUT/answers.json: exact match and F1 of 300 fixed questions end to end, questions a second, and what
became of the questions. The weights of the score, and by which recall and with how many paragraphs
it is read, are chosen on 100 other questions of the same file, whose contexts the 300 do not have.
"""

import argparse
import json
import logging
import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np

from idbert.files import written_aside
from idbert.retrieval.bm25 import BM25Settings
from nlp_tasks.mrc.answering import Answerer, AnswerScoreSettings
from nlp_tasks.mrc.formats import read_questions
from nlp_tasks.mrc.paragraphs import Collection
from nlp_tasks.mrc.reader import Reader
from nlp_tasks.mrc.recall import (
    DEPTHS,
    FusedRecall,
    RecallSettings,
    answering,
    build_recall,
    first_ranks,
    recall_figures,
)
from nlp_tasks.mrc.retrieval_report import answer_intervals, answer_metrics, judge

NUM_TUNING = 100
K_PARAGRAPHS = (1, 3, 10)
WEIGHTS = (0.0, 0.5, 1.0, 2.0)
"""Of the paragraph, beside a span that counts 1."""


class Remembered:
    """A way to find rows that searches each list of queries once, for it is asked again."""

    def __init__(self, recall, depth: int) -> None:
        self._recall, self._depth, self._kept = recall, depth, {}

    def search(self, queries, k: int):
        """Return scores and rows of the best k."""
        key = tuple(queries)
        if key not in self._kept:
            self._kept[key] = self._recall.search(list(queries), self._depth)
        return tuple(part[:, :k] for part in self._kept[key])


def main() -> None:
    """Measure recall, then answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", required=True, help="a file of questions")
    parser.add_argument("--towers", help="a run of nlp_match, or any sentence encoder")
    parser.add_argument("--reader", help="a finished run of nlp_mrc")
    parser.add_argument("--count", type=int, default=300, help="questions that are answered")
    parser.add_argument("--seed", type=int, default=0, help="which questions are answered")
    parser.add_argument("--out", type=Path, default=Path("runs/open-answering"))
    given = parser.parse_args()
    questions = read_questions(given.questions)
    collection = Collection.of_contexts(questions)
    print(f"{len(questions)} questions, {len(collection)} paragraphs")
    recalls = ways_of(collection, given.towers)
    measure_recall(recalls, questions, collection, given.out / "recall.json")
    if given.reader is not None:
        tuning, fixed = choose_questions(questions, given.count, given.seed)
        reader = Reader.load(given.reader)
        figures = measure_answers(reader, collection, recalls, tuning, fixed)
        write(given.out / "answers.json", {"reader": given.reader} | figures)


def ways_of(collection: Collection, towers: str | None) -> dict:
    """Return every way to find paragraphs, by its name."""
    ways = {}
    for engine in ("rank-bm25", "bm25s"):
        settings = RecallSettings(bm25=BM25Settings(engine=engine))
        ways[f"BM25 ({engine})"] = build_recall(collection.texts, settings)
    if towers is not None:
        ways["towers"] = build_recall(
            collection.texts, RecallSettings(method="towers", towers=towers)
        )
        for fusion in ("ranks", "scores"):
            settings = RecallSettings(method="fused", towers=towers, fusion=fusion)
            parts = [ways["BM25 (rank-bm25)"], ways["towers"]]
            ways[f"fused by {fusion}"] = FusedRecall(parts, [0.5, 0.5], settings)
    return {name: Remembered(way, max(DEPTHS)) for name, way in ways.items()}


def measure_recall(recalls: dict, questions, collection: Collection, path: Path) -> None:
    """Print recall of each question's own context."""
    print("\n| | " + " | ".join(f"recall@{k}" for k in DEPTHS) + " | MRR | questions/s |")
    print("|---|" + "---|" * (len(DEPTHS) + 2))
    table = {}
    for name, recall in recalls.items():
        started = time.monotonic()
        _, rows_QK = recall.search(questions.texts, max(DEPTHS))
        rate = len(questions) / (time.monotonic() - started)
        figures = recall_figures(first_ranks(answering(questions.rows, collection, rows_QK)))
        shown = " | ".join(f"{figures[key]:.4f}" for key in figures)
        print(f"| {name} | {shown} | {rate:.0f} |", flush=True)
        table[name] = figures | {"questions_per_second": rate}
    write(path, table)


def choose_questions(questions, count: int, seed: int) -> tuple:
    """Draw questions to tune on and questions to report, of different contexts."""
    order = np.random.default_rng(seed).permutation(len(questions)).tolist()
    fixed = order[:count]
    taken = {questions[place].context for place in fixed}
    others = [place for place in order[count:] if questions[place].context not in taken]
    return questions.take(others[:NUM_TUNING]), questions.take(fixed)


def measure_answers(reader, collection, recalls, tuning, fixed) -> dict:
    """Choose recall, depth and weights on the one part, and print the figures of the other."""
    best, chosen = -1.0, None
    remembered = RememberedReader(reader)
    for (name, recall), k in product(recalls.items(), K_PARAGRAPHS):
        for weight, has_answer in product(WEIGHTS, (0.0, 1.0)):
            scores = AnswerScoreSettings(
                paragraph=weight, span=1.0, has_answer=has_answer, may_refuse=False
            )
            judged, _ = answered(remembered, collection, recall, tuning, k, scores)
            metrics = answer_metrics(judged)
            if metrics["f1"] > best:
                best, chosen = metrics["f1"], (name, k, scores)
    name, k, scores = chosen
    print(f"\nchosen on {len(tuning)} other questions (F1 {best:.4f}): {name}, {k}, {scores}")
    judged, rate = answered(reader, collection, recalls[name]._recall, fixed, k, scores)
    metrics, intervals = answer_metrics(judged), answer_intervals(judged)
    kinds = Counter(one.kind for one in judged)
    print(f"{len(judged)} questions, {rate:.2f} a second")
    for key, value in metrics.items():
        low, high = intervals.get(key, (value, value))
        print(f"{key}: {value:.4f} ({low:.4f} to {high:.4f})")
    print(dict(kinds))
    return {
        "recall": name,
        "k_paragraphs": k,
        "scores": vars(scores),
        "questions_per_second": rate,
        "metrics": metrics,
        "intervals": {key: list(interval) for key, interval in intervals.items()},
        "kinds": dict(kinds),
        "ids": [one.question.id for one in judged],
        "f1": [one.f1 for one in judged],
    }


def answered(reader, collection, recall, questions, k: int, scores) -> tuple:
    """Answer and judge; return also how many questions a second."""
    answerer = Answerer(reader, collection, recall, scores)
    started = time.monotonic()
    found_scores, rows_QK = answerer.find(questions.texts, k)
    answers = answerer.read(questions.texts, found_scores, rows_QK)
    rate = len(questions) / (time.monotonic() - started)
    _, rows_QK = answerer.find(questions.texts, max(DEPTHS))
    return judge(questions.rows, answers, collection, rows_QK, k), rate


class RememberedReader:
    """A reader that reads a question with a context once: recalls find the same ones again."""

    def __init__(self, reader) -> None:
        self._reader, self._kept = reader, {}

    def answer(self, questions, contexts, *, n_best: int = 1):
        """Return the answers, of which only those are read that are new."""
        pairs = list(zip(questions, contexts, strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._kept]
        read = self._reader.answer(*zip(*new, strict=True), n_best=n_best) if new else []
        self._kept |= zip(new, read, strict=True)
        return [self._kept[pair] for pair in pairs]


def write(path: Path, value: dict) -> None:
    """Write figures as JSON."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
