"""Which library recommends best where each may try equally many settings?

    python -m benchmarks.equal_trials --peers PEERS --trials 8 --seconds 120 --write
    python -m benchmarks.equal_trials --peers PEERS --split global_time --write

All libraries try the same settings, drawn once from the ranges below, each for about as many
seconds of training; the first try is the drivers' defaults. idbert has none of its recipes: what is
not drawn is as its commands have it by default. With --recent_days its trials draw besides for how
many days popularity is recent (popularity.recent_days), or none; their number stays the same. The
best try by validation NDCG@10 is trained with other seeds on all that comes before the test
targets, and ranks these. Nothing stops early and no epoch is chosen: the weights are those at the
end of the time. idbert's number of epochs is told from what two epochs have taken. Several targets
a user are withheld, each ranked with those before it in the history; users are the clusters of the
bootstrap. What is measured is kept in --out and not measured again.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import report
from benchmarks.equal_time import COMMANDS, OURS, steps_of
from benchmarks.equal_trials_report import POSITIONS_OF_A_SEQUENCE, publish
from benchmarks.peer_questions import ASKED, SUMMARY, TRAINED
from benchmarks.peers import SMALL, Peer, name_of, opened, run_driver
from benchmarks.quiet import ForeignLoad, wait_until_quiet
from idbert.evaluation.evaluate import HEADLINE
from idbert.evaluation.metrics import per_target_metrics, user_means
from idbert.files import written_aside
from idbert.inputs.cuts import SplitSettings
from idbert.inputs.sequences import Sequences
from idbert.rows import FIRST_ITEM
from idbert.run_dir import RunDir
from pipelines.corridor import DataSettings, LogSettings
from pipelines.reporting import Part, evaluate_runs
from pipelines.split_log import read_split_log

LIBRARIES = (
    Peer("RecTools", "rectools"),
    Peer("RecBole", "recbole", arguments=("--no-aug", "--no-anomaly")),
    Peer("RePlay", "replay"),
)
TRIED_EPOCHS = 2
OF_THE_WORK = ("data", "targets", "seconds", "threads", "device", "layers", "heads")
"""Options that must be those of the results that are kept."""
SMALL_WORK = {name: SMALL[name] for name in ("data", "layers", "threads")}
SHORT = 0.5
"""Seconds of a tiny training in the small form."""


@dataclass(frozen=True)
class Trial:
    """Settings that every library has; the defaults are those of the drivers."""

    model: str = "sasrec"
    hidden: int = 64
    maxlen: int = 200
    dropout: float = 0.2
    mask: float = 0.2
    batch: int = 128
    lr: float = 1e-3
    share: float = 1.0
    recent_days: float | None = None  # of idbert alone: the drivers know nothing like it

    def in_words(self) -> str:
        """Return the settings as the table shows them."""
        of_mask = f", mask {self.mask}" if self.model == "bert4rec" else ""
        return (
            f"{self.model}, hidden {self.hidden}, length {self.maxlen}, dropout {self.dropout}, "
            f"batch {self.batch}, rate {self.lr:.1e}{of_mask}, {self.share:g} of the time"
        ) + (f", {self.recent_days:g} days recent" if self.recent_days else "")


def drawn(count: int, seed: int) -> list[Trial]:
    """Return the trials: the usual settings first, then random ones."""
    generator = np.random.default_rng(seed)
    trials = [Trial()]
    while len(trials) < count:
        trials.append(
            Trial(
                model=str(generator.choice(["sasrec", "sasrec", "bert4rec"])),
                hidden=int(generator.choice([32, 64, 128])),
                maxlen=int(generator.choice([50, 100, 200])),
                dropout=float(generator.choice([0.1, 0.2, 0.3, 0.5])),
                mask=float(generator.choice([0.15, 0.2, 0.4])),
                batch=int(generator.choice([32, 64, 128])),
                lr=float(np.exp(generator.uniform(np.log(5e-4), np.log(5e-3)))),
                share=float(generator.choice([0.5, 1.0])),
            )
        )
    return trials[:count]


def with_recent_days(trials: list[Trial], days: list[float], seed: int) -> list[Trial]:
    """Return trials with one of some numbers of days, or none, drawn for each."""
    chosen = np.random.default_rng(seed).integers(1 + len(days), size=len(trials))
    return [
        dataclasses.replace(trial, recent_days=[None, *days][place])
        for trial, place in zip(trials, chosen.tolist(), strict=True)
    ]


def main(arguments: list[str] | None = None) -> None:
    """Try and test what is not done yet, and publish all of it."""
    parser = report.new_parser(__doc__)
    parser.add_argument(
        "--data", default="ml-100k", help="parquet of user_id, item_id, timestamp; or ml-100k"
    )
    parser.add_argument("--peers", type=Path, help="a folder with drivers/ and venvs/")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--split", default="leave_last_out", choices=("leave_last_out", "global_time")
    )
    parser.add_argument("--targets", type=int, default=5, help="events withheld of each user")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each training, about")
    parser.add_argument(
        "--recent_days",
        type=float,
        nargs="*",
        default=[],
        help="of which idbert's trials draw, too",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the tests")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/equal-trials"), help="of all that ran"
    )
    options = report.parse(
        parser, arguments, **SMALL_WORK, trials=2, seconds=SHORT, seeds=[1, 2], targets=2
    )
    libraries: dict[str, Peer | None] = {OURS: None}
    libraries |= {peer.name: peer for peer in LIBRARIES if options.peers}
    trials = dict.fromkeys(libraries, drawn(options.trials, seed=0))
    if options.recent_days:
        trials[OURS] = with_recent_days(trials[OURS], options.recent_days, seed=1)
    tried: dict[str, dict[int, float]] = {}
    tested: dict[str, list[dict[str, Any]]] = {}
    failures: dict[str, str] = {}
    with opened(options) as data:
        for name, peer in libraries.items():
            found = {
                number: kept(options, name, peer, trial, number, "validation", 1, data)
                for number, trial in enumerate(trials[name])
            }
            tried[name] = {
                number: mean_of(one, HEADLINE[0])
                for number, one in found.items()
                if not isinstance(one, str)
            }
            if not tried[name]:
                failures[name] = str(found[0])
                continue
            best = max(tried[name], key=lambda number: tried[name][number])
            for seed in options.seeds:
                one = kept(options, name, peer, trials[name][best], best, "test", seed, data)
                if isinstance(one, str):
                    failures[name] = one
                else:
                    tested.setdefault(name, []).append(one)
    words = {name: [trial.in_words() for trial in of] for name, of in trials.items()}
    publish(options, words, tried, tested, failures)
    report.check_own(failures)


def kept(
    options: argparse.Namespace,
    name: str,
    peer: Peer | None,
    trial: Trial,
    number: int,
    part: Part,
    seed: int,
    data: Path,
) -> dict[str, Any] | str:
    """Return what an earlier call has measured, or train and measure it; or why that failed."""
    words = report.section_name(name_of(options), options.split, name, part, number, seed)
    path = options.out / f"{words}.json"
    work = dataclasses.asdict(trial) | {key: getattr(options, key) for key in OF_THE_WORK}
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["work"] != work:
            raise SystemExit(f"{path} was measured with other options. Give another --out.")
        return found
    options.out.mkdir(parents=True, exist_ok=True)
    wait_until_quiet(options.wait)
    measure = ours if peer is None else peer_of(peer)
    result = measure(options, trial, part, seed, data, options.out / words)
    if isinstance(result, str):
        return result
    with written_aside(path) as aside:
        aside.write_text(json.dumps({"work": work} | result), encoding="utf-8")
    return result


def mean_of(measured: dict[str, Any], metric: str) -> float:
    """Return the mean over users."""
    return float(np.mean(measured["users"][metric]))


def ours(
    options: argparse.Namespace, trial: Trial, part: Part, seed: int, data: Path, run: Path
) -> dict[str, Any] | str:
    """Train idbert with a trial's settings for as many epochs as fit, and score it."""
    settings = {
        "split.name": options.split,
        "split.targets": options.targets,
        "split.train_until": part,
        "sequences.max_length": trial.maxlen + (trial.model == "sasrec"),
        "training.seed": seed,
        "training.patience": "null",
        "training.learning_rate": trial.lr,
        "model.hidden_size": trial.hidden,
        "model.num_layers": options.layers,
        "model.num_heads": options.heads,
        "model.hidden_dropout": trial.dropout,
        "batches.token_budget": POSITIONS_OF_A_SEQUENCE * trial.batch,
    }
    if trial.model == "bert4rec":
        settings["masking.probability"] = trial.mask
    if trial.recent_days:
        settings["popularity.recent_days"] = trial.recent_days

    def train(epochs: int, folder: Path) -> float | str:
        more = {"training.epochs": epochs, "training.evaluate_every": epochs}
        words = [f"--{name}={value}" for name, value in (settings | more).items()]
        given = ["--data.source", data, *words]
        return steps_of(options, COMMANDS[trial.model], given, folder)

    tried = train(TRIED_EPOCHS, run.with_name(f"{run.name}-tried"))
    if isinstance(tried, str):
        return tried
    epochs = max(1, int(options.seconds * trial.share / (tried / TRIED_EPOCHS)))
    load = ForeignLoad()
    seconds = train(epochs, run)
    if isinstance(seconds, str):
        return seconds
    foreign = load.share()
    evaluated = evaluate_runs([RunDir.open(run)], part).evaluations[run.name]
    questions = questions_of(options, part, data)
    # The drivers never recommend what is in the history, so that it counts as missed for all.
    ranks_Q = np.where(questions.seen_Q, np.inf, evaluated.ranks_Q)
    return {"users": of_users(ranks_Q, questions), "seconds": seconds, "foreign": foreign}


