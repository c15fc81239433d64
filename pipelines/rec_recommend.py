"""python -m pipelines.rec_recommend: recommendations in the log's own ids."""

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from idbert.errors import ConfigError, DataError
from idbert.inputs.formats import DELIMITERS, PARQUET
from idbert.inputs.prepared_log import PreparedLog
from idbert.retrieval.exact import TablePrecision
from idbert.retrieval.index_device import IndexDevice
from idbert.retrieval.index_settings import SearchSettings
from idbert.retrieval.recommendation_batches import FORMATS
from idbert.retrieval.recommender import USERS_AT_ONCE, Recommender
from idbert.run_dir import RunDir
from idbert.tables import HISTORY, ITEM, RANK, SCORE, TITLE, USER, Interactions
from pipelines.cli import logger, naming_plugins_of, run_command, stage
from pipelines.corridor import (
    STAGES,
    DataSettings,
    filters_seen,
    log_settings_of,
    open_prepared,
    read_titles,
)
from pipelines.histories import INTEGER, NO_ITEM, read_histories_of

SHOWN_EVENTS = 5
"""Newest events of a history that are printed above its recommendations."""

SHOWN_USERS = 20
"""Users whose recommendations are printed; a file receives all."""


@dataclass(frozen=True)
class RecRecommendSettings:
    """For whom, how many, and where to."""

    run: str = "runs/rec_finetune"
    """The finished run; its index is searched if it has one."""
    histories: str | None = None
    """Events to recommend for, read as the run's log was: a file, a folder or a glob. Users need
    not have been there in training. Default: the run's log."""
    users: str | None = None
    """Only these users of the histories: ids separated by commas, quoted as in CSV; or @FILE, a
    table with a column user_id, or a .txt file with an id a line."""
    items: str | None = None
    """In place of histories: one history, item ids from oldest to newest, separated alike."""
    k: int = 10
    """Recommendations a user."""
    filter_seen: bool | None = None
    """Whether items of the history are left out. Default: as the run was trained with."""
    allow: str | None = None
    """The only items that may be recommended, separated by commas; or @FILE, a table with a column
    item_id, or a .txt file with an id a line."""
    deny: str | None = None
    """Items that may not be recommended, given alike."""
    behaviour: str | None = None
    """Which kind of event to predict (buy, say); only for masked-item models of a log with
    behaviours. Default: the most frequent one."""
    at: str | None = None
    """The moment for which is recommended, for a model that reads it (time_bias.query_time): an
    ISO date, or seconds since 1970-01-01 UTC."""
    output: str | None = None
    """A .csv or .parquet file for the table of user_id, rank, item_id, score, written while it is
    made; default: print it."""
    index: bool | None = None
    """Whether the run's index is searched. Default: if there is one."""
    search: SearchSettings = field(default_factory=SearchSettings)
    """How thoroughly an approximate index is searched"""
    mapped: bool = False
    """Whether the index stays on disk and only what is needed of it is read; its digest is then not
    checked, only its size."""
    index_device: IndexDevice = "cpu"
    """Where the index is searched: cpu, or cuda (with faiss-gpu; an index Flat, IVF1024,Flat or
    IVF1024,SQfp16, not what --factory auto chooses for many items)."""
    table_precision: TablePrecision = "float32"
    """In which numbers items are kept where no index is searched. bfloat16 takes half the memory
    and changes a few recommendations."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model computes users' vectors."""
    users_at_once: int = USERS_AT_ONCE
    """Users that are encoded, searched for and written together."""

    def __post_init__(self) -> None:
        if self.items is not None and (self.histories is not None or self.users is not None):
            raise ConfigError("items is a history of its own: leave histories and users out.")
        if self.users_at_once < 1:
            raise ConfigError(f"users_at_once is {self.users_at_once}; it must be at least 1.")
        if self.output is not None and Path(self.output).suffix not in FORMATS:
            raise ConfigError(f"output is {self.output}; it must end in .csv or .parquet.")


def main(config: RecRecommendSettings) -> None:
    """Recommend items for users of the log, of another file, or for a history given by hand.

    Items that the model does not know are skipped and counted; a history without a known item gets
    the most popular items, and a line that says so.
    """
    run = RunDir.open(config.run, STAGES)
    with naming_plugins_of(run):
        recommender = Recommender.load(
            run.path,
            index=config.index,
            device=config.device,
            mapped=config.mapped,
            index_device=config.index_device,
            search=config.search,
            table_precision=config.table_precision,
        )
    item_type = recommender.vocabulary.ids.type
    histories: Interactions | PreparedLog | list[list[Any]]
    if config.items is not None:
        histories, num_users = [_ids(config.items, item_type, "items")], 1
    else:
        histories, num_users = _histories(run, config, item_type)
    with stage("recommend"):
        batches = recommender.recommend_batches(
            histories,
            config.k,
            filter_seen=filters_seen(run) if config.filter_seen is None else config.filter_seen,
            allow=None if config.allow is None else _ids(config.allow, item_type, "allow"),
            deny=None if config.deny is None else _ids(config.deny, item_type, "deny"),
            behaviour=config.behaviour,
            at=config.at,
            users_at_once=config.users_at_once,
        )
        if config.output is not None:
            count = batches.write(config.output, progress=True)
            logger.info("%d recommendations in %s", count, config.output)
            return
        table = pa.Table.from_batches(list(batches), batches.schema).to_pandas()
    assert not isinstance(histories, PreparedLog)
    _print(table, histories, read_titles(log_settings_of(run).data, item_type))
    if num_users > SHOWN_USERS:
        print(f"... and {num_users - SHOWN_USERS} more; --output FILE writes all.")


