"""python -m benchmarks.pair_baseline: transformers' Trainer on pairs of texts, for a comparison.

AutoModelForSequenceClassification with its own head and loss, in float32, batches padded to their
longest, AdamW with decay 0.01, linear schedule with 10 % warm-up; what is not named is Trainer's
default. Reads what benchmarks/question_pairs.py wrote. Writes seconds.json, and the logits of the
held-out rows (logits.npy) and of those that a threshold may be found on (logits-tune.npy).
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from benchmarks.text_baseline import Rows, predict
from benchmarks.text_sets import read_rows


class Pairs(Rows):
    """Pairs, tokenized once; a row is a dict, as Trainer's collator expects."""

    def __init__(
        self, rows: list[dict], tokenizer: Any, max_length: int, *, labelled: bool = False
    ) -> None:
        firsts, seconds = ([row[name] for row in rows] for name in ("text_a", "text_b"))
        self.encoded = tokenizer(firsts, seconds, truncation=True, max_length=max_length)
        self.labels = [int(row["label"]) for row in rows] if labelled else None


def main() -> None:
    """Train, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="of the three files of rows")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("seed", "epochs", "batch", "max-length"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    train = Pairs(
        read_rows(given.folder / "train.jsonl"), tokenizer, given.max_length, labelled=True
    )
    torch.manual_seed(given.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        given.model, num_labels=2, dtype=torch.float32
    )
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
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    collator = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model=model, args=arguments, train_dataset=train, data_collator=collator)
    start = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - start
    given.out.mkdir(parents=True, exist_ok=True)
    for part, file in (("held_out", "logits.npy"), ("tune", "logits-tune.npy")):
        rows = read_rows(given.folder / f"{part}.jsonl")
        np.save(given.out / file, predict(trainer, Pairs(rows, tokenizer, given.max_length)))
    measured = {"seconds": seconds, "steps": trainer.state.global_step}
    (given.out / "seconds.json").write_text(json.dumps(measured) + "\n", encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
