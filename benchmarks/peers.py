"""Other libraries on the same work: their drivers, each in the environment of its library.

PEERS is a folder with drivers/drive_NAME.py and venvs/NAME. A driver is started by peer_start.py;
it prints lines of RESULT or MEMORY and a JSON object each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.peer_moments import PATIENCE_S as COPY_PATIENCE_S
from benchmarks.peer_moments import told_at
from benchmarks.power_law_log import LogOptions, part
from idbert.inputs.datasets import DATASETS, named_dataset

START = Path(__file__).with_name("peer_start.py")
MODELS = ("bert4rec", "sasrec")
SMALL_LOG = "small"
SMALL = {"data": SMALL_LOG, "hidden": 8, "layers": 1, "maxlen": 10, "threads": 1, "passes": 1}
"""Defaults that `--small` puts in place of the usual ones."""
MARKS = ("RESULT ", "MEMORY ")
PATIENCE_S = 900
"""What a driver may take beside its training: reading, scoring."""


@dataclass(frozen=True)
class Peer:
    """A library, and how its driver is called."""

    name: str
    folder: str
    models: tuple[str, ...] = MODELS
    arguments: tuple[str, ...] = ()


PEERS = (
    Peer("RecTools", "rectools"),
    Peer("transformers", "hf"),
    # Otherwise RecBole trains on every prefix of a history.
    Peer("RecBole", "recbole", ("bert4rec",), ("--no-aug",)),
    Peer("RecBole, anomaly mode off", "recbole", ("bert4rec",), ("--no-aug", "--no-anomaly")),
    Peer("RePlay", "replay"),
    Peer("RePlay, length buckets", "replay", ("sasrec",), ("--bucket", "16")),
)
PREFIXES = Peer("RecBole, every prefix", "recbole", ("sasrec",), ("--no-anomaly",))
"""RecBole's next-item training, without the anomaly mode that slows it: one target each. An event
is read once for each later one of its user, so that what it has learned after some minutes compares
with the others', and how many events it reads a second does not.
"""


def add_architecture(parser: argparse.ArgumentParser) -> None:
    """Let a command line name data and architecture, as the drivers' do."""
    parser.add_argument(
        "--data", default="ml-100k", help="parquet of user_id, item_id, timestamp; or ml-100k"
    )
    parser.add_argument("--peers", type=Path, help="a folder with drivers/ and venvs/")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--maxlen", type=int, default=200)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--mask", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=128, help="sequences in a peer's step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[Path]:
    """Give the log that `--data` names as a parquet file; `--small` without a name a tiny one."""
    if options.data == SMALL_LOG:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.parquet"
            pq.write_table(part(LogOptions(rows=3000, rows_a_part=3000), 0), path)
            yield path
    elif options.data in DATASETS:
        yield named_dataset(options.data).interactions
    else:
        yield Path(options.data).resolve()


def name_of(options: argparse.Namespace) -> str:
    """Return what the data are called."""
    return Path(options.data).stem if options.data not in DATASETS else options.data


def peers_for(options: argparse.Namespace, model_name: str) -> list[Peer]:
    """Return those that have the model; none if no folder of environments is given."""
    return [peer for peer in PEERS if options.peers and model_name in peer.models]


def python_of(peers: Path, name: str) -> Path:
    """Return the Python of a peer's environment."""
    return peers.absolute() / "venvs" / name / "bin" / "python"


