"""How much memory do training, scoring, preparation and search take, beside other libraries?

    python -m benchmarks.memory --data ml-1m.parquet --peers PEERS --write

Every work runs in a process of its own, ours and the peers' (their drivers: train for some seconds,
then score). Figures are peaks of the process's resident memory, and what of it came on top of what
it held after its imports. The second table says where ours goes: what is held after each phase, and
the most that was held in it. Other processes do not change these figures; threads do, a little.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import preparation, report
from benchmarks.peers import (
    SMALL,
    Peer,
    add_architecture,
    in_own_process,
    name_of,
    opened,
    peers_for,
    run_driver,
)
from benchmarks.quiet import in_turn

WORKS = ("training", "scoring", "preparation", "search")
PEAKS = {
    "training_mib": "training",
    "scoring_mib": "scoring",
    "peak_mib": "preparation",
    "build_mib": "building",
    "search_mib": "searching",
}
Measure = Callable[[], dict[str, Any] | str]


def ours(work: str, options: argparse.Namespace, **more: Any) -> Measure:
    """Return what runs one of idbert's works in a process of its own."""
    names = ("hidden", "layers", "heads", "maxlen", "dropout", "mask", "batch", "threads", "device")
    settings = {name: getattr(options, name) for name in (*names, "seconds")} | more
    settings |= {"model": "bert4rec", "tokens": 0, "loss": "chunked", "loss_options": {}}
    settings |= {"attention_dropout": True, "precision": "float32", "run": None}
    settings["accumulation"] = options.accumulation
    return partial(in_own_process, "memory_work", [work, json.dumps(settings)], options.threads)


def theirs(peer: Peer, options: argparse.Namespace, data: Path) -> dict[str, Any] | str:
    """Run a peer's driver; without scoring, if that is not asked for."""
    arguments = [] if "scoring" in options.works else ["--no-eval"]
    return run_driver(peer, "bert4rec", data, options, *arguments, seconds=options.seconds)


def index_forms(options: argparse.Namespace, folder: Path) -> dict[str, Measure]:
    """Return what builds and searches each index, by its name."""
    cells = max(1, round(options.vectors**0.5))
    factories = {"exact": "Flat", "int8": "SQ8", "cells of int8": f"IVF{cells},SQ8"}
    forms: dict[str, Measure] = {}
    for name, factory in factories.items():
        place = str(folder / factory)
        sizes = {"vectors": options.vectors, "dimension": options.dimension, "folder": place}
        forms[f"idbert, building {name}"] = ours("build", options, **sizes, factory=factory)
        for how, mapped in ((name, False), (f"{name}, mapped", True)):
            forms[f"idbert, searching {how}"] = ours("search", options, **sizes, mapped=mapped)
    return forms


def forms_of(options: argparse.Namespace, data: Path, stack: ExitStack) -> dict[str, Measure]:
    """Return all that is measured, by its name."""
    forms: dict[str, Measure] = {}
    if "training" in options.works:
        forms["idbert, training"] = ours("train", options, data=str(data))
    if "scoring" in options.works:
        forms["idbert, scoring"] = ours("score", options, data=str(data))
    if {"training", "scoring"} & set(options.works):
        for peer in peers_for(options, "bert4rec"):
            forms[peer.name] = partial(theirs, peer, options, data)
    if "preparation" in options.works:
        preparation.open_log(options, stack)
        for name, measure in preparation.forms_of(options).items():
            forms[f"{name}, preparation"] = measure
    if "search" in options.works:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        forms |= index_forms(options, folder)
    return forms


def labelled(who: str, work: str) -> str:
    """Return the name of a row: a driver is measured at two works in one process."""
    return who if work in who else f"{who}, {work}"


def tables(measured: dict[str, list[dict[str, Any]]]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of all peaks, sorted by work, and those of our phases."""
    peaks, phases = [], []
    for key, work in PEAKS.items():
        for who, passes in measured.items():
            if key not in passes[0]:
                continue
            label = labelled(who, work)
            all_of = [one[key] for one in passes]
            imports = [one["imports_mib"] for one in passes]
            above = [one[key] - one["imports_mib"] for one in passes]
            peaks.append([label, *(report.spread(found) for found in (all_of, imports, above))])
            before = 0.0
            for one in passes[0].get("phases", []):
                held = one["held_mib"]
                cells = [f"{held:,.0f}", f"{held - before:+,.0f}", f"{one['peak_mib']:,.0f}"]
                phases.append([f"{label}: {one['phase']}", *cells])
                before = held
    return peaks, phases


def main(arguments: list[str] | None = None) -> None:
    """Measure all works in turn and publish the tables."""
    parser = report.new_parser(__doc__)
    add_architecture(parser)
    preparation.add_log(parser)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--seconds", type=float, default=30.0, help="of training")
    parser.add_argument("--accumulation", type=int, default=1, help="batches of our steps")
    parser.add_argument("--vectors", type=int, default=1_000_000, help="in an index")
    parser.add_argument("--dimension", type=int, default=64, help="of the vectors")
    parser.set_defaults(rows=1_000_000)
    small = {"seconds": 0.1, "rows": 5000, "vectors": 2000, "dimension": 16}
    options = report.parse(parser, arguments, **SMALL, **small)
    with opened(options) as data, ExitStack() as stack:
        measured, failures = in_turn(forms_of(options, data, stack), options.passes, options.wait)
    peaks, phases = tables(measured)
    header = ["", "peak MiB", "after imports", "above imports"]
    peaks += [report.failed_row(who, why, len(header)) for who, why in failures.items()]
    where = report.markdown(["", "held MiB", "more than before", "peak MiB"], phases)
    above = {
        labelled(who, work): [one[key] - one["imports_mib"] for one in passes]
        for key, work in PEAKS.items()
        for who, passes in measured.items()
        if key in passes[0]
    }
    title = f"Memory, {name_of(options)}, {', '.join(options.works)}"
    notes = [
        f"BERT4Rec, hidden {options.hidden}, {options.layers} layers, length {options.maxlen}, "
        f"{options.batch} sequences a step or as many positions in {options.accumulation} "
        f"batches, {options.threads} threads, "
        f"{options.vectors:,} vectors of {options.dimension}, {options.rows:,} rows to "
        "prepare; median of the passes, in brackets the least and the most. The phases are those "
        "of the first pass.",
        report.versions_of(measured),
    ]
    finished = report.Report(
        report.section_name("memory", name_of(options), *options.works),
        title,
        f"{report.markdown(header, peaks)}\n\nWhere ours goes:\n\n{where}",
        notes,
        report.bars(title, above, "peak MiB above the imports"),
        options.device,
    )
    report.publish(finished, "memory", options)
    report.check_own(failures)


if __name__ == "__main__":
    main()
