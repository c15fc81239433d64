"""python -m pipelines.rec_evaluate: the figures of finished runs beside the baselines."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from idbert.errors import ConfigError
from idbert.evaluation.baselines import fit_baselines
from idbert.evaluation.evaluate import Evaluation, comparison_text, evaluate
from idbert.inputs.splits import split as split_log
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.item_models import load_item_model
from idbert.run_dir import RunDir
from idbert.training.validation import Validation, model_score
from pipelines.cli import run_command, stage
from pipelines.corridor import STAGES, held_out, read_log, settings_of, write_report

logger = logging.getLogger(__name__)

Part = Literal["validation", "test"]


@dataclass(frozen=True)
class RecEvaluateSettings:
    """Which runs, on which part."""

    run: str = "runs/rec_finetune"
    """The finished run to evaluate; its metrics.json and report.html are rewritten."""
    compare: tuple[str, ...] = ()
    """Further finished runs on the same log and split, for the table."""
    part: Part = "test"
    """test, to report; validation, to choose."""
    filter_seen: bool = True
    """Whether items of a user's history are left out of the ranking."""


def main(config: RecEvaluateSettings) -> None:
    """Evaluate finished runs over the full catalogue, beside the baselines.

    Prints recall and NDCG with 95% bootstrap intervals over users, and paired differences to the
    run. Baselines: popularity, recent popularity (where times are real), item-kNN, and item-kNN
    with weights that decay with age.
    """
    runs = [RunDir.open(folder, STAGES) for folder in (config.run, *config.compare)]
    evaluations = evaluate_runs(runs, config.part, filter_seen=config.filter_seen)
    write_report(runs[0], config.part, evaluations)
    print(comparison_text(evaluations))


def evaluate_runs(
    runs: Sequence[RunDir], part: Part, *, filter_seen: bool = True
) -> dict[str, Evaluation]:
    """Return the evaluations of the runs, then of the baselines, all by the same protocol.

    Raises:
        ConfigError: the runs are not of the same log and split.
    """
    settings = settings_of(runs[0])
    for run in runs[1:]:
        other = settings_of(run)
        if (other.data, other.split) != (settings.data, settings.split):
            raise ConfigError(
                f"{run.path} cannot be compared with {runs[0].path}: their data or split settings "
                "differ. Evaluate it on its own."
            )
    with stage("read and split the log"):
        parts = split_log(read_log(settings.data), settings.split)
    vocabulary = Vocabulary.load(runs[0].path)
    users = held_out(getattr(parts, part), vocabulary)
    histories = (users.histories.items, users.histories.offsets)
    scores = fit_baselines(
        *histories, *histories, len(vocabulary), train_times=users.histories.times
    )
    for run in reversed(runs):
        scores = {run.path.name: model_score(load_item_model(run.model), users)} | scores
    evaluations = {}
    for name, score in scores.items():
        with stage(f"evaluate {name}"):
            evaluations[name] = evaluate(
                score,
                users.targets_U,
                histories,
                counts_V=vocabulary.counts_V,
                split=f"{settings.split.name.replace('_', '-')}, {part}",
                filter_seen=filter_seen,
            )
    return evaluations


if __name__ == "__main__":
    run_command(main, RecEvaluateSettings)
