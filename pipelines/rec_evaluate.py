"""python -m pipelines.rec_evaluate: the figures of finished runs beside the baselines."""

from dataclasses import dataclass, field

from idbert.errors import ConfigError
from idbert.evaluation.baselines import BaselineSettings
from idbert.evaluation.evaluate import HEADLINE, comparison_text
from idbert.run_dir import RunDir
from pipelines.cli import run_command
from pipelines.corridor import STAGES
from pipelines.reporting import Part, evaluate_runs, write_report


@dataclass(frozen=True)
class RecEvaluateSettings:
    """Which runs, on which part."""

    run: str = "runs/rec_finetune"
    """The finished run to evaluate; its metrics.json and report.html are rewritten."""
    compare: tuple[str, ...] = ()
    """Further finished runs on the same log and split, for the table."""
    part: Part = "test"
    """test, to report; validation, to choose."""
    filter_seen: bool | None = None
    """Whether items of a user's history are left out of the ranking. Default: as the run was
    trained with."""
    cutoffs: tuple[int, ...] = ()
    """Further lengths of lists to measure at, such as 50 and 100 for candidates that another model
    is to rank; the printed table is then of these. Default: 1, 5, 10 and 20, and 10 printed."""
    baselines: BaselineSettings = field(default_factory=BaselineSettings)
    """How the baselines are fitted"""

    def __post_init__(self) -> None:
        if wrong := [k for k in self.cutoffs if k < 1]:
            raise ConfigError(f"cutoffs are lengths of lists, from 1; got {wrong[0]}.")


def main(config: RecEvaluateSettings) -> None:
    """Evaluate finished runs over the full catalogue, beside the baselines.

    Prints NDCG and recall with 95% bootstrap intervals over users, and paired differences to the
    run. Baselines: popularity, recent popularity (where times are real), item-kNN and EASE, both
    also with weights that decay with age.
    """
    headline = [f"{name}@{k}" for k in sorted({*config.cutoffs}) for name in ("ndcg", "recall")]
    runs = [RunDir.open(folder, STAGES) for folder in (config.run, *config.compare)]
    evaluated = evaluate_runs(
        runs,
        config.part,
        filter_seen=config.filter_seen,
        cutoffs=config.cutoffs,
        baselines=config.baselines,
    )
    write_report(runs[0], evaluated)
    print(comparison_text(evaluated.evaluations, headline or HEADLINE))


if __name__ == "__main__":
    run_command(main, RecEvaluateSettings)