def run_driver(
    peer: Peer,
    model_name: str,
    data: Path,
    options: argparse.Namespace,
    *arguments: object,
    seconds: float,
    attention_dropout: bool = True,
    questions: Path | None = None,
    moments_s: Sequence[float] = (),
    told: Path | None = None,
) -> dict[str, Any] | str:
    """Run a peer's driver; return its result, or why there is none.

    Args:
        peer: which.
        model_name: bert4rec or sasrec.
        data: a parquet file.
        options: of a parser that `add_architecture` has seen.
        arguments: more of the driver's.
        seconds: of its training.
        attention_dropout: whether shares of attention are dropped, as every peer does.
        questions: a folder of what is trained on and asked for, in place of the driver's own split.
        moments_s: seconds of training after which it ranks too; see `result_at`.
        told: a folder, there already, of what it tells at these.
    """
    python = python_of(options.peers, peer.folder)
    driver = options.peers.absolute() / "drivers" / f"drive_{peer.folder}.py"
    for needed in (python, driver):
        if not needed.exists():
            return f"left out: {needed.relative_to(options.peers.absolute())} is not there"
    if not attention_dropout and options.maxlen in (options.hidden, 4 * options.hidden):
        return "left out: shares of attention cannot be told from layers with a width of as many"
    settings = {"device": options.device, "attention_dropout": attention_dropout}
    settings |= {"length": options.maxlen, "model": model_name}
    if questions is not None:
        settings["questions"] = str(questions.resolve())
    if told is not None:
        settings |= {"moments": list(moments_s), "told": str(told.resolve())}
    command = [python, START, json.dumps(settings), driver.name, "--data", data]
    command += ["--model", model_name, "--seconds", seconds, "--epochs", 100_000]
    for name in ("hidden", "layers", "heads", "maxlen", "dropout", "mask", "batch", "threads"):
        command += [f"--{name}", getattr(options, name)]
    return run(
        [str(word) for word in (*command, *peer.arguments, *arguments)],
        cwd=driver.parent,
        patience_s=seconds + PATIENCE_S + COPY_PATIENCE_S * len(moments_s),
    )


def result_at(told: Path, seconds: float) -> dict[str, Any] | str:
    """Return what a driver has told at a moment of its training, or why there is nothing."""
    path = told_at(told, seconds)
    found = result_in(path.read_text(encoding="utf-8")) if path.exists() else None
    return found or f"failed: no ranking after {seconds:g} s of training"


def trained(result: dict[str, Any] | str) -> dict[str, Any] | str:
    """Return a driver's figures of training by the names of ours."""
    if isinstance(result, str):
        return result
    if "interactions_per_s" not in result:
        return "failed: no step behind the warm-up. Give more --seconds."
    quiet = bool(result.get("quiet_s"))
    return result | {
        "interactions_per_s": result["quiet_interactions_per_s" if quiet else "interactions_per_s"],
        "foreign": result.get("foreign_cpu"),
        "is_quiet": quiet,
    }


def in_own_process(
    module: str, arguments: Sequence[object], threads: int, patience_s: float | None = None
) -> dict[str, Any] | str:
    """Run a benchmark's module in a process of its own, as the peers are; return its figures."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    root = Path(__file__).parents[1]
    return run(command, cwd=root, patience_s=patience_s, OMP_NUM_THREADS=str(threads))


def run(
    command: list[str], cwd: Path, patience_s: float | None, **environment: str
) -> dict[str, Any] | str:
    """Run a command; return what its lines of RESULT and MEMORY hold, or the last line on stderr.

    One GPU is enough for it, so that it sees no other.
    """
    environment = {"CUDA_VISIBLE_DEVICES": "0"} | os.environ | environment
    try:
        finished = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=patience_s
        )
    except subprocess.TimeoutExpired:
        return f"failed: not done after {patience_s:,.0f} s"
    last = (finished.stderr.strip().splitlines() or [f"status {finished.returncode}"])[-1]
    return result_in(finished.stdout) or f"failed: {last}"


def result_in(output: str) -> dict[str, Any] | None:
    """Return what the lines of RESULT and MEMORY hold; None without a RESULT."""
    lines = [line for line in output.splitlines() if line.startswith(MARKS)]
    if not any(line.startswith("RESULT ") for line in lines):
        return None
    result: dict[str, Any] = {}
    for line in lines:
        result |= json.loads(line.split(" ", 1)[1])
    return result
