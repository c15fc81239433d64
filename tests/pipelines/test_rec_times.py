"""The time between events as a setting of both stages, to the recommendations."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from idbert.errors import ConfigError, DataError
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.recommender import Recommender
from idbert.run_dir import RunDir
from tests.pipelines.commands import TINY, run, succeed
from tests.pipelines.conftest import World

TIMED = ("--model.time_bias.name=log", "--model.time_bias.buckets=40")
WITH_QUERY = (*TIMED, "--model.time_bias.query_time=true")


def train(world: World, folder: Path, *settings: str) -> tuple[Path, Path]:
    """Pretrain and fine-tune with the same settings."""
    data = (f"--data.source={world.log}", *TINY, *settings)
    pretrained, finetuned = folder / "pretrained", folder / "finetuned"
    succeed("rec_pretrain", "--run", pretrained, *data)
    succeed("rec_finetune", "--run", finetuned, "--pretrained", pretrained, *data)
    return pretrained, finetuned


@pytest.mark.parametrize("settings", [TIMED, WITH_QUERY], ids=["without query time", "with it"])
def test_times_are_a_setting_of_both_stages_to_the_last_command(
    settings: tuple[str, ...], world: World, tmp_path: Path
) -> None:
    runs = train(world, tmp_path, *settings)
    at = ("--at=2020-10-01",) if settings == WITH_QUERY else ()
    used = "used by finetuned, pretrained" if settings == WITH_QUERY else "not used"
    compared = f"[{runs[0]},{world.pretrained}]"
    evaluated = succeed("rec_evaluate", "--run", runs[1], "--compare", compared)
    # Two of the runs are called alike, so that all are named by their paths.
    used = used.replace("finetuned, pretrained", f"{runs[1]}, {runs[0]}")
    assert f"leave-last-out, test; query time: {used}; 64 users" in evaluated.out
    metrics = json.loads((runs[1] / "metrics.json").read_text())
    assert "query time: " in metrics["validation"]["finetuned"]["protocol"]["split"]
    for folder in runs:
        config = json.loads((folder / "model" / "config.json").read_text())
        assert config["time_bias"] == "log" and config["time_buckets"] == 40
        succeed("rec_recommend", "--run", folder, "--k", 2, "--output", tmp_path / "a.csv", *at)
        assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + 2 * 64
    succeed("rec_index", "--run", runs[1], "--users=true", *at)
    if at:
        refused = run("rec_index", "--run", runs[0], "--users=true")
        assert refused.status == 2 and "Give it by at" in refused.message
        assert not (runs[0] / "index").exists(), "refused too late"
    users = tmp_path / "users"
    succeed("rec_export", "--run", runs[1], "--what=users", "--output", users, *at)
    vectors = pq.read_table(users / "part-00000.parquet")
    recommender = Recommender.load(runs[1])
    moment = "2020-10-01" if at else None
    _, expected = recommender.user_vectors(world.events, at=moment)
    assert vectors.num_rows == 64
    assert vectors["vector"][5].as_py() == pytest.approx(expected[5].tolist(), abs=1e-5)
    index = VectorIndex.load(runs[1] / "user_index", RunDir(runs[1]).model_sha256)
    assert index.vectors()[5].tolist() == pytest.approx(expected[5].tolist(), abs=1e-5)


def test_the_moment_of_asking_changes_what_is_recommended_where_it_is_read(
    world: World, tmp_path: Path
) -> None:
    finetuned = train(world, tmp_path, *WITH_QUERY, "--model.initializer_range=0.5")[1]
    recommender = Recommender.load(finetuned)
    newest = world.events["timestamp"].max()
    soon, later = (recommender.score(world.events, at=newest + s) for s in (1, 10**8))
    assert not (soon - later).abs().max().max() < 1e-4
    dated = recommender.score(world.events, at=pd.Timestamp(newest + 1, unit="s"))
    pd.testing.assert_frame_equal(dated, soon)
    each = recommender.score(world.events, at=[newest + 1] * 32 + [newest + 10**8] * 32)
    pd.testing.assert_frame_equal(each.iloc[:32], soon.iloc[:32])
    pd.testing.assert_frame_equal(each.iloc[32:], later.iloc[32:])
    assert recommender.similar_items(["item 01"], 2, layer="fused").shape == (2, 4)
    with pytest.raises(ConfigError, match="Give it by at: a date"):
        recommender.recommend(world.events, 2)
    with pytest.raises(DataError, match="at holds 3 moments for 64 histories"):
        recommender.recommend(world.events, 2, at=[newest] * 3)
    with pytest.raises(DataError, match="at is 'soon', which is no time since 1970"):
        recommender.recommend(world.events, 2, at="soon")
    with pytest.raises(DataError, match="reads the times of events .* Give a table"):
        recommender.recommend([["item 01"]], 2, at=newest)
    missing = run("rec_recommend", "--run", finetuned, "--k=2")
    assert missing.status == 2 and "query_time" in missing.message


def test_a_moment_cannot_act_on_a_model_that_does_not_read_it(world: World) -> None:
    finished = run("rec_recommend", "--run", world.finetuned, "--at=2020-10-01")
    assert finished.status == 2 and "at='2020-10-01' cannot act" in finished.message


def test_stages_that_disagree_about_the_querys_time_are_told_apart(
    world: World, tmp_path: Path
) -> None:
    data = (f"--data.source={world.log}", *TINY)
    succeed("rec_pretrain", "--run", tmp_path / "one", *data, *TIMED)
    other = ("--pretrained", tmp_path / "one", *data, *WITH_QUERY)
    refused = run("rec_finetune", "--run", tmp_path / "two", *other)
    assert refused.status == 2 and "query_time False there, True here" in refused.message


@pytest.mark.parametrize("command", ["rec_pretrain", "rec_finetune"])
def test_a_log_of_positions_is_refused_by_the_settings_name(
    command: str, world: World, tmp_path: Path
) -> None:
    places = world.events.groupby("user_id").cumcount()
    world.events.assign(timestamp=places).to_csv(tmp_path / "log.csv", index=False)
    data = (f"--data.source={tmp_path / 'log.csv'}", *TINY, *TIMED)
    refused = run(command, "--run", tmp_path / "run", *data)
    assert refused.status == 2 and "Traceback" not in refused.err
    assert "model.time_bias" in refused.message and "no real times" in refused.message
    assert len(refused.message.splitlines()) == 1


def test_a_prepared_log_gives_the_same_run(world: World, tmp_path: Path) -> None:
    succeed("rec_prepare", "--data.source", world.log, "--run", tmp_path / "log")
    figures = []
    for name, source in (("table", world.log), ("mapped", tmp_path / "log")):
        settings = (*TINY, *WITH_QUERY, f"--data.source={source}")
        succeed("rec_finetune", "--run", tmp_path / name, *settings)
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        figures.append(metrics["validation"][name]["metrics"])
    assert figures[0] == figures[1]
