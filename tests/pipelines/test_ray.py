"""Ray, on this machine: what its workers make is what one process makes.

The only module that starts Ray, once. With RAY_ADDRESS set it uses the Ray that is there.
"""

import builtins
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import ray

from idbert import ray_cluster
from idbert.errors import ConfigError, DataError
from idbert.inputs.prepared_log import FILES
from idbert.ray_cluster import RaySettings, check_shared, cluster
from idbert.retrieval.vector_files import read_parts
from tests.inputs.test_preparation import EXTRA, random_frame, write_parts
from tests.pipelines.commands import run, succeed
from tests.pipelines.conftest import World

COLUMNS = tuple(f"--data.{name}={value}" for name, value in EXTRA.items())
ENGINE = ("--engine=ray", "--ray.blocks=3")


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[ModuleType]:
    own = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": 1, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(log_to_driver=False, logging_level="ERROR", **own)
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts in subfolders, as other programs write them."""
    folder = write_parts(random_frame(), tmp_path_factory.mktemp("logs") / "log")
    for number, part in enumerate(sorted(folder.iterdir())):
        (folder / f"day={number}").mkdir()
        part.rename(folder / f"day={number}" / part.name)
    return folder / "**" / "*.parquet"


@pytest.fixture(scope="module")
def prepared(log: Path) -> Path:
    folder = log.parents[2] / "prepared"
    made = succeed(
        *("rec_prepare", "--run", folder, f"--data.source={log}", *COLUMNS, *ENGINE),
        *("--data.min_user_events=3", "--data.drop_repeats=true"),
    )
    assert "400 events sorted in 3 blocks" in made.err
    return folder


def test_the_prepared_log_is_that_of_one_machine_byte_for_byte(
    log: Path, prepared: Path, tmp_path: Path
):
    here = tmp_path / "here"
    command = ("rec_prepare", f"--data.source={log}", *COLUMNS)
    filters = ("--data.min_user_events=3", "--data.drop_repeats=true")
    succeed(*command, *filters, "--run", here)
    for name in (*FILES, "config.yaml"):
        assert (prepared / name).read_bytes() == (here / name).read_bytes(), name
    assert not (prepared / "work").exists()
    again = succeed(*command, *filters, "--run", prepared)  # by the other engine
    assert "is finished" in again.err


def test_a_damaged_part_is_one_error_and_nothing_is_half_written(tmp_path: Path):
    source, folder = write_parts(random_frame(), tmp_path / "log"), tmp_path / "made"
    part = source / "part-1.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:8] + b"\xff" * 392 + whole[400:])
    command = ("rec_prepare", "--run", folder, f"--data.source={source}", *ENGINE)
    refused = run(*command)
    assert refused.status == 1 and "part-1.parquet cannot be read" in refused.message
    assert refused.err.count("Error") == 1 and "Traceback" not in refused.err
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"run.json", "config.yaml"}
    part.write_bytes(whole)
    succeed(*command)


def test_bad_rows_are_refused_by_their_names(tmp_path: Path):
    frame = random_frame()
    frame.loc[200, "user_id"] = None
    source = write_parts(frame, tmp_path / "log")
    refused = run("rec_prepare", "--run", tmp_path / "made", f"--data.source={source}", *ENGINE)
    assert refused.status == 1
    assert "part-1.parquet, row 67: column 'user_id' holds no value" in refused.message


def test_the_vectors_of_workers_are_those_of_one_process(world: World, tmp_path: Path):
    log = tmp_path / "prepared"
    succeed("rec_prepare", "--run", log, f"--data.source={world.log}")
    export = ("rec_export", "--run", world.finetuned, "--what=users", "--part_size=20")
    found = {}
    for engine, histories in (("local", ()), ("ray", ()), ("ray", ("--histories", log))):
        folder = tmp_path / f"{engine} {len(histories)}"
        succeed(*export, *histories, "--output", folder, f"--engine={engine}")
        parts = sorted(folder.glob("part-*.parquet"))
        assert len(parts) == 4
        found[folder.name] = read_parts(parts)
    ids, vectors = found.pop("local 0")
    for other_ids, other_vectors in found.values():
        assert other_ids.equals(ids)
        np.testing.assert_allclose(other_vectors, vectors, rtol=0, atol=1e-6)


def test_a_folder_that_a_machine_does_not_see_is_named(ray_here: ModuleType, tmp_path: Path):
    absent = tmp_path / "absent.parquet"
    with pytest.raises(ConfigError, match=r"does not see 1 of 2 paths.*absent\.parquet. Put the"):
        check_shared(ray_here, [absent], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_folder_of_the_same_name_is_found_out(tmp_path: Path):
    token = tmp_path / "token"
    assert ray_cluster._unseen([], token, "text") == [str(tmp_path)]
    token.write_text("other")
    assert ray_cluster._unseen([], token, "text") == [str(tmp_path)]
    token.write_text("text")
    assert ray_cluster._unseen([], token, "text") == []


def test_a_worker_that_dies_is_one_error_that_says_what_to_do(ray_here: ModuleType):
    die = ray_here.remote(max_retries=0)(lambda: os._exit(1))
    with (
        pytest.raises(DataError, match="A worker was killed or ran out of memory.*goes on where"),
        cluster(RaySettings()),
    ):
        ray_here.get(die.remote())


def test_without_ray_the_error_says_what_to_install(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real_import = builtins.__import__

    def without_ray(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "ray":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    refused = run("rec_prepare", "--run", tmp_path / "run", f"--data.source={log}", *ENGINE)
    assert refused.status == 1
    assert "MissingExtraError: Ray is not installed" in refused.message
    assert "pip install 'idbert[ray]'" in refused.message


def test_settings_of_ray_are_refused_without_it(log: Path, tmp_path: Path):
    refused = run("rec_prepare", "--run", tmp_path, f"--data.source={log}", "--ray.blocks=2")
    assert refused.status == 2
    assert "the settings of --ray are for --engine ray" in refused.message
