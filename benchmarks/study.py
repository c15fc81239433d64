"""The variants of a finished study of recommenders, compared user by user.

    python -m benchmarks.study runs/studies/item-parts --title "Parts of a next-item model" --write

`pipelines.ablate` has made the runs; its intervals say what other seeds would change. Here every
run is evaluated once more, each user's metrics are averaged over the seeds, and the differences to
the base get 95% intervals by a paired bootstrap over users: what other users would change.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import report
from idbert.errors import DataError
from idbert.evaluation.bootstrap import paired
from idbert.evaluation.evaluate import HEADLINE, Evaluation
from idbert.run_dir import MARKER, RunDir
from pipelines.ablation_charts import difference_chart
from pipelines.ablation_plan import BASE
from pipelines.corridor import STAGES
from pipelines.reporting import evaluate_runs

SEED = "-seed"
"""Stands in a run's folder between its variant and its seed."""


def main(arguments: list[str] | None = None) -> None:
    """Evaluate all runs of a study, and publish the table of its variants."""
    parser = report.new_parser(__doc__)
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("--title", help="of the section; by default the folder's name")
    parser.add_argument("--part", default="validation", choices=("validation", "test"))
    options = report.parse(parser, arguments)
    runs = runs_of(options.study)
    folders = [RunDir.open(folder, STAGES) for by_seed in runs.values() for folder in by_seed]
    found = evaluate_runs(folders, options.part).evaluations
    names = {variant: [folder.name for folder in by_seed] for variant, by_seed in runs.items()}
    publish(options, names, found)


def runs_of(study: Path) -> dict[str, list[Path]]:
    """Return the finished runs of each variant, the base first.

    Raises:
        DataError: there is no run of the base.
    """
    runs: dict[str, list[Path]] = {BASE: []}
    for folder in sorted(study.glob(f"*{SEED}*")):
        if (folder / MARKER).is_file() and RunDir(folder).is_complete:
            runs.setdefault(folder.name.rpartition(SEED)[0], []).append(folder)
    if not runs[BASE]:
        raise DataError(f"{study} holds no finished run of the base. Give a study's folder.")
    return runs


def publish(
    options: argparse.Namespace, names: dict[str, list[str]], found: dict[str, Evaluation]
) -> None:
    """Write the table: variants with their differences to the base, then the baselines.

    Args:
        options: of the command line.
        names: by variant, its runs.
        found: by run or baseline, its evaluation.
    """

    def over_seeds(variant: str, metric: str) -> np.ndarray[Any, Any]:
        """Return each seed's value of each user, [seeds, U]."""
        return np.stack([found[name].per_user[metric] for name in names[variant]])

    rows, charted = [], []
    for variant in names:
        cells = [variant]
        for metric in HEADLINE:
            values = over_seeds(variant, metric)
            seeds = ", ".join(f"{mean:.4f}" for mean in values.mean(1))
            cells.append(f"{values.mean():.4f} ({seeds})")
            if variant == BASE:
                cells.append("")
                continue
            difference, low, high = paired(values.mean(0), over_seeds(BASE, metric).mean(0))
            cells.append(f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]")
            if metric == HEADLINE[0]:
                charted.append((variant, difference, low, high))
        rows.append(cells)
    of_runs = {name for by_seed in names.values() for name in by_seed}
    for name, evaluation in found.items():
        if name not in of_runs:
            rows.append(
                [name, *(x for m in HEADLINE for x in (f"{evaluation.metrics[m]:.4f}", ""))]
            )
    title = options.title or options.study.name
    header = ["variant", "NDCG@10 (seeds)", "less base", "recall@10 (seeds)", "less base"]
    protocol = next(iter(found.values())).protocol
    differences = pd.DataFrame(charted, columns=["variant", "difference", "low", "high"])
    section = report.Report(
        report.section_name("study", options.study.name, options.part),
        title,
        report.markdown(header, rows),
        [
            f"{protocol}.",
            "Differences: paired bootstrap over users, each user's values averaged over the seeds.",
        ],
        difference_chart(differences, HEADLINE[0]),
    )
    report.publish(section, "study", options)


if __name__ == "__main__":
    main()
