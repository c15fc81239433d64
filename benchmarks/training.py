"""How many real interactions a second does a training read, beside other libraries?

    python -m benchmarks.training --data ml-1m.parquet --peers PEERS --attention_dropout --write
    python -m benchmarks.training --data ml-1m.parquet --peers PEERS --write
    python -m benchmarks.training --data beauty.parquet --maxlen 50 --loss chunked sampled ...
    python -m benchmarks.training --device cuda --precision float32 bfloat16 ...

idbert trains by its own trainer (build_trainer), a peer by its driver (benchmarks.peers): the same
architecture, masking, dropout and threads, and as many real positions in a step on average, unless
--tokens says how many ours has (128 sequences padded to 50, say, are 6,400 positions for a peer, of
which 880 are real); a step of several small batches (--accumulation) takes less memory.
Shares of attention are dropped on both sides (--attention_dropout), as all peers do, or on neither.
Full softmax, unless --loss names another. Interactions are real input positions, without padding.

A step is counted where other processes used less than 6% of the machine in its window of a second;
`foreign` is their share over all windows. CPU figures are per second of our own processor time, and
tell on a busy machine too. `of the peak` is the arithmetic that the model needs for real positions
(`needed_operations`: the last layer and the scores only where a target stands; backward twice as
much as forward) over the time, beside the best rate of products that the machine shows: float32 on
a processor, by MKL or by oneDNN; the training's type on a GPU.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.peers import (
    MODELS,
    SMALL,
    Peer,
    add_architecture,
    in_own_process,
    name_of,
    opened,
    peers_for,
    run_driver,
    trained,
)
from benchmarks.quiet import in_turn, quiet_ones
from idbert.nn.losses.catalogue import LOSSES

Measure = Callable[[], dict[str, Any] | str]


def ours(
    options: argparse.Namespace,
    data: Path,
    loss: str,
    precision: str,
    tokens: int,
    accumulation: int,
) -> Measure:
    """Return what measures idbert in a process of its own."""
    names = ("model", "hidden", "layers", "heads", "maxlen", "dropout", "mask", "batch")
    work = {name: getattr(options, name) for name in names}
    work |= {name: getattr(options, name) for name in ("seconds", "warmup", "threads", "device")}
    draws = LOSSES[loss].draws_rows
    work |= {"loss": loss, "loss_options": json.loads(options.loss_options) if draws else {}}
    work |= {"attention_dropout": options.attention_dropout, "precision": precision}
    work |= {"tokens": tokens, "accumulation": accumulation}
    work |= {"sparse_rows": options.sparse_rows if draws else None}
    work["data"] = str(data)
    return partial(in_own_process, "training_work", [json.dumps(work)], options.threads)


def theirs(peer: Peer, options: argparse.Namespace, data: Path) -> dict[str, Any] | str:
    """Run a peer's driver."""
    result = run_driver(
        peer,
        options.model,
        data,
        options,
        "--no-eval",
        "--warmup",
        options.peer_warmup,
        seconds=options.seconds,
        attention_dropout=options.attention_dropout,
    )
    return trained(result)


def forms_of(options: argparse.Namespace, data: Path) -> dict[str, Measure]:
    """Return everything that is measured, by its name in the table."""
    forms: dict[str, Measure] = {}
    ours_are = (options.loss, options.precision, options.tokens, options.accumulation)
    for loss, precision, tokens, parts in product(*ours_are):
        words = [loss] * (loss != options.loss[0]) + [precision] * (precision != "float32")
        words += [f"{tokens:,} positions a step"] * (tokens > 0)
        words += [f"steps of {parts} batches"] * (parts > 1)
        forms[", ".join(["idbert", *words])] = ours(options, data, loss, precision, tokens, parts)
    for peer in peers_for(options, options.model):
        forms[peer.name] = partial(theirs, peer, options, data)
    return forms


def row(who: str, passes: list[dict[str, Any]], *, with_gpu: bool) -> list[str]:
    """Return a line of the table; what a driver does not tell is left empty."""
    used = quiet_ones(passes)

    def figures(name: str) -> list[float | None]:
        return [one.get(name) for one in used]

    shares = [one["gflops"] / one["peak_gflops"] for one in used if "gflops" in one]
    memory = [one["training_mib"] - one["imports_mib"] for one in used if "training_mib" in one]
    return [
        who,
        report.spread(figures("interactions_per_s")),
        report.spread(figures("interactions_per_cpu_s")),
        report.spread(memory),
        *([report.spread(figures("device_mib"))] if with_gpu else []),
        report.spread(shares, ".0%"),
        report.foreign(passes),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure all forms in turn and publish the table."""
    parser = report.new_parser(__doc__)
    add_architecture(parser)
    parser.add_argument("--model", choices=MODELS, default="bert4rec")
    parser.add_argument("--seconds", type=float, default=40.0, help="of training, behind --warmup")
    parser.add_argument("--warmup", type=int, default=20, help="our steps that are not counted")
    parser.add_argument("--peer_warmup", type=int, default=5, help="the same of the peers'")
    parser.add_argument("--attention_dropout", action="store_true", help="on both sides")
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        default=[0],
        help="real positions of our steps, one row each; 0: as many as the peers'",
    )
    parser.add_argument(
        "--accumulation", type=int, nargs="+", default=[1], help="our batches a step; one row each"
    )
    parser.add_argument("--loss", nargs="+", default=["chunked"], help="ours; one row each")
    parser.add_argument("--loss_options", default="{}", help="of those that draw rows, as JSON")
    parser.add_argument(
        "--sparse_rows", action="store_true", default=None, help="with a loss that draws rows"
    )
    parser.add_argument("--precision", nargs="+", default=["float32"], help="ours; one row each")
    options = report.parse(parser, arguments, **SMALL, seconds=0.2, warmup=2)
    with opened(options) as data:
        measured, failures = in_turn(forms_of(options, data), options.passes, options.wait)
    with_gpu = options.device == "cuda"
    header = ["", "interactions/s", "a CPU second", "peak MiB above imports"]
    header += ["GPU MiB"] * with_gpu + ["of the peak", "foreign"]
    rows = [row(who, passes, with_gpu=with_gpu) for who, passes in measured.items()]
    rows += [report.failed_row(who, why, len(header)) for who, why in failures.items()]
    rates = {
        who: [one["interactions_per_s"] for one in quiet_ones(passes)]
        for who, passes in measured.items()
    }
    dropped = "with" if options.attention_dropout else "without"
    on = " on a GPU" if with_gpu else f", {options.threads} threads"
    title = f"Training of {options.model} on {name_of(options)}{on}, {dropped} attention dropout"
    notes = [
        f"Hidden {options.hidden}, {options.layers} layers, {options.heads} heads, length "
        f"{options.maxlen}, masking {options.mask}, dropout {options.dropout}; median of the "
        "quiet passes, in brackets the least and the most.",
        *report.ratios(rates),
        report.versions_of(measured),
    ]
    publish = report.Report(
        report.section_name("training", name_of(options), options.model, options.device, dropped),
        title,
        report.markdown(header, rows),
        notes,
        report.bars(title, rates, "real interactions a second"),
        options.device,
    )
    report.publish(publish, "training", options)
    report.check_own(failures)


if __name__ == "__main__":
    main()
