"""Kill a training with SIGKILL ten times, resume it each time, and compare the final weights.

    python -m benchmarks.kill_and_resume [--data FILE] [--model masked|next] [--kills 10]

The run that was killed must end with the weights of one that was not, bit for bit. Half of the
kills fall on random moments, the other half on moments at which a checkpoint is being written.
Without --data the log is generated. Takes about a minute on two cores.
"""

import argparse
import hashlib
import logging
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.interactions import read_interactions
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.sequences import SequenceSettings, build_sequences
from idbert.inputs.splits import leave_last_out
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.tables import ITEM
from idbert.training.arguments import TrainingSettings
from idbert.training.trainer import build_trainer
from idbert.training.validation import Validation

STEPS = 200
CHECKPOINT_EVERY = 2
WEIGHTS = "final.safetensors"
WHOLE = SequenceSettings(max_length=None, min_length=0)


def main() -> None:
    """Run the uninterrupted training, then the one that is killed; exit with 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a log that read_interactions can read; default: generated")
    parser.add_argument("--model", choices=("masked", "next"), default="masked")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--train", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        train(options.train, options.data, options.model)
        return
    with tempfile.TemporaryDirectory() as parent:
        whole, killed = Path(parent) / "whole", Path(parent) / "killed"
        arguments = ["--model", options.model]
        if options.data:
            arguments += ["--data", options.data]
        started = time.monotonic()
        start(whole, arguments).wait()
        expected = digest(whole)
        print(f"uninterrupted: {STEPS} steps, {time.monotonic() - started:.0f} s, {expected}")
        in_writes = kill_repeatedly(killed, arguments, options.kills, random.Random(options.seed))
        start(killed, arguments).wait()
        resumed = digest(killed)
    print(f"killed {options.kills} times ({in_writes} inside a checkpoint write): {resumed}")
    print("equal, bit for bit" if resumed == expected else "DIFFERENT")
    sys.exit(resumed != expected)


def kill_repeatedly(folder: Path, arguments: list[str], kills: int, rng: random.Random) -> int:
    """Start and kill the training; return how many kills fell inside a checkpoint write."""
    in_writes = 0
    for number in range(1, kills + 1):
        # Further than at the last kill, so that leftovers of that one are gone; before the end.
        target = newest_step(folder) + CHECKPOINT_EVERY
        target += rng.randrange((STEPS - 20 - target) // (kills + 1 - number))
        process = start(folder, arguments)
        until = time.monotonic() + 300
        while newest_step(folder) < target and process.poll() is None:
            if time.monotonic() > until:
                raise TimeoutError(f"no checkpoint at step {target} within 300 s")
            time.sleep(0.001)
        if number % 2:
            time.sleep(rng.uniform(0, 0.1))
        else:
            while not being_written(folder) and process.poll() is None:
                pass
            time.sleep(rng.uniform(0, 0.003))
        process.kill()
        if process.wait() == 0:
            raise RuntimeError(f"the training ended before kill {number}; raise STEPS")
        written = being_written(folder)
        in_writes += bool(written)
        where = f"inside the write of {written}" if written else "between writes"
        print(f"kill {number}: {where}; the newest whole checkpoint is {newest_step(folder)}")
    return in_writes


def start(folder: Path, arguments: list[str]) -> "subprocess.Popen[bytes]":
    """Start `train` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.kill_and_resume", "--train", str(folder)]
    return subprocess.Popen([*command, *arguments])


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint that has its name, or 0."""
    steps = [int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")]
    return max(steps, default=0)


def being_written(folder: Path) -> str:
    """Return the name of the checkpoint that is being written, or ""."""
    names = [path.name for path in folder.glob(".checkpoint-*.partial")]
    return names[0].removeprefix(".").removesuffix(".partial") if names else ""


def digest(folder: Path) -> str:
    """Return the SHA-256 of the final weights."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(load_file(folder / WEIGHTS).items()):
        sha256.update(name.encode() + tensor.numpy().tobytes())
    return sha256.hexdigest()


def train(folder: Path, data: str | None, objective: str) -> None:
    """Train to the end or on to it, with dropout, random masks and evaluations in between."""
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    interactions = read_interactions(data or generated_log())
    parts = leave_last_out(interactions)
    vocabulary = Vocabulary.from_interactions(interactions, parts.train)
    model_class = MaskedItemModel if objective == "masked" else NextItemModel
    torch.manual_seed(0)
    model = model_class.build(EncoderSettings(hidden_size=32), vocab_size=len(vocabulary))
    trainer = build_trainer(
        model,
        build_sequences(parts.train, vocabulary),
        MaskingSettings() if objective == "masked" else None,
        BatchSettings(token_budget=2000),
        TrainingSettings(max_steps=STEPS, checkpoint_every_steps=CHECKPOINT_EVERY, load_best=False),
        output_dir=folder,
        validation=Validation(
            build_sequences(parts.validation.histories, vocabulary, WHOLE),
            vocabulary.rows(parts.validation.targets.column(ITEM)),
        ),
    )
    trainer.train_or_resume()
    save_file(model.state_dict(), folder / WEIGHTS)


def generated_log(num_users: int = 400, num_items: int = 200, seed: int = 0) -> pd.DataFrame:
    """Return a log of users who walk among popular items, 10 to 60 events each."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(10, 61, size=num_users)
    popularity = 1 / np.arange(1, num_items + 1)
    items = rng.choice(num_items, size=lengths.sum(), p=popularity / popularity.sum())
    steps = np.concatenate([np.arange(length) for length in lengths])
    return pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(num_users), lengths),
            "item_id": items,
            "timestamp": 1_600_000_000 + 60 * steps,
        }
    )


if __name__ == "__main__":
    main()
