"""Does the index of a run rank as its model does?

    python -m benchmarks.index_agreement --run runs/demo/finetuned

Recommends ten items to every user of the run's log twice, once by the model's own scores and once
by the run's index, seen items left out both times, and counts the users whose lists are equal.
Items whose scores differ by less than float32's rounding may change places and count as equal.
"""

import argparse

import numpy as np

from idbert import Recommender
from idbert.run_dir import RunDir
from idbert.tables import ITEM, SCORE, USER
from pipelines.corridor import log_settings_of, read_log

K = 10
ROUNDING = 1e-4
"""Scores of ten or so differ by this much between two orders of summation."""


def main() -> None:
    """Print how many users get the same ten items."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", required=True, help="a finished run with an index")
    run = RunDir.open(parser.parse_args().run)
    log = read_log(log_settings_of(run).data)
    lists = [Recommender.load(run.path, index=index).recommend(log, K) for index in (False, True)]
    exact, indexed = (table.groupby(USER).agg({ITEM: list, SCORE: list}) for table in lists)
    users = len(exact)
    same_items = sum(map(np.array_equal, exact[ITEM], indexed[ITEM]))
    same_scores = sum(
        np.allclose(a, b, atol=ROUNDING) for a, b in zip(exact[SCORE], indexed[SCORE], strict=True)
    )
    print(f"{users} users: {same_items} the same {K} items in the same order")
    print(f"{users} users: {same_scores} the same {K} scores within {ROUNDING}")


if __name__ == "__main__":
    main()
