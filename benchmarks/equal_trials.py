"""Which library recommends best where each may try equally many settings?

    python -m benchmarks.equal_trials --peers PEERS --trials 8 --seconds 120 --write
    python -m benchmarks.equal_trials --peers PEERS --split global_time --write

All libraries try the same settings, drawn once from the ranges below, each for at most as many
seconds of training; the first try is idbert's recipe and the drivers' defaults. The best one by
validation NDCG@10 is trained with other seeds on all that comes before the test targets, and ranks
these. Nothing stops early and no epoch is chosen: the weights are those at the end of the time.
idbert's number of epochs is told from what two epochs have taken. Several targets a user are
withheld, each ranked with those before it in the history; users are the clusters of the bootstrap.
What is measured is kept in --out and not measured again.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.equal_time import COMMANDS, OURS, ROOT, steps_of
from benchmarks.peer_questions import ASKED, SUMMARY, TRAINED
from benchmarks.peers import SMALL, Peer, add_architecture, name_of, opened, run_driver
from idbert.evaluation.bootstrap import paired
from idbert.evaluation.charts import ACCENT, INK, QUIET, STYLE, WIDTH_IN, svg
from idbert.evaluation.evaluate import HEADLINE
from idbert.evaluation.metrics import per_target_metrics, user_means
from idbert.files import written_aside
from idbert.inputs.sequences import Sequences
from idbert.inputs.splits import SplitSettings
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
POSITIONS_OF_A_SEQUENCE = 32
"""In idbert's batches, which have a number of positions, for one of a peer's sequences."""
TRIED_EPOCHS = 2
SHORT = 0.5
"""Seconds of a tiny training in the small form."""


@dataclass(frozen=True)
class Trial:
    """Settings that every library has."""

    model: str = "sasrec"
    hidden: int = 64
    maxlen: int = 200
    dropout: float = 0.2
    mask: float = 0.2
    batch: int = 128
    lr: float = 1e-3
    share: float = 1.0

    def in_words(self) -> str:
        """Return the settings as the table shows them."""
        of_mask = f", mask {self.mask}" if self.model == "bert4rec" else ""
        return (
            f"{self.model}, hidden {self.hidden}, length {self.maxlen}, dropout {self.dropout}, "
            f"batch {self.batch}, rate {self.lr:.1e}{of_mask}, {self.share:g} of the time"
        )


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


def main(arguments: list[str] | None = None) -> None:
    """Try and test what is not done yet, and publish all of it."""
    parser = report.new_parser(__doc__)
    add_architecture(parser)
    parser.add_argument(
        "--split", default="leave_last_out", choices=("leave_last_out", "global_time")
    )
    parser.add_argument("--targets", type=int, default=5, help="events withheld of each user")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each training, at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the tests")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/equal-trials"), help="of all that ran"
    )
    options = report.parse(
        parser, arguments, **SMALL, trials=2, seconds=SHORT, seeds=[1, 2], targets=2
    )
    libraries: dict[str, Peer | None] = {OURS: None}
    libraries |= {peer.name: peer for peer in LIBRARIES if options.peers}
    trials = drawn(options.trials, seed=0)
    tried: dict[str, dict[int, float]] = {}
    tested: dict[str, list[dict[str, Any]]] = {}
    failures: dict[str, str] = {}
    with opened(options) as data:
        for name, peer in libraries.items():
            found = {
                number: kept(options, name, peer, trial, number, "validation", 1, data)
                for number, trial in enumerate(trials)
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
                one = kept(options, name, peer, trials[best], best, "test", seed, data)
                if isinstance(one, str):
                    failures[name] = one
                else:
                    tested.setdefault(name, []).append(one)
    publish(options, trials, tried, tested, failures)
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
    work = dataclasses.asdict(trial) | {"data": options.data, "targets": options.targets}
    work |= {"seconds": options.seconds, "threads": options.threads}
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["work"] != work:
            raise SystemExit(f"{path} was measured with other options. Give another --out.")
        return found
    options.out.mkdir(parents=True, exist_ok=True)
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
    """Train idbert by a recipe with a trial's settings for as many epochs as fit, and score it."""
    recipe = ROOT / f"pipelines/recipes/ml-100k-{trial.model}.yaml"
    settings = {
        "split.name": options.split,
        "split.targets": options.targets,
        "split.train_until": part,
        "sequences.max_length": trial.maxlen + (trial.model == "sasrec"),
        "training.seed": seed,
        "training.patience": "null",
    }
    if trial != Trial():
        settings |= {
            "model.hidden_size": trial.hidden,
            "model.hidden_dropout": trial.dropout,
            "batches.token_budget": POSITIONS_OF_A_SEQUENCE * trial.batch,
            "training.learning_rate": trial.lr,
        }
        if trial.model == "bert4rec":
            settings["masking.probability"] = trial.mask

    def train(epochs: int, folder: Path) -> float | str:
        more = {"training.epochs": epochs, "training.evaluate_every": epochs}
        words = [f"--{name}={value}" for name, value in (settings | more).items()]
        given = ["--config", recipe, "--data.source", data, *words]
        return steps_of(options, COMMANDS[trial.model], given, folder)

    tried = train(TRIED_EPOCHS, run.with_name(f"{run.name}-tried"))
    if isinstance(tried, str):
        return tried
    epochs = max(1, int(options.seconds * trial.share / (tried / TRIED_EPOCHS)))
    seconds = train(epochs, run)
    if isinstance(seconds, str):
        return seconds
    evaluated = evaluate_runs([RunDir.open(run)], part).evaluations[run.name]
    users = {metric: evaluated.per_user[metric].tolist() for metric in HEADLINE}
    return {"users": users, "seconds": seconds, "epochs": epochs}


