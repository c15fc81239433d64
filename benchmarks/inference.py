"""All users of a log scored, ten best items each, seen ones dropped: how many users a second?

    python -m benchmarks.inference --data ml-1m.parquet --peers PEERS --write

idbert recommends by Recommender.recommend_batches, from the table of events to the last batch of
ids. A peer (benchmarks.peers) trains for a moment, then scores the same users by its own inference
path. All have the same architecture; weights change no speed, so that ours are fresh unless --run
names a finished run. Each pass runs everything once, in turn; a pass in which other processes used
6% of the machine or more does not count as long as there is another. CPU ms are those of our
process for one user, and tell on a busy machine too. The peers' drivers score on the CPU alone.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.peers import MODELS as MODEL_NAMES
from benchmarks.peers import SMALL, Peer, add_architecture, name_of, opened, peers_for, run_driver
from benchmarks.quiet import ForeignLoad, in_turn, own_cpu_s, quiet_ones
from benchmarks.training_work import MODELS
from idbert import Recommender, read_interactions
from idbert.inputs.splits import leave_last_out
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import EncoderSettings
from idbert.tables import Interactions

K = 10


def recommender_of(
    log: Interactions, model_name: str, options: argparse.Namespace, table_precision: str
) -> Recommender:
    """Open the run, or put a fresh model round the log's items."""
    if options.run:
        return Recommender.load(options.run, device=options.device, table_precision=table_precision)
    vocabulary = Vocabulary.from_interactions(log)
    torch.manual_seed(0)
    settings = EncoderSettings(
        hidden_size=options.hidden,
        num_layers=options.layers,
        num_heads=options.heads,
        max_length=options.maxlen,
    )
    model = MODELS[model_name].build(settings, vocab_size=len(vocabulary))
    return Recommender(model.to(options.device), vocabulary, table_precision=table_precision)


def ours(
    log: Interactions, model_name: str, options: argparse.Namespace, table_precision: str
) -> dict[str, Any]:
    """Score all users, or those that are asked for, and say how fast."""
    recommender = recommender_of(log, model_name, options, table_precision)
    load, cpu, started = ForeignLoad(), own_cpu_s(), time.perf_counter()
    batches = recommender.recommend_batches(log, K)
    found = sum(len(batch) for batch in batches)  # ids on the CPU: nothing is under way any more
    seconds, cpu = time.perf_counter() - started, own_cpu_s() - cpu
    users = len(batches.histories)
    assert found <= K * users
    return {
        "users_per_s": users / seconds,
        "cpu_ms": 1000 * cpu / users,
        "foreign": load.share(),
        "device_mib": torch.cuda.max_memory_allocated() / 2**20
        if options.device == "cuda"
        else None,
    }


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


def histories_of(data: Path, users: int) -> Interactions:
    """Return all but the last event of each user, as the peers do; 0: of all users."""
    log = leave_last_out(read_interactions(data)).test.histories
    if users:
        chosen = log.user_offsets()[min(users, len(log.user_offsets()) - 1)]
        log = log.with_table(log.table.slice(0, int(chosen)))
    return log


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
    torch.set_num_threads(options.threads)
    forms: dict[str, Callable[[], dict[str, Any] | str]] = {}
    with opened(options) as data:
        log = histories_of(data, options.users)
        for model_name in options.models:
            forms[f"idbert, {model_name}"] = partial(ours, log, model_name, options, "float32")
            if options.bfloat16:
                name = f"idbert, items in bfloat16, {model_name}"
                forms[name] = partial(ours, log, model_name, options, "bfloat16")
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
