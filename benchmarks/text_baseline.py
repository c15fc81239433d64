"""python -m benchmarks.text_baseline: transformers' Trainer on one set, for a comparison.

AutoModelForSequenceClassification with its own head and loss, batches of 32 padded to their
longest, AdamW with decay 0.01, linear schedule with 10 % warm-up; what is not named is Trainer's
default. Writes seconds.json, and the logits of the
held-out rows (logits.npy) and of those that a recipe may be chosen on (logits-tune.npy).
"""

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from benchmarks.text_sets import SETS, label_names, read_rows, targets

BATCH_SIZE = 32


class Rows(torch.utils.data.Dataset):
    """Tokenised once; a row is a dict, as Trainer's collator expects."""

    def __init__(self, rows, tokenizer, max_length, labels=None) -> None:
        texts = [row["text"] for row in rows]
        self.encoded = tokenizer(texts, truncation=True, max_length=max_length)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.encoded["input_ids"])

    def __getitem__(self, place: int) -> dict:
        row = {name: values[place] for name, values in self.encoded.items()}
        return row if self.labels is None else row | {"labels": self.labels[place]}


def main() -> None:
    """Train, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="what prepare() wrote")
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--group-by-length", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--time-alone", action="store_true", help="predict nothing")
    given = parser.parse_args()
    chosen = SETS[given.set]
    names = label_names(given.folder, chosen.kind)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    rows = read_rows(given.folder / "train.jsonl")
    train = Rows(rows, tokenizer, chosen.max_length, targets(rows, names, chosen.kind))
    held_out = Rows(read_rows(given.folder / "held_out.jsonl"), tokenizer, chosen.max_length)
    torch.manual_seed(given.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        given.model,
        num_labels=len(names),
        dtype=torch.float32,
        problem_type="multi_label_classification" if chosen.kind == "multi" else None,
    )
    arguments = TrainingArguments(
        output_dir=str(given.out / "unused"),
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        num_train_epochs=chosen.epochs,
        learning_rate=given.learning_rate,
        weight_decay=0.01,
        warmup_steps=0.1,
        lr_scheduler_type="linear",
        seed=given.seed,
        bf16=given.bf16,
        train_sampling_strategy="group_by_length" if given.group_by_length else "random",
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
    if not given.time_alone:
        tune = Rows(read_rows(given.folder / "tune.jsonl"), tokenizer, chosen.max_length)
        np.save(given.out / "logits.npy", predict(trainer, held_out))
        np.save(given.out / "logits-tune.npy", predict(trainer, tune))
    measured = {"seconds": seconds, "steps": trainer.state.global_step}
    (given.out / "seconds.json").write_text(json.dumps(measured) + "\n", encoding="utf-8")


def predict(trainer: Trainer, rows: Rows) -> np.ndarray:
    """Return the logits of all rows; longest first, so that little is padded, then in order."""
    order = np.argsort([-len(ids) for ids in rows.encoded["input_ids"]], kind="stable")
    logits = trainer.predict(torch.utils.data.Subset(rows, order.tolist())).predictions
    restored = np.empty_like(logits)
    restored[order] = logits
    return restored


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
