"""How long is a step of training towers, by idbert and by sentence-transformers alone?

    python -m benchmarks.tower_training --data stsb_en/train.jsonl --model MODEL --write

Both train the same model on the same pairs with the same batches, loss (CoSENT), optimizer and
dropout rate; only the numbers of dropout differ where texts are grouped by length. Each form is a
process of its own; a step counts behind the first ones, with its tokenization, optimizer and
schedule.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks import report
from benchmarks.peers import in_own_process
from benchmarks.quiet import in_turn, own_cpu_s, quiet_ones
from benchmarks.resident import peak_mib

THEIRS = "sentence-transformers"
FORMS = {
    f"{THEIRS}, float32": {"by_length": None, "precision": "float32"},
    "idbert, float32": {"by_length": False, "precision": "float32"},
    "idbert, float32, by length": {"by_length": True, "precision": "float32"},
    f"{THEIRS}, bfloat16": {"by_length": None, "precision": "bfloat16"},
    "idbert, bfloat16": {"by_length": True, "precision": "bfloat16"},
}


class Clock(TrainerCallback):
    """Takes the time behind the first steps and behind the last."""

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup
        self.ticks: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Take the time."""
        if state.global_step >= self._warmup:
            self.ticks.append((time.perf_counter(), own_cpu_s()))


def measure(work: dict[str, Any]) -> dict[str, float]:
    """Train for some steps in this process."""
    torch.set_num_threads(work["threads"])
    clock = Clock(work["warmup"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = (theirs if work["by_length"] is None else ours)(work, folder, clock)
        trainer.train()
    (began, cpu_began), (ended, cpu_ended) = clock.ticks[0], clock.ticks[-1]
    steps = len(clock.ticks) - 1
    return {
        "seconds": (ended - began) / steps,
        "cpu_seconds": (cpu_ended - cpu_began) / steps,
        "peak_mib": peak_mib(),
    }


def ours(work: dict[str, Any], folder: str, clock: Clock) -> Any:
    """Return idbert's trainer."""
    from idbert.training.arguments import TrainingSettings
    from nlp_tasks.match.losses import build_loss, find_loss
    from nlp_tasks.match.settings import MatchBatchSettings, MatchLossSettings, TowerSettings
    from nlp_tasks.match.towers import build_towers
    from nlp_tasks.match.training import build_match_trainer

    examples = pairs_of(work)
    towers = build_towers(work["model"], TowerSettings(max_length=work["max_length"]))
    loss = find_loss(MatchLossSettings("cosent"), examples)
    return build_match_trainer(
        towers,
        loss,
        build_loss(loss, towers, examples),
        examples,
        MatchBatchSettings(work["batch"], by_length=work["by_length"]),
        TrainingSettings(
            max_steps=work["steps"],
            learning_rate=5e-5,
            precision=work["precision"],
            metric=None,
            seed=1,
        ),
        output_dir=folder,
        callbacks=[clock],
    )


def theirs(work: dict[str, Any], folder: str, clock: Clock) -> Any:
    """Return sentence-transformers' trainer."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss
    from sentence_transformers.sentence_transformer.training_args import (
        SentenceTransformerTrainingArguments,
    )

    examples = pairs_of(work)
    towers = SentenceTransformer(work["model"]).float()
    towers.max_seq_length = work["max_length"]
    columns = {
        "first": examples.firsts,
        "second": examples.seconds,
        "label": examples.cosine_targets().tolist(),
    }
    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder,
        max_steps=work["steps"],
        per_device_train_batch_size=work["batch"],
        learning_rate=5e-5,
        weight_decay=0.01,
        warmup_steps=0.1,
        seed=1,
        bf16=work["precision"] == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    return SentenceTransformerTrainer(
        model=towers,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        loss=CoSENTLoss(towers),
        callbacks=[clock],
    )


def pairs_of(work: dict[str, Any]) -> Any:
    """Read the pairs."""
    from nlp_tasks.match.pairs import PairSettings, read_pairs

    return read_pairs(work["data"], PairSettings(kind="score"))


def main(arguments: list[str] | None = None) -> None:
    """Measure all forms in turn and publish the table."""
    parser = report.new_parser(__doc__)
    parser.add_argument("--data", required=True, help="pairs with scores")
    parser.add_argument("--model", required=True, help="a folder: a sentence encoder")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=10, help="steps that are not counted")
    parser.add_argument("--threads", type=int, default=2)
    options = report.parse(parser, arguments, steps=4, warmup=2)
    names = ("data", "model", "batch", "max_length", "steps", "warmup", "threads")
    work = {name: getattr(options, name) for name in names}
    forms = {
        name: partial(
            in_own_process, "tower_training", ["--work", json.dumps(work | form)], options.threads
        )
        for name, form in FORMS.items()
    }
    measured, failures = in_turn(forms, options.passes, options.wait)
    publish(options, measured, failures)


def publish(options: argparse.Namespace, measured: Any, failures: dict[str, str]) -> None:
    """Write the table."""
    rates = {
        who: [1 / one["seconds"] for one in quiet_ones(passes)] for who, passes in measured.items()
    }
    header = ["", "s a step", "CPU s a step", "times", "peak MiB", "foreign"]
    rows = [
        [
            who,
            report.spread([one["seconds"] for one in quiet_ones(passes)], ".3f"),
            report.spread([one["cpu_seconds"] for one in quiet_ones(passes)], ".3f"),
            report.times(rates[who], rates.get(f"{THEIRS}, float32", [])),
            report.spread([one["peak_mib"] for one in quiet_ones(passes)]),
            report.foreign(passes),
        ]
        for who, passes in measured.items()
    ]
    rows += [report.failed_row(who, why, len(header)) for who, why in failures.items()]
    title = f"A step of training towers, {options.threads} threads"
    notes = [
        f"{options.batch} pairs a step, CoSENT, {options.steps - options.warmup} steps; `times` is "
        "the speed against the first line.",
    ]
    section = report.Report(
        "tower-training",
        title,
        report.markdown(header, rows),
        notes,
        report.bars(title, rates, "steps a second"),
    )
    report.publish(section, "tower_training", options)
    report.check_own(failures)


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["--work"]:
        print(f"RESULT {json.dumps(measure(json.loads(sys.argv[2])))}")
    else:
        main()
