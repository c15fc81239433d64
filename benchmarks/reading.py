"""python -m benchmarks.reading: our readers and a plain transformers loop on the same questions.

Trains on CMRC2018's trial set (its two questions without a text left out) and answers fixed
questions of its dev set: our reader, transformers' Trainer with AutoModelForQuestionAnswering at
the same settings (benchmarks/reading_baseline.py), and DGCNN without a pretrained encoder. What is
finished is not done again. With --tuning, settings can be chosen on dev questions about contexts
that the fixed ones do not have; with another --out, then. Prints exact match and F1 (CMRC2018's
own, times 100), seconds, and the paired bootstrap interval of ours minus plain over questions, the
seeds averaged.

    python -m benchmarks.reading --questions CMRC2018 --model MODEL --out OUT
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from idbert.evaluation.bootstrap import paired
from idbert.files import digest_of, written_aside
from nlp_tasks.mrc import AnswerSettings, Questions, read_questions
from nlp_tasks.mrc.metrics import ReadingScores, language_of, score_answers

FIXED = 1000
"""Dev questions that are reported, and never tuned on."""
NUM_SPECIAL = 4
"""Special tokens of a pair, at most (RoBERTa's)."""
USUAL_QUESTION = 20
"""Tokens of a question; what is left of a window is context."""


def main() -> None:
    """Train and answer what is not there yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--questions", type=Path, required=True, help="train.jsonl and dev.jsonl")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--overlap", type=int, default=128, help="tokens that windows share")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--count", type=int, default=FIXED, help="dev questions")
    parser.add_argument("--tuning", action="store_true", help="ask other dev questions")
    parser.add_argument("--dgcnn-epochs", type=int, default=30)
    parser.add_argument("--only", nargs="+", default=["ours", "plain", "dgcnn"])
    parser.add_argument(
        "--ours", nargs="*", default=[], metavar="NAME=VALUE", help="more settings of our reader"
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    train = read_questions(given.questions / "train.jsonl", AnswerSettings(empty_questions="drop"))
    dev = read_questions(given.questions / "dev.jsonl")
    order = np.random.default_rng(0).permutation(len(dev))
    asked = dev.take(np.sort(order[: given.count]))
    if given.tuning:
        fixed = dev.take(order[: max(given.count, FIXED)])
        asked = other_questions(dev, fixed, given.count)
    write(train, given.out / "train.jsonl")
    write(asked, given.out / "test.jsonl")
    scores = {name: [run(name, seed, given, asked) for seed in given.seeds] for name in given.only}
    report(scores, given.out)


def other_questions(dev: Questions, fixed: Questions, count: int) -> Questions:
    """Return up to so many questions about contexts that the fixed ones do not have."""
    taken = set(fixed.contexts)
    free = [place for place, question in enumerate(dev) if question.context not in taken]
    return dev.take(free[:count])


def run(name: str, seed: int, given: argparse.Namespace, asked: Questions) -> ReadingScores:
    """Return the scores of one training, which is begun only where it is not finished.

    Seconds are kept of a training without an interruption.
    """
    folder = given.out / f"{name}-{seed}"
    module, settings = (
        ("benchmarks.reading_baseline", plain_settings(given, seed, folder))
        if name == "plain"
        else ("pipelines.nlp_mrc", our_settings(given, name, seed, folder))
    )
    refuse_others(given.out, folder, [module, *map(str, settings)])
    answers = folder / ("answers.json" if name == "plain" else "predictions-test.parquet")
    if not answers.exists():
        is_whole, begun = not folder.exists(), time.monotonic()
        subprocess.run([sys.executable, "-m", module, *map(str, settings)], check=True)
        if is_whole:
            (folder / "seconds.json").write_text(json.dumps(time.monotonic() - begun))
    if name == "plain":
        texts = json.loads(answers.read_text(encoding="utf-8"))
    else:
        texts = pd.read_parquet(answers)["answer"].tolist()
    return score_answers(texts, asked.rows, language_of(asked.rows))


def refuse_others(out: Path, folder: Path, command: list[str]) -> None:
    """Stop where a folder was made by other settings or of other questions."""
    digests = [digest_of(out / f"{part}.jsonl")["sha256"] for part in ("train", "test")]
    made = {"command": command, "questions": digests}
    record = out / f"{folder.name}.json"
    there = json.loads(record.read_text(encoding="utf-8")) if record.exists() else made
    if folder.exists() and there != made:
        sys.exit(
            f"{folder} was made by other settings, or of other questions, as {record} says. Name "
            "another --out, or delete both."
        )
    with written_aside(record) as aside:
        aside.write_text(json.dumps(made, indent=2, ensure_ascii=False), encoding="utf-8")


def our_settings(given: argparse.Namespace, name: str, seed: int, folder: Path) -> list[object]:
    """Return the command line of nlp_mrc; the last weights are kept, as by the plain loop."""
    settings: list[object] = ["--run", folder, "--data.train", given.out / "train.jsonl"]
    settings += ["--data.test", given.out / "test.jsonl", "--data.dev_share=0"]
    settings += [f"--training.seed={seed}"]
    if name == "dgcnn":
        # A character is a token here, so that as many tokens hold less.
        settings += ["--reader=dgcnn", f"--training.epochs={given.dgcnn_epochs}"]
        settings += ["--windows.max_length=512", "--windows.stride=256"]
        settings += ["--decoding.max_answer_length=100"]
        return [*settings, "--training.learning_rate=1e-3", "--batches.token_budget=8192"]
    stride = given.max_length - NUM_SPECIAL - USUAL_QUESTION - given.overlap
    settings += ["--model", given.model, f"--windows.max_length={given.max_length}"]
    settings += [f"--windows.stride={stride}", f"--batches.max_sequences={given.batch}"]
    settings += [f"--batches.token_budget={given.batch * given.max_length}"]
    settings += [f"--training.epochs={given.epochs}"]
    settings += [f"--training.precision={given.precision}"]
    return [
        *settings,
        f"--training.learning_rate={given.learning_rate}",
        *(f"--{setting}" for setting in given.ours),
    ]


def plain_settings(given: argparse.Namespace, seed: int, folder: Path) -> list[object]:
    """Return the command line of the plain loop."""
    return [
        *("--train", given.out / "train.jsonl", "--test", given.out / "test.jsonl"),
        *("--model", given.model, "--out", folder, "--seed", seed, "--epochs", given.epochs),
        *("--learning-rate", given.learning_rate, "--max-length", given.max_length),
        *("--overlap", given.overlap, "--batch", given.batch, "--precision", given.precision),
    ]


def write(questions: Questions, path: Path) -> None:
    """Write questions as JSON lines."""
    lines = [
        json.dumps(
            {
                "id": question.id,
                "question": question.text,
                "context": question.context,
                "answers": {"text": question.answers, "answer_start": question.starts},
            },
            ensure_ascii=False,
        )
        for question in questions
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def report(scores: dict[str, list[ReadingScores]], out: Path) -> None:
    """Print a row for each reader, and the paired difference of ours and plain."""
    print("| reader | exact match | F1 | seconds, training and answers |\n|---|---|---|---|")
    for name, runs in scores.items():
        exact = [100 * run.exact_match_Q.mean() for run in runs]
        overlap = [100 * run.f1_Q.mean() for run in runs]
        files = sorted(out.glob(f"{name}-*/seconds.json"))
        seconds = [json.loads(file.read_text()) for file in files]
        print(
            f"| {name} | {np.mean(exact):.2f} | {np.mean(overlap):.2f} | "
            f"{', '.join(f'{each:.0f}' for each in seconds)} |"
        )
    if not {"ours", "plain"} <= scores.keys():
        return
    for field in ("exact_match_Q", "f1_Q"):
        ours, plain = (
            100 * np.mean([getattr(run, field) for run in scores[name]], axis=0)
            for name in ("ours", "plain")
        )
        difference, low, high = paired(ours, plain)
        print(f"ours - plain, {field[:-2]}: {difference:+.2f} ({low:+.2f} to {high:+.2f})")


if __name__ == "__main__":
    main()
