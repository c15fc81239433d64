"""A log of any size whose items and users follow power laws, as partitioned parquet.

    python -m benchmarks.power_law_log --rows 100000000 --output LOG
    python -m benchmarks.power_law_log --rows 1000000 --id_type string --output LOG

The events come in the order of time, as a service would write them: one part after the other,
every part a stretch of time. Each part is drawn from (seed, its number) and the whole is written
part by part, so that memory does not grow with the number of rows, and the same options give the
same files. Popularity is a bounded Pareto distribution over ranks, drawn by its inverse: the
share of rank r falls as r ** -exponent. Ids are scrambled ranks, so that neither their order nor
that of the rows tells how popular an item is.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from idbert.files import written_aside

EPOCH = 1_600_000_000  # seconds: September 2020
SECONDS_A_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class LogOptions:
    """What the log looks like; 0: as many as suits the number of rows."""

    rows: int
    users: int = 0
    items: int = 0
    item_exponent: float = 1.0
    user_exponent: float = 0.6
    days: int = 365
    id_type: str = "integer"
    rows_a_part: int = 2_000_000
    seed: int = 0

    @property
    def num_users(self) -> int:
        """Users: 50 events each on average."""
        return self.users or max(10, self.rows // 50)

    @property
    def num_items(self) -> int:
        """Items: 100 events each on average."""
        return self.items or max(10, self.rows // 100)

    @property
    def num_parts(self) -> int:
        """Files of the log."""
        return -(-self.rows // self.rows_a_part)


def power_law(rng: np.random.Generator, count: int, size: int, exponent: float) -> np.ndarray:
    """Draw ranks from 0 to size - 1, the share of rank r falling as (r + 1) ** -exponent."""
    draws = rng.random(count)
    if math.isclose(exponent, 1):
        ranks = np.exp(draws * math.log(size + 1))
    else:
        power = 1 - exponent
        ranks = (draws * ((size + 1) ** power - 1) + 1) ** (1 / power)
    return np.minimum(ranks.astype(np.int64) - 1, size - 1)


def scrambled(ranks: np.ndarray, size: int) -> np.ndarray:
    """Map ranks to other numbers below `size`, one to one."""
    factor = int(0.6180339887 * size) | 1
    while math.gcd(factor, size) > 1:
        factor += 2
    return (ranks * factor + size // 3) % size


def part(options: LogOptions, number: int) -> pa.Table:
    """Return one part of the log."""
    rng = np.random.default_rng([options.seed, number])
    first = number * options.rows_a_part
    count = min(options.rows_a_part, options.rows - first)
    users = power_law(rng, count, options.num_users, options.user_exponent)
    items = power_law(rng, count, options.num_items, options.item_exponent)
    step = options.days * SECONDS_A_DAY / options.rows
    times = EPOCH + ((first + np.sort(rng.random(count)) * count) * step).astype(np.int64)
    return pa.table(
        {
            "user_id": _ids(scrambled(users, options.num_users), "user", options.id_type),
            "item_id": _ids(scrambled(items, options.num_items), "item", options.id_type),
            "timestamp": times,
        }
    )


def write_log(options: LogOptions, folder: Path) -> Iterator[Path]:
    """Write the parts one after another; yields each file once it is whole."""
    for number in range(options.num_parts):
        path = folder / f"part-{number:05d}.parquet"
        with written_aside(path) as aside:
            pq.write_table(part(options, number), aside)
        yield path


def _ids(numbers: np.ndarray, name: str, id_type: str) -> pa.Array:
    if id_type == "integer":
        return pa.array(numbers)
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 10, "0")
    return pc.binary_join_element_wise(name, digits, "-")


def parse() -> tuple[LogOptions, Path]:
    """Return the options of the command line, and the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, required=True, help="interactions")
    parser.add_argument("--output", type=Path, required=True, help="folder of the parts")
    parser.add_argument("--users", type=int, default=0, help="default: rows / 50")
    parser.add_argument("--items", type=int, default=0, help="default: rows / 100")
    parser.add_argument("--item_exponent", type=float, default=1.0, help="of popularity by rank")
    parser.add_argument("--user_exponent", type=float, default=0.6, help="of activity by rank")
    parser.add_argument("--days", type=int, default=365, help="that the log covers")
    parser.add_argument("--id_type", choices=("integer", "string"), default="integer")
    parser.add_argument("--rows_a_part", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    folder: Path = given.pop("output")
    return LogOptions(**given), folder


def main() -> None:
    """Write the log."""
    options, folder = parse()
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty. Name another folder with --output.")
    for number, path in enumerate(write_log(options, folder), 1):
        print(f"{number}/{options.num_parts} {path}", flush=True)


if __name__ == "__main__":
    main()