def peer_of(peer: Peer) -> Callable[..., dict[str, Any] | str]:
    """Return what trains and scores a peer as `ours` does idbert."""

    def measure(
        options: argparse.Namespace, trial: Trial, part: Part, seed: int, data: Path, run: Path
    ) -> dict[str, Any] | str:
        questions = questions_of(options, part, data)
        lists = run.absolute().with_suffix(".npz")
        named = {"hidden": trial.hidden, "maxlen": trial.maxlen, "dropout": trial.dropout}
        named |= {"mask": trial.mask, "batch": trial.batch}
        result = run_driver(
            peer,
            trial.model,
            questions.folder / TRAINED,
            argparse.Namespace(**(vars(options) | named)),
            *("--lr", trial.lr, "--seed", seed, "--save-recs", lists),
            seconds=options.seconds * trial.share,
            questions=questions.folder,
        )
        if isinstance(result, str):
            return result
        with np.load(lists) as saved:
            ranks_Q = ranks_in(saved["recs"], questions.targets_Q)
        lists.unlink()
        users = of_users(ranks_Q, questions)
        return {
            "users": users,
            "seconds": result["train_s"],
            "foreign": result.get("foreign_cpu"),
        }

    return measure


def ranks_in(
    lists_QK: np.ndarray[Any, Any], targets_Q: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return the place of each target in its list, from 1; infinity where it is not there."""
    hits_QK = lists_QK == targets_Q[:, None]
    return np.where(hits_QK.any(1), hits_QK.argmax(1) + 1.0, np.inf)


@dataclass(frozen=True, eq=False)
class Questions:
    """What is asked for.

    Attributes:
        folder: where it lies for the peers, with what they are trained on.
        users_Q: whose each target is.
        targets_Q: the items, as the peers number them.
        seen_Q: whether they are in the history.
    """

    folder: Path
    users_Q: np.ndarray[Any, Any]
    targets_Q: np.ndarray[Any, Any]
    seen_Q: np.ndarray[Any, Any]


def of_users(ranks_Q: np.ndarray[Any, Any], questions: Questions) -> dict[str, list[float]]:
    """Return each user's mean over the targets, of each metric."""
    per_target = per_target_metrics(ranks_Q)
    return {name: user_means(per_target[name], questions.users_Q).tolist() for name in HEADLINE}


def questions_of(options: argparse.Namespace, part: Part, data: Path) -> Questions:
    """Write what peers are trained on and asked for."""
    split = SplitSettings(options.split, targets=options.targets)
    log = read_split_log(LogSettings(data=DataSettings(source=str(data)), split=split))
    asked = log.held_out(part, None)
    assert asked.users_Q is not None
    targets_Q = asked.targets_Q - FIRST_ITEM + 1
    words = (name_of(options), "questions", options.split, options.targets, part)
    folder: Path = options.out / report.section_name(*words)
    with written_aside(folder) as aside:
        aside.mkdir()
        pq.write_table(pa.table({"items": items_of(log.known(part))}), aside / TRAINED)
        columns = {"items": items_of(asked.histories), "target": targets_Q}
        pq.write_table(pa.table(columns), aside / ASKED)
        summary = {"items": log.vocabulary.num_items, "name": f"{options.split}-{part}"}
        (aside / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
    histories = asked.histories.packed()
    alike_T = histories.items == np.repeat(asked.targets_Q, histories.lengths)
    seen_Q = np.logical_or.reduceat(alike_T, histories.offsets[:-1])
    return Questions(folder, asked.users_Q, targets_Q, seen_Q)


def items_of(sequences: Sequences) -> pa.Array:
    """Return each sequence's items as the peers number them, from 1."""
    packed = sequences.packed()
    items = pa.array(np.asarray(packed.items, dtype=np.int64) - FIRST_ITEM + 1)
    return pa.LargeListArray.from_arrays(pa.array(packed.offsets), items)


if __name__ == "__main__":
    main()
