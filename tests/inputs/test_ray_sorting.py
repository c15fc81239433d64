"""What Ray spreads, called here: parts are asked, cut into blocks, sorted and merged."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs import flat_arrays
from idbert.inputs.formats import open_parts
from idbert.inputs.interactions import InteractionSettings, check_events
from idbert.inputs.preparation import sort_here
from idbert.inputs.ray_sorting import (
    PartedRows,
    RaySort,
    RaySortSettings,
    _kinds_read,
    _numbered,
    events_of_part,
    sort_block,
)
from idbert.inputs.sorted_events import write_merged
from idbert.inputs.staging import staged
from idbert.ray_cluster import in_workers
from tests.inputs.test_preparation import EXTRA, random_frame, write_parts

TIMES = {
    "seconds": [1_600_000_000, 1_600_000_007, 1_600_000_003],
    "milliseconds": [1_600_000_000_000, 1_600_000_000_007, 1_600_000_000_003],
    "fractions": [1_600_000_000.25, 1_600_000_000.5, 1_600_000_001.0],
    "positions": [0, 7, 3],
    "text": ["1600000000", "1600000007.5", "1600000003"],
    "iso": ["2024-05-31", "2024-05-31T18:30:00", "2024-06-01"],
    "dates": pd.to_datetime(["2024-05-31", "2024-06-01", "2024-07-01"]),
}


class HereAndNow:
    """A Ray that computes each task when it is called."""

    def remote(self, **_: Any) -> Any:
        return lambda function: SimpleNamespace(remote=function)

    def get(self, results: list[Any]) -> list[Any]:
        return results


def parted(source: Path, settings: InteractionSettings) -> PartedRows:
    parts = open_parts(source, settings.columns())
    files = in_workers(part.name for part in parts)
    return PartedRows(HereAndNow(), str(source), _numbered(parts, files), settings)


def sort_in_blocks(source: Path, settings: InteractionSettings, blocks: int, work: Path) -> Path:
    """Sort as `RaySort` does, without Ray."""
    rows = parted(source, settings)
    checked = check_events(rows, settings)
    cut = partial(
        events_of_part,
        parts=rows.parts,
        starts=rows.starts,
        checked=checked,
        blocks=blocks,
        memory_limit="1GB",
    )
    numbers = [pa.table({"id": [part]}) for part in reversed(range(len(rows.parts)))]
    events = pa.concat_tables([piece for number in numbers for piece in cut(number)])
    spill, folder = work / "spill", work / "merged"
    spill.mkdir(parents=True)
    folder.mkdir()
    for block in pc.unique(events.column("block")).to_pylist():
        group = events.filter(pc.equal(events.column("block"), block))
        sort_block(
            group, kinds=_kinds_read(rows, checked), real=True, folder=spill, memory_limit="1GB"
        )
    assert len(list(spill.iterdir())) <= blocks
    write_merged(sorted(spill.iterdir()), folder)
    return folder


@pytest.mark.parametrize(
    ("text", "settings", "blocks"),
    [(True, EXTRA, 1), (True, EXTRA, 7), (False, {}, 3), (False, {"id_type": "string"}, 90)],
)
def test_any_number_of_blocks_makes_the_files_of_one_machine(
    text, settings, blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(flat_arrays, "CHUNK_EVENTS", 37)
    source = write_parts(random_frame(text=text), tmp_path / "log")
    read_by = InteractionSettings(**settings)
    found = sort_in_blocks(source, read_by, blocks, tmp_path)
    expected, spill = tmp_path / "here", tmp_path / "spill here"
    expected.mkdir()
    spill.mkdir()
    sort_here(str(source), open_parts(source, read_by.columns()), read_by, spill, expected)
    names = sorted(file.name for file in expected.iterdir())
    assert names == sorted(file.name for file in found.iterdir())
    assert [n for n in names if (found / n).read_bytes() != (expected / n).read_bytes()] == []


@pytest.mark.parametrize("kind", TIMES)
def test_times_are_understood_from_all_parts_together(kind: str, tmp_path: Path):
    frame = pd.DataFrame({"user_id": [1, 2, 3], "item_id": [4, 5, 6], "timestamp": TIMES[kind]})
    source, settings = write_parts(frame, tmp_path / "log"), InteractionSettings()
    columns = settings.columns()
    with staged("log", open_parts(source, columns), columns, "1GB") as events:
        assert check_events(parted(source, settings), settings) == check_events(events, settings)


@pytest.mark.parametrize(
    ("column", "value"),
    [("user_id", None), ("item_id", ""), ("timestamp", -5), ("behaviour", None), ("weight", -1.0)],
)
def test_bad_rows_are_named_as_on_one_machine(column: str, value: object, tmp_path: Path):
    frame = random_frame()
    frame.loc[[3, 150, 151, 260, 300, 399], column] = value
    source, settings = write_parts(frame, tmp_path / "log"), InteractionSettings(**EXTRA)
    messages = []
    for rows in ("parted", "staged"):
        with pytest.raises(DataError) as refused:
            if rows == "parted":
                check_events(parted(source, settings), settings)
            else:
                parts = open_parts(source, settings.columns())
                with staged(str(source), parts, settings.columns(), "1GB") as events:
                    check_events(events, settings)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert "6 rows are like this" in messages[0] and "part-1.parquet, row 17" in messages[0]


def test_a_log_without_rows_is_refused(tmp_path: Path):
    source = write_parts(random_frame().iloc[:0], tmp_path / "log")
    with pytest.raises(DataError, match="holds a header but no rows"):
        parted(source, InteractionSettings())


def test_a_text_file_is_refused_before_ray_starts(tmp_path: Path):
    source = write_parts(random_frame(), tmp_path / "log", "csv")
    settings = InteractionSettings()
    parts = open_parts(source, settings.columns())
    with pytest.raises(ConfigError, match=r"ray reads parquet parts, and .*part-0\.csv is none"):
        RaySort()(str(source), parts, settings, tmp_path / "spill", tmp_path / "sorted")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"blocks": 0}, "ray.blocks is 0; it must be from 1 to 512"),
        ({"blocks": 513}, "ray.blocks is 513"),
        ({"cpus": 0}, "ray.cpus is 0"),
        ({"cpus": 2, "address": "auto"}, "ray.cpus is for a Ray on this machine alone"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        RaySortSettings(**settings)


def test_blocks_share_no_user(tmp_path: Path):
    source = write_parts(random_frame(), tmp_path / "log")
    sort_in_blocks(source, InteractionSettings(), 7, tmp_path)
    users = [
        pa.ipc.open_file(block / "user_id.arrow").read_all().column("id").to_pylist()
        for block in (tmp_path / "spill").iterdir()
    ]
    assert len(users) > 3
    together = np.concatenate(users)
    assert len(set(together)) == len(together) == random_frame()["user_id"].nunique()
