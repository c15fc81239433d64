"""python -m benchmarks.reading_baseline: transformers' Trainer on questions, for a comparison.

AutoModelForQuestionAnswering with its own head and loss, contexts cut by the tokenizer's overflow,
AdamW with decay 0.01, linear schedule with 10 % warm-up, batches padded to their longest, bfloat16
by Trainer's autocast, answers in float32; what is not named is Trainer's default. Answers are the
best of the 20 best starts and ends of every window, up to 50 tokens long. Writes answers.json, in
the order of the questions.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from idbert.files import written_aside

N_BEST, LONGEST = 20, 50


class Windows(torch.utils.data.Dataset):
    """Questions and contexts, tokenized once; a row is a dict, as Trainer's collator expects."""

    def __init__(self, rows: list[dict], tokenizer: Any, given: argparse.Namespace) -> None:
        self.encoded = tokenizer(
            [row["question"] for row in rows],
            [row["context"] for row in rows],
            truncation="only_second",
            max_length=given.max_length,
            stride=given.overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        self.rows = self.encoded.pop("overflow_to_sample_mapping")
        self.offsets = self.encoded.pop("offset_mapping")
        self.labels = [self._label(place, rows[row]) for place, row in enumerate(self.rows)]

    def context_tokens(self, place: int) -> list[int]:
        """Return the positions of a window's context."""
        owners = self.encoded.sequence_ids(place)
        return [position for position, owner in enumerate(owners) if owner == 1]

    def _label(self, place: int, row: dict) -> tuple[int, int]:
        if not row["answers"]["text"]:
            return 0, 0
        start = row["answers"]["answer_start"][0]
        end = start + len(row["answers"]["text"][0])
        tokens, offsets = self.context_tokens(place), self.offsets[place]
        if not tokens or offsets[tokens[0]][0] > start or offsets[tokens[-1]][1] < end:
            return 0, 0
        first = max(token for token in tokens if offsets[token][0] <= start)
        last = min(token for token in tokens if offsets[token][1] >= end)
        return first, max(first, last)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> dict:
        row = {name: values[place] for name, values in self.encoded.items()}
        start, end = self.labels[place]
        return row | {"start_positions": start, "end_positions": end}


def main() -> None:
    """Train, answer, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("train", "test", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", required=True)
    for name in ("seed", "epochs", "max-length", "overlap", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), required=True)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    train, test = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (given.train, given.test)
    )
    torch.manual_seed(given.seed)
    model = AutoModelForQuestionAnswering.from_pretrained(given.model, dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=str(given.out / "unused"),
        per_device_train_batch_size=given.batch,
        per_device_eval_batch_size=given.batch,
        num_train_epochs=given.epochs,
        learning_rate=given.learning_rate,
        weight_decay=0.01,
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        seed=given.seed,
        bf16=given.precision == "bfloat16",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Windows(train, tokenizer, given),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    answers = answer(model, Windows(test, tokenizer, given), test, tokenizer, given.batch)
    with written_aside(given.out / "answers.json") as aside:
        aside.write_text(json.dumps(answers, ensure_ascii=False, indent=0), encoding="utf-8")


@torch.inference_mode()
def answer(model: Any, windows: Windows, rows: list[dict], tokenizer: Any, batch: int) -> list[str]:
    """Return the best span of each question."""
    model.eval()
    collator = DataCollatorWithPadding(tokenizer)
    best = [(-np.inf, "")] * len(rows)
    order = np.argsort([-len(ids) for ids in windows.encoded["input_ids"]], kind="stable")
    for first in range(0, len(order), batch):
        places = order[first : first + batch].tolist()
        inputs = collator([windows[place] for place in places])
        inputs = {
            name: tensor.to(model.device)
            for name, tensor in inputs.items()
            if not name.endswith("_positions")
        }
        output = model(**inputs)
        for row, place in enumerate(places):
            found = best_span(
                output.start_logits[row].cpu().numpy(),
                output.end_logits[row].cpu().numpy(),
                windows.context_tokens(place),
            )
            if found is not None and found[0] > best[windows.rows[place]][0]:
                score, start, end = found
                offsets, question = windows.offsets[place], windows.rows[place]
                context = rows[question]["context"]
                best[question] = (score, context[offsets[start][0] : offsets[end][1]])
    return [text.strip() for _, text in best]


def best_span(
    start: np.ndarray, end: np.ndarray, tokens: list[int]
) -> tuple[float, int, int] | None:
    """Return score, start and end of the best span among the best starts and ends."""
    if not tokens:
        return None
    starts = sorted(tokens, key=lambda token: -start[token])[:N_BEST]
    ends = sorted(tokens, key=lambda token: -end[token])[:N_BEST]
    spans = [(float(start[a] + end[b]), a, b) for a in starts for b in ends if a <= b < a + LONGEST]
    return max(spans) if spans else None


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