def peer_of(peer: Peer) -> Callable[..., dict[str, Any] | str]:
    """Return what trains and scores a peer as `ours` does idbert."""

    def measure(
        options: argparse.Namespace, trial: Trial, part: Part, seed: int, data: Path, run: Path
    ) -> dict[str, Any] | str:
        questions, users_Q, targets_Q = questions_of(options, part, data)
        lists = run.absolute().with_suffix(".npz")
        named = {"hidden": trial.hidden, "maxlen": trial.maxlen, "dropout": trial.dropout}
        named |= {"mask": trial.mask, "batch": trial.batch}
        result = run_driver(
            peer,
            trial.model,
            questions / TRAINED,
            argparse.Namespace(**(vars(options) | named)),
            *("--lr", trial.lr, "--seed", seed, "--save-recs", lists),
            seconds=options.seconds * trial.share,
            questions=questions,
        )
        if isinstance(result, str):
            return result
        with np.load(lists) as saved:
            ranks_Q = ranks_in(saved["recs"], targets_Q)
        lists.unlink()
        per_target = per_target_metrics(ranks_Q)
        users = {name: user_means(per_target[name], users_Q).tolist() for name in HEADLINE}
        return {"users": users, "seconds": result["train_s"], "epochs": result["epochs_done"]}

    return measure


