"""python -m pipelines.ablate STUDY.yaml: a recipe against its alternatives, over several seeds."""

import sys
from pathlib import Path

from idbert.errors import ConfigError
from pipelines.ablation_plan import BASE, StudySettings, compose, plan
from pipelines.ablation_report import winners_of, write_results
from pipelines.ablation_runs import make_runs, runs_of
from pipelines.cli import logger, run_command


def main(config: StudySettings) -> None:
    """Compare a base recipe with alternatives, one choice at a time or crossed, over seeds.

    Every run is `python -m pipelines.PIPELINE` in a folder of its own; runs that are there already
    are not repeated. The study's folder receives table.csv and curves.csv after every run, and in
    the end study.md, study.csv and study.html: mean and variance of the validation metric after
    the same number of epochs, the metric by epoch, and the paired difference to the base. Last of
    all the winners are put together and run.
    """
    study = Path(config.run)
    variants = plan(config)  # all settings are checked now, not after some hours
    study.mkdir(parents=True, exist_ok=True)
    curves = make_runs(config.pipeline, runs_of(variants, config.seeds, study), config.metric)
    winners = winners_of(curves, variants)
    if config.winners and winners and all(winners != variant.changes for variant in variants):
        try:
            variants = [*variants, compose(config, winners)]
        except ConfigError as error:
            logger.warning("The winners do not go together, and are not run. %s", error)
        curves = make_runs(config.pipeline, runs_of(variants, config.seeds, study), config.metric)
    write_results(study, config, variants, curves, winners)
    logger.info("the winners: %s", winners or f"{BASE}; no alternative is better than it")
    print(study / "study.md")


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv.insert(1, "--config")
    run_command(main, StudySettings)
