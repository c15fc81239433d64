"""What do idbert and other libraries recommend after as many minutes of training?

    python -m benchmarks.equal_time --data ml-1m.parquet --peers PEERS --minutes 2 5 10 20 --write

The same architecture for all on a quiet machine with --threads threads: with the recipe of ml-1m
that idbert has by default the same objective too; with another --recipe idbert's best against
theirs. idbert trains once for each number of minutes, by its recipe for as many epochs as fit, told
from what two epochs have taken, so that its schedule ends with the time; its evaluation comes
once, at the end, and does not count, as that of the others does not. The peers train by those
of their drivers, at a constant rate, until the last of the times is up, and rank on the way at the
others; on a GPU they train once for each, too. All learn from the events before the last two of
each user and are scored on the last: leave-last-out, over the full catalogue, seen items dropped.
What is measured is kept in --out and not measured again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.peers import (
    MODELS,
    PREFIXES,
    SMALL,
    Peer,
    add_architecture,
    name_of,
    opened,
    peers_for,
    result_at,
    run_driver,
)
from benchmarks.quiet import ForeignLoad, is_quiet, wait_until_quiet
from idbert.evaluation.charts import ACCENT, INK, QUIET, STYLE, WIDTH_IN, svg
from idbert.evaluation.evaluate import HEADLINE
from idbert.files import digest_of, written_aside
from idbert.run_dir import RunDir
from pipelines.reporting import evaluate_runs, write_report

ROOT = Path(__file__).parents[1]
OURS = "idbert"
COMMANDS = {"bert4rec": "rec_pretrain", "sasrec": "rec_finetune"}
OF_THE_WORK = ("hidden", "layers", "heads", "maxlen", "dropout", "mask", "batch", "threads")
OF_THE_WORK += ("device",)
"""Options that must be those of the results that are kept."""
TRIED_EPOCHS = 2
"""From which the number of epochs is told; the first one is slower."""
SMALL_RECIPE = ("--batches.token_budget=400", "--training.warmup=0")


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not measured yet, and publish all of it."""
    parser = report.new_parser(__doc__)
    add_architecture(parser)
    parser.add_argument("--model", choices=MODELS, default="sasrec")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--recipe", type=Path, help="of idbert; by default that of ml-1m")
    parser.add_argument("--out", type=Path, default=Path("runs/equal-time"), help="of all that ran")
    parser.add_argument("--only", nargs="+", help="names of libraries; by default all there are")
    options = report.parse(parser, arguments, **SMALL, minutes=[0.02, 0.05])
    options.recipe = options.recipe or ROOT / f"pipelines/recipes/ml-1m-{options.model}.yaml"
    measured: dict[str, list[dict[str, Any]]] = {}
    failures: dict[str, str] = {}
    peers = peers_for(options, options.model)
    peers += [PREFIXES] if peers and options.model in PREFIXES.models else []
    names = [OURS, *(peer.name for peer in peers)]
    for name in options.only or ():
        if name not in names:
            parser.error(f"--only {name}: choose from {', '.join(names)}.")
    with opened(options) as data:
        for peer in (None, *peers):
            name = OURS if peer is None else peer.name
            if options.only and name not in options.only:
                continue
            measure_missing(options, peer, data, failures)
            found = [kept(options, peer, minutes) for minutes in options.minutes]
            if any(found):
                measured[name] = [point for point in found if point is not None]
    publish(options, measured, failures)
    report.check_own(failures)


def measure_missing(
    options: argparse.Namespace, peer: Peer | None, data: Path, failures: dict[str, str]
) -> None:
    """Measure what no earlier call has, and keep it; add why there is nothing to the failures."""
    missing = [minutes for minutes in options.minutes if kept(options, peer, minutes) is None]
    at_once = peer is not None and options.device == "cpu"  # a GPU's process cannot be copied
    for group in [missing] if at_once and missing else [[minutes] for minutes in missing]:
        wait_until_quiet(options.wait)
        if peer is None:
            folder = path_of(options, peer, group[0]).with_suffix("")
            results = {group[0]: ours(options, group[0], folder, data)}
        else:
            results = theirs(options, peer, group, data)
        for minutes, result in results.items():
            if isinstance(result, str):
                failures[OURS if peer is None else peer.name] = result
            else:
                keep(options, peer, minutes, result)


