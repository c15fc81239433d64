"""All users of a log scored, ten best items each, seen ones dropped: how many users a second?

    python -m benchmarks.inference --data ml-1m.parquet --peers PEERS --write

idbert recommends by Recommender.recommend_batches, from the table of events to the last batch of
ids, in a process of its own in which some users were scored before. A peer (benchmarks.peers)
trains for a moment, then scores the same users by its own inference path. All have the same
architecture; weights change no speed, so that ours are fresh unless --run names a finished run.
Each pass runs everything once, in turn; a pass in which other processes used 6% of the machine or
more does not count as long as there is another. CPU ms are those of our process for one user, and
tell on a busy machine too. The peers' drivers score on the CPU alone.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.inference_work import K
from benchmarks.peers import MODELS as MODEL_NAMES
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
from benchmarks.quiet import in_turn, quiet_ones

Measure = Callable[[], dict[str, Any] | str]


def ours(model_name: str, options: argparse.Namespace, data: Path, precision: str) -> Measure:
    """Return what measures idbert in a process of its own."""
    names = ("hidden", "layers", "heads", "maxlen", "threads", "device", "users", "run")
    work = {name: getattr(options, name) for name in names}
    work |= {"model": model_name, "data": str(data), "table_precision": precision}
    return partial(in_own_process, "inference_work", [json.dumps(work)], options.threads)


def theirs(
    peer: Peer, model_name: str, options: argparse.Namespace, data: Path
) -> dict[str, Any] | str:
    """Run a peer's driver; return its figures, or why there are none."""
    if options.device != "cpu":
        return "left out: its driver scores on the CPU"
    result = run_driver(peer, model_name, data, options, seconds=options.train_seconds)
    if isinstance(result, str):
        return result
    return result | {"foreign": result.get("eval_foreign_cpu")}


def main(arguments: list[str] | None = None) -> None:
    """Measure all forms in turn and publish the table."""
    parser = report.new_parser(__doc__)
    add_architecture(parser)
    parser.add_argument("--run", help="a finished run, in place of a fresh model")
    parser.add_argument("--models", nargs="+", choices=MODEL_NAMES, default=list(MODEL_NAMES))
    parser.add_argument("--users", type=int, default=0, help="only the first so many of ours")
    parser.add_argument("--bfloat16", action="store_true", help="our items in bfloat16 too")
    parser.add_argument("--train_seconds", type=float, default=5.0, help="of a peer, before")
    options = report.parse(parser, arguments, **SMALL, train_seconds=0.1)
    forms: dict[str, Measure] = {}
    with opened(options) as data:
        for model_name in options.models:
            forms[f"idbert, {model_name}"] = ours(model_name, options, data, "float32")
            if options.bfloat16:
                name = f"idbert, items in bfloat16, {model_name}"
                forms[name] = ours(model_name, options, data, "bfloat16")
            for peer in peers_for(options, model_name):
                forms[f"{peer.name}, {model_name}"] = partial(
                    theirs, peer, model_name, options, data
                )
        measured, failures = in_turn(forms, options.passes, options.wait)
    used = {who: quiet_ones(passes) for who, passes in measured.items()}
    header = ["", "users/s", "CPU ms a user", "GPU MiB", "foreign"]
    rows = [
        [
            who,
            report.spread([one["users_per_s"] for one in used[who]]),
            report.spread([one.get("cpu_ms") for one in used[who]], ".3f"),
            report.spread([one.get("device_mib") for one in used[who]]),
            report.foreign(passes),
        ]
        for who, passes in measured.items()
    ]
    rows += [report.failed_row(who, why, len(header)) for who, why in failures.items()]
    speeds = {who: [one["users_per_s"] for one in passes] for who, passes in used.items()}
    of_models = [
        {who: found for who, found in speeds.items() if who.endswith(f", {model_name}")}
        for model_name in options.models
    ]
    on = "a GPU" if options.device == "cuda" else f"{options.threads} threads"
    title = f"Scoring all users of {name_of(options)}, top {K}, {on}"
    notes = [
        f"Hidden {options.hidden}, {options.layers} layers, {options.heads} heads, length "
        f"{options.maxlen}; median of the quiet passes, in brackets the least and the most.",
        *(line for found in of_models for line in report.ratios(found)),
        report.versions_of(measured),
    ]
    finished = report.Report(
        report.section_name("inference", name_of(options), options.device),
        title,
        report.markdown(header, rows),
        notes,
        report.bars(title, speeds, "users a second"),
        options.device,
    )
    report.publish(finished, "inference", options)
    report.check_own(failures)


if __name__ == "__main__":
    main()