def ranks_in(
    lists_QK: np.ndarray[Any, Any], targets_Q: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return the place of each target in its list, from 1; infinity where it is not there."""
    hits_QK = lists_QK == targets_Q[:, None]
    return np.where(hits_QK.any(1), hits_QK.argmax(1) + 1.0, np.inf)


def questions_of(
    options: argparse.Namespace, part: Part, data: Path
) -> tuple[Path, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Write what peers are trained on and asked for; return the folder, users and targets."""
    split = SplitSettings(options.split, targets=options.targets)
    log = read_split_log(LogSettings(data=DataSettings(source=str(data)), split=split))
    asked = log.held_out(part, None)
    assert asked.users_Q is not None
    targets_Q = asked.targets_Q - FIRST_ITEM + 1
    folder: Path = options.out / report.section_name("questions", options.split, part)
    with written_aside(folder) as aside:
        aside.mkdir()
        pq.write_table(pa.table({"items": items_of(log.known(part))}), aside / TRAINED)
        columns = {"items": items_of(asked.histories), "target": targets_Q}
        pq.write_table(pa.table(columns), aside / ASKED)
        summary = {"items": log.vocabulary.num_items, "name": f"{options.split}-{part}"}
        (aside / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
    return folder, asked.users_Q, targets_Q


def items_of(sequences: Sequences) -> pa.Array:
    """Return each sequence's items as the peers number them, from 1."""
    packed = sequences.packed()
    items = pa.array(np.asarray(packed.items, dtype=np.int64) - FIRST_ITEM + 1)
    return pa.LargeListArray.from_arrays(pa.array(packed.offsets), items)


def publish(
    options: argparse.Namespace,
    trials: list[Trial],
    tried: dict[str, dict[int, float]],
    tested: dict[str, list[dict[str, Any]]],
    failures: dict[str, str],
) -> None:
    """Write one row a library, with idbert's lead over it, and the plot of all trials."""

    def over_seeds(name: str, metric: str) -> np.ndarray[Any, Any]:
        return np.stack([one["users"][metric] for one in tested[name]])

    rows = []
    for name, by_number in tried.items():
        if name not in tested:
            continue
        best = max(by_number, key=lambda number: by_number[number])
        is_recipe = name == OURS and trials[best] == Trial()
        cells = [name, "its recipe" if is_recipe else trials[best].in_words()]
        cells.append(f"{len(by_number)} of {len(trials)}")
        cells.append(f"{by_number[best]:.4f}")
        for metric in HEADLINE:
            values = over_seeds(name, metric)
            seeds = ", ".join(f"{mean:.4f}" for mean in values.mean(1))
            cells.append(f"{values.mean():.4f} ({seeds})")
            if name == OURS or OURS not in tested:
                cells.append("")
                continue
            lead, low, high = paired(over_seeds(OURS, metric).mean(0), values.mean(0))
            cells.append(f"{lead:+.4f} [{low:+.4f}, {high:+.4f}]")
        rows.append(cells)
    header = ["", "best trial", "trials that ran", "validation NDCG@10"]
    header += ["test NDCG@10 (seeds)", "idbert's lead", "test recall@10 (seeds)", "idbert's lead"]
    rows += [report.failed_row(name, why, len(header)) for name, why in failures.items()]
    split = SplitSettings(options.split, targets=options.targets).in_words()
    title = f"Equal trials on {name_of(options)}, {split}"
    notes = [
        f"{options.trials} trials each, the same for all; at most {options.seconds:g} s of "
        f"training, {options.threads} thread{'s' if options.threads > 1 else ''}; 2 layers, "
        "2 heads; full ranking, seen items filtered; validation targets trained on before the "
        "test. RecBole's sequences: one a user (BERT4Rec), one a prefix (SASRec).",
        "Intervals: paired bootstrap over users, each user's values averaged over targets and "
        "seeds.",
    ]
    section = report.Report(
        report.section_name("equal-trials", name_of(options), options.split),
        title,
        report.markdown(header, rows),
        notes,
        strips(
            tried, {name: float(over_seeds(name, HEADLINE[0]).mean()) for name in tested}, title
        ),
    )
    report.publish(section, "equal_trials", options)


def strips(tried: dict[str, dict[int, float]], tests: dict[str, float], title: str) -> str:
    """Draw each library's trials as points in a row, and its test figure as a diamond."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.6 + 0.45 * len(tried)), layout="constrained")
        axes = figure.subplots()
        for row, (name, by_number) in enumerate(tried.items()):
            color = ACCENT if name == OURS else QUIET
            axes.plot(list(by_number.values()), [row] * len(by_number), "o", color=color, alpha=0.6)
            if name in tests:
                axes.plot(tests[name], row, "D", color=color, markeredgecolor=INK)
        axes.set_yticks(range(len(tried)), list(tried))
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("NDCG@10: validation of each trial (points), test of the best (diamond)")
        axes.set_title(title)
        axes.tick_params(length=0)
        return str(svg(figure))


if __name__ == "__main__":
    main()