def theirs(
    options: argparse.Namespace, peer: Peer, minutes: list[float], data: Path
) -> dict[float, dict[str, Any] | str]:
    """Return what a peer has reached after each of the times, of one training."""
    *on_the_way, last = sorted(minutes)
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder)
        seconds = {one: 60 * one for one in on_the_way}
        results: dict[float, dict[str, Any] | str] = {
            last: run_driver(
                peer,
                options.model,
                data,
                options,
                seconds=60 * last,
                moments_s=list(seconds.values()),
                told=told,
            )
        }
        results |= {one: result_at(told, seconds[one]) for one in on_the_way}
    for result in results.values():
        if not isinstance(result, str):
            result |= {"minutes": result["train_s"] / 60, "foreign": result.get("foreign_cpu")}
            result["epochs"] = result["epochs_done"]
    return results


def path_of(options: argparse.Namespace, peer: Peer | None, minutes: float) -> Path:
    """Return the file of what is measured; idbert's tells its recipe."""
    name = peer.name if peer else f"{OURS} {options.recipe.stem}"
    words = report.section_name(name_of(options), options.model, name, f"{minutes:g}")
    return Path(options.out) / f"{words}.json"


def work_of(options: argparse.Namespace, peer: Peer | None) -> dict[str, str]:
    """Return what must be the same for a measurement to be kept."""
    work = {key: str(getattr(options, key)) for key in OF_THE_WORK} | {"data": options.data}
    return work if peer else work | {"recipe": digest_of(options.recipe)["sha256"]}


def kept(options: argparse.Namespace, peer: Peer | None, minutes: float) -> dict[str, Any] | None:
    """Return what an earlier call has measured; None if there is nothing."""
    path = path_of(options, peer, minutes)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found["work"] != work_of(options, peer):
        raise SystemExit(f"{path} was measured with other options. Give another --out.")
    return found


def keep(
    options: argparse.Namespace, peer: Peer | None, minutes: float, result: dict[str, Any]
) -> None:
    """Write what was measured."""
    kept_ones = ("minutes", "epochs", "foreign", *HEADLINE)
    point = {"asked": minutes, "work": work_of(options, peer)}
    point |= {key: result.get(key) for key in kept_ones}
    path = path_of(options, peer, minutes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        aside.write_text(json.dumps(point, indent=2), encoding="utf-8")


def ours(
    options: argparse.Namespace, minutes: float, folder: Path, data: Path
) -> dict[str, Any] | str:
    """Train by the recipe for as many epochs as fit into the time, and score the test part."""
    tried = train(options, TRIED_EPOCHS, folder.with_name(f"{folder.name}-tried"), data)
    if isinstance(tried, str):
        return tried
    epochs = max(1, int(60 * minutes / (tried / TRIED_EPOCHS)))
    load = ForeignLoad()
    seconds = train(options, epochs, folder, data)
    if isinstance(seconds, str):
        return seconds
    found = {"minutes": seconds / 60, "epochs": epochs, "foreign": load.share()}
    run = RunDir.open(folder)
    evaluated = evaluate_runs([run], "test")
    write_report(run, evaluated)
    metrics = evaluated.evaluations[folder.name].metrics
    return found | {name: metrics[name] for name in HEADLINE}


def train(options: argparse.Namespace, epochs: int, run: Path, data: Path) -> float | str:
    """Train by the recipe, in a process of its own; see `steps_of`."""
    more = options.model == "sasrec"
    settings = ["--config", options.recipe, "--data.source", data]
    settings += [f"--training.epochs={epochs}", f"--training.evaluate_every={epochs}"]
    settings += ["--training.patience=null", "--split.train_until=validation"]
    settings += [f"--sequences.max_length={options.maxlen + more}"]
    settings += [f"--model.hidden_size={options.hidden}", f"--model.num_layers={options.layers}"]
    settings += [f"--model.num_heads={options.heads}"]
    return steps_of(options, COMMANDS[options.model], settings, run)


def steps_of(
    options: argparse.Namespace, pipeline: str, settings: list[Any], run: Path
) -> float | str:
    """Return the seconds of a training's steps, or why there are none; run what is not finished.

    Args:
        options: small, device and threads.
        pipeline: the command that trains.
        settings: of the command, but for the run's folder and the device.
        run: the folder.
    """
    times = run.with_name(f"{run.name}-steps.json")
    if not (times.exists() and RunDir(run).is_complete):
        shutil.rmtree(run, ignore_errors=True)  # resumed, it would tell the time of the rest alone
        run.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", f"pipelines.{pipeline}"]
        command += [str(word) for word in (*settings, "--run", run)]  # over the recipe's folder
        device = "cpu" if options.device == "cpu" else "auto"
        command += ["--plugins", '["benchmarks.step_times"]', "--training.device", device]
        command += SMALL_RECIPE if options.small else ()
        environment = {"OMP_NUM_THREADS": str(options.threads), "IDBERT_STEP_TIMES": str(times)}
        finished = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
        )
        if finished.returncode:
            return f"failed: {(finished.stderr.strip().splitlines() or ['no output'])[-1]}"
    return float(sum(step["seconds"] for step in json.loads(times.read_text())))


