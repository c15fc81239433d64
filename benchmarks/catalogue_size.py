"""What does a step of training cost, the larger the catalogue is?

    python -m benchmarks.catalogue_size --write
    python -m benchmarks.catalogue_size --items 50000 1000000 --loss gbce --negatives 16 --write

The same histories in all but their items, drawn by a power law over as many items as --items says:
a step of a sampled loss should cost what it draws, and not what there is. Each size trains in a
process of its own by idbert's own trainer with its defaults (above 200,000 items only the rows move
that a step reads). The ratios are to the first size; a step counts where other processes used less
than 6% of the machine in its window of a second, as long as there are such.
"""

import argparse
import json
from functools import partial
from typing import Any

from benchmarks import report
from benchmarks.peers import add_architecture, in_own_process
from benchmarks.quiet import in_turn, quiet_ones
from benchmarks.training_work import MODELS


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all sizes have in common."""
    names = ("model", "hidden", "layers", "heads", "maxlen", "dropout", "mask", "users", "tokens")
    work = {name: getattr(options, name) for name in (*names, "seconds", "warmup", "threads")}
    more = {"attention_dropout": True, "precision": "float32", "accumulation": 1, "device": "cpu"}
    return work | more | {"loss": options.loss, "loss_options": {"negatives": options.negatives}}


def row(items: int, passes: list[dict[str, Any]], first: list[dict[str, Any]]) -> list[str]:
    """Return a line of the table."""

    def seconds(of: list[dict[str, Any]]) -> list[float]:
        return [1 / one["steps_per_s"] for one in quiet_ones(of)]

    return [
        f"{items:,}",
        report.spread([1000 * step for step in seconds(passes)], ".1f"),
        report.times(seconds(passes), seconds(first)),
        report.spread([1000 / one["steps_per_cpu_s"] for one in quiet_ones(passes)], ".1f"),
        report.spread([one["training_mib"] for one in passes]),
        report.spread([one["imports_mib"] for one in passes]),
        report.foreign(passes),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure all sizes in turn and publish the table."""
    parser = report.new_parser(__doc__)
    add_architecture(parser)
    sizes = [50_000, 1_000_000, 10_000_000]
    parser.add_argument("--items", type=int, nargs="+", default=sizes, help="in the catalogue")
    parser.add_argument("--model", choices=tuple(MODELS), default="sasrec")
    parser.add_argument("--loss", choices=("sampled", "gbce", "bce"), default="sampled")
    parser.add_argument("--negatives", type=int, default=1024)
    parser.add_argument("--users", type=int, default=20_000, help="whose histories are drawn")
    parser.add_argument("--tokens", type=int, default=6400, help="positions of a batch")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, behind --warmup")
    parser.add_argument("--warmup", type=int, default=20, help="steps that are not counted")
    parser.set_defaults(maxlen=50)
    small = {"items": [50, 500], "users": 40, "tokens": 100, "seconds": 0.2, "warmup": 2}
    small |= {"hidden": 8, "layers": 1, "maxlen": 10, "threads": 1, "passes": 1, "negatives": 8}
    options = report.parse(parser, arguments, **small)
    forms = {
        f"idbert, {items:,} items": partial(
            in_own_process,
            "catalogue_work",
            [json.dumps(settings_of(options) | {"items": items})],
            options.threads,
        )
        for items in options.items
    }
    measured, failures = in_turn(forms, options.passes, options.wait)
    report.check_own(failures)
    passes = list(measured.values())
    header = ["items", "ms a step", "times the first", "CPU ms a step", "peak MiB", "of it imports"]
    rows = [
        row(items, found, passes[0]) for items, found in zip(options.items, passes, strict=True)
    ]
    title = f"Training of {options.model} with large catalogues, {options.loss} loss"
    notes = [
        f"Hidden {options.hidden}, {options.layers} layers, length {options.maxlen}, dropout "
        f"{options.dropout}, {options.negatives} negatives, {options.tokens:,} positions a step, "
        f"{options.threads} threads; median of the quiet passes, in brackets the least and the "
        "most. The peak is the whole process's.",
    ]
    steps = {
        f"{items:,} items": [1000 / one["steps_per_s"] for one in quiet_ones(found)]
        for items, found in zip(options.items, passes, strict=True)
    }
    finished = report.Report(
        report.section_name("catalogue_size", options.model, options.loss),
        title,
        report.markdown([*header, "foreign"], rows),
        notes,
        report.bars(title, steps, "ms a step"),
    )
    report.publish(finished, "catalogue_size", options)


if __name__ == "__main__":
    main()
