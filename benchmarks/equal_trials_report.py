"""The table and the plot of `equal_trials`."""

import argparse
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.equal_time import OURS
from benchmarks.peers import name_of
from idbert.evaluation.bootstrap import paired
from idbert.evaluation.charts import ACCENT, INK, QUIET, STYLE, WIDTH_IN, svg
from idbert.evaluation.evaluate import HEADLINE
from idbert.inputs.cuts import SplitSettings

POSITIONS_OF_A_SEQUENCE = 32
"""In idbert's batches, which have a number of positions, for one of a peer's sequences."""


def publish(
    options: argparse.Namespace,
    trials: dict[str, list[str]],
    tried: dict[str, dict[int, float]],
    tested: dict[str, list[dict[str, Any]]],
    failures: dict[str, str],
) -> None:
    """Write one row a library, with idbert's lead over it, and the plot of all trials.

    Args:
        options: of the command line.
        trials: by library, each in words.
        tried: by library and number of the trial, its validation NDCG@10.
        tested: by library, of each seed the users' metrics, seconds and foreign load.
        failures: by library, why it could not be measured.
    """

    def over_seeds(name: str, metric: str) -> np.ndarray[Any, Any]:
        return np.stack([one["users"][metric] for one in tested[name]])

    rows = []
    for name, by_number in tried.items():
        if name not in tested:
            continue
        best = max(by_number, key=lambda number: by_number[number])
        cells = [name, trials[name][best], f"{len(by_number)} of {len(trials[name])}"]
        seconds = report.spread([one["seconds"] for one in tested[name]])
        cells += [f"{by_number[best]:.4f}", f"{seconds} ({report.foreign(tested[name])})"]
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
    header = ["", "best trial", "trials that ran", "validation NDCG@10", "seconds (foreign load)"]
    header += ["test NDCG@10 (seeds)", "idbert's lead", "test recall@10 (seeds)", "idbert's lead"]
    rows += [report.failed_row(name, why, len(header)) for name, why in failures.items()]
    split = SplitSettings(options.split, targets=options.targets).in_words()
    title = f"Equal trials on {name_of(options)}, {split}"
    same = "the same for all"
    if options.recent_days:
        same += ", but that idbert draws for how many days popularity is recent, too"
    notes = [
        f"{options.trials} trials each, {same}; about {options.seconds:g} s of training each, "
        f"{options.threads} thread{'s' if options.threads > 1 else ''}; {options.layers} layers, "
        f"{options.heads} heads; full ranking, seen items filtered, also targets; validation "
        "targets trained on before the test.",
        f"Batches are of that many sequences, and idbert's of {POSITIONS_OF_A_SEQUENCE} positions "
        "for each. The others drop shares of attention too, idbert none; its rate falls to 0 by "
        "the end, as by default, where theirs stays as it is. RecBole's sequences: one a user "
        "(BERT4Rec), one a prefix (SASRec).",
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