def publish(
    options: argparse.Namespace,
    measured: dict[str, list[dict[str, Any]]],
    failures: dict[str, str],
) -> None:
    """Write one row a library and number of minutes, and the curves."""
    rows = []
    for name, points in measured.items():
        for point in points:
            busy = "" if point["foreign"] is None else f"{point['foreign']:.0%}"
            busy += "" if is_quiet(point) else " (busy)"
            figures = [f"{point[metric]:.4f}" for metric in HEADLINE]
            spent = [f"{point['asked']:g}", f"{point['minutes']:.1f}", f"{point['epochs']:.1f}"]
            rows.append([name, *spent, *figures, busy])
    header = ["", "minutes asked", "of training", "epochs", "NDCG@10", "recall@10", "foreign"]
    rows += [report.failed_row(name, why, len(header)) for name, why in failures.items()]
    own = f"ml-1m-{options.model}"
    title = f"Quality of {options.model} on {name_of(options)} after as many minutes"
    title += "" if options.recipe.stem == own else f", idbert by {options.recipe.stem}"
    notes = [
        f"{options.threads} threads; hidden {options.hidden}, {options.layers} layers, "
        f"{options.heads} heads, length {options.maxlen}; one seed; test part of "
        "leave-last-out, full ranking, seen items filtered.",
        f"idbert by {options.recipe.name}, its dropout, rate and batches; the others with dropout "
        f"{options.dropout}, of shares of attention too, a constant rate, and {options.batch} "
        "sequences a step.",
    ]
    section = report.Report(
        report.section_name(
            "equal-time",
            name_of(options),
            options.model,
            *(() if options.recipe.stem == own else (options.recipe.stem,)),
            options.device,
        ),
        title,
        report.markdown(header, rows),
        notes,
        curves(measured, title),
        options.device,
    )
    report.publish(section, "equal_time", options)


def curves(measured: dict[str, list[dict[str, Any]]], title: str) -> str:
    """Draw NDCG@10 over the minutes of training, idbert in colour."""
    styles = ("--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.4), layout="constrained")
        axes = figure.subplots()
        for place, (name, points) in enumerate(measured.items()):
            axes.plot(
                [point["minutes"] for point in points],
                [point["ndcg@10"] for point in points],
                linestyle="-" if name == OURS else styles[place % len(styles)],
                color=ACCENT if name == OURS else QUIET,
                linewidth=2.0 if name == OURS else 1.3,
                marker="o",
                markersize=4,
                label=name,
            )
        axes.set_title(title)
        axes.set_xlabel("minutes of training")
        axes.set_ylabel("NDCG@10, test")
        axes.set_ylim(bottom=0)
        axes.tick_params(length=0)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8.5)
        return str(svg(figure))


if __name__ == "__main__":
    main()
