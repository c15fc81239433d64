"""python -m pipelines.tune SEARCH.yaml: better settings of a recipe, looked for within ranges."""

import sys
from functools import partial
from pathlib import Path

from idbert.files import written_aside
from pipelines.cli import run_command
from pipelines.tuning_plan import SearchSettings, plan_search
from pipelines.tuning_report import BEST, markdown, write_page, write_progress
from pipelines.tuning_runs import open_study, search_on


def main(config: SearchSettings) -> None:
    """Look for better settings of a recipe: propose some, train, measure on the validation part.

    Every trial is `python -m pipelines.PIPELINE` in a folder of its own; bad ones are ended early.
    The search's folder receives trials.csv and best.yaml, the best settings as a recipe, after
    every trial, and in the end search.md and search.html. The same command goes on after a stop,
    and adds trials where --trials is larger; one at a time in a folder.
    """
    search = plan_search(config)  # all ranges are checked now, not after some hours
    study = open_study(config, search)
    search_on(config, search, study, partial(write_progress, config, search, study))
    write_page(config, search, study)
    with written_aside(Path(config.run) / "search.md") as aside:
        aside.write_text(markdown(config, search, study), encoding="utf-8")
    print(Path(config.run) / BEST)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv.insert(1, "--config")
    run_command(main, SearchSettings)