def _histories(
    run: RunDir, config: RecRecommendSettings, item_type: pa.DataType
) -> tuple[Interactions | PreparedLog, int]:
    """Return the events to recommend for, and how many users are asked for.

    Where the lists are printed, only those of the first users are made. All of a prepared log stay
    where they are mapped.

    Raises:
        DataError: one of the users asked for is not in the histories.
    """
    data = log_settings_of(run).data
    prepared = open_prepared(data) if config.histories is None else None
    log = prepared or read_histories_of(data, config.histories, item_type)
    users = (
        log.events.users
        if isinstance(log, PreparedLog)
        else log.column(USER).take(pa.array(log.user_offsets()[:-1])).combine_chunks()
    )
    kept_U = np.ones(len(users), dtype=bool)
    if config.users is not None:
        wanted = pa.array(_ids(config.users, users.type, "users"), users.type)
        if not len(wanted):
            raise ConfigError("users is empty. Name at least one, or leave it out for all.")
        missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=users))).unique()
        if len(missing):
            raise DataError(
                f"{len(missing)} users are not in {config.histories or data.source}, the first is "
                f"{min(missing.to_pylist())!r}.{_left_out(data, config)}"
            )
        kept_U = pc.is_in(users, value_set=wanted).to_numpy(zero_copy_only=False)
    num_users = int(kept_U.sum())
    if config.output is None:
        kept_U[np.flatnonzero(kept_U)[SHOWN_USERS:]] = False
    elif num_users == len(users):
        return log, num_users
    if isinstance(log, PreparedLog):
        return log.of_users(kept_U).interactions(), num_users
    return log.filter(np.repeat(kept_U, np.diff(log.user_offsets()))), num_users


def _left_out(data: DataSettings, config: RecRecommendSettings) -> str:
    """Say that users of the log may have been left out, and how they are served all the same."""
    least = {"min_user_events": data.min_user_events, "min_item_events": data.min_item_events}
    said = [f"data.{name}={count}" for name, count in least.items() if count > 1]
    if config.histories is not None or not said:
        return ""
    return (
        f" The run was trained with {' and '.join(said)}, which leaves users out. To recommend for "
        f"these too, add --histories {data.source}."
    )


def _ids(text: str, id_type: pa.DataType, setting: str) -> list[Any]:
    """Split ids as CSV does, or read them of a file, and give them the type that the log has.

    Raises:
        ConfigError: a quote is not closed, or the log's ids are integers and one of these is not.
        DataError: the file is missing, or holds no such ids.
    """
    if text.startswith("@"):
        column = USER if setting == "users" else ITEM
        if not Path(text[1:]).is_file():
            raise DataError(
                f"there is no file '{text[1:]}' to read {setting} from. An id that begins with @ "
                f"""stands in double quotes: '"{text}"'."""
            )
        return _as_type(_ids_in(Path(text[1:]), column), id_type, text, setting)
    try:
        ids = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error:
        raise ConfigError(
            f"{setting} is '{text}', which is not ids separated by commas. Put an id that holds a "
            'comma, a quote or a line break in double quotes, quotes in it doubled: "say ""hi""".'
        ) from None
    return _as_type(ids, id_type, f"'{text}'", setting)


def _as_type(ids: list[str], id_type: pa.DataType, given: str, setting: str) -> list[Any]:
    if not pa.types.is_integer(id_type):
        return ids
    for number, entry in enumerate(ids, 1):
        if not re.fullmatch(INTEGER, entry) or abs(int(entry)) >= 2**63:
            raise ConfigError(
                f"{setting} is {given}, but the log's ids are integers, and id {number} of "
                f"{len(ids)} is '{entry}'."
            )
    return [int(entry) for entry in ids]


def _ids_in(path: Path, column: str) -> list[str]:
    """Read ids of a column of a table, or of the lines of a .txt file, as text.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        ending = path.suffix.lower()
        if ending == ".txt":
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            return [line for line in lines if line]
        if ending in PARQUET:
            ids = pq.read_table(path, columns=[column]).column(column)
            return [str(entry) for entry in ids.drop_null().to_pylist()]
        table = pd.read_csv(
            path,
            sep=DELIMITERS[ending],
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
        return list(table[column])
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as ids ({error}). Give a .txt file with an id a line, or a "
            f".csv, .tsv or .parquet file with a column {column}."
        ) from error


def _print(
    table: pd.DataFrame, histories: Interactions | list[list[Any]], titles: dict[Any, str]
) -> None:
    """Print each user's newest events and recommendations, in words where there are titles."""
    if isinstance(histories, Interactions):
        events = histories.to_pandas().groupby(USER)[ITEM].agg(list).to_dict()
    else:
        events = dict(enumerate(histories))
    key = USER if USER in table.columns else HISTORY
    for user, best in table.groupby(key, sort=False):
        newest = [
            "(unknown)" if item == NO_ITEM else titles.get(item, str(item))
            for item in events[user][-SHOWN_EVENTS:]
        ]
        print(f"\n{key} {user}, newest events: {'; '.join(newest)}")
        shown = best[[RANK, ITEM, SCORE]]
        if titles:
            shown = shown.assign(**{TITLE: [titles.get(item, "") for item in best[ITEM]]})
        print(shown.to_string(index=False, formatters={SCORE: "{:.3f}".format}))


if __name__ == "__main__":
    run_command(main, RecRecommendSettings)
