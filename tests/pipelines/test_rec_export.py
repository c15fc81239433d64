"""Exported vectors are those of the library, whole or not at all, and an index is built of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from idbert.errors import DataError
from idbert.inputs.interactions import read_interactions
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.recommender import Recommender
from idbert.retrieval.vector_files import read_parts
from idbert.retrieval.vectors import item_layer_vectors
from idbert.rows import FIRST_ITEM
from tests.pipelines.commands import TINY, run, succeed
from tests.pipelines.conftest import World

NEAR = {"rtol": 1e-6, "atol": 1e-6}


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def test_users_vectors_are_those_of_the_library(world: World, tmp_path: Path):
    folder = tmp_path / "users"
    export = ("rec_export", "--run", world.finetuned, "--what=users", "--output", folder)
    finished = succeed(*export, "--part_size=25")
    assert "64 vectors made in 3 parts" in finished.err
    ids, vectors = read_parts(parts_of(folder))
    recommender = Recommender.load(world.finetuned, index=False)
    users, expected = recommender.user_vectors(read_interactions(world.log))
    assert ids.equals(users)
    np.testing.assert_allclose(vectors, expected, **NEAR)
    assert [pq.read_metadata(part).num_rows for part in parts_of(folder)] == [25, 25, 14]
    assert pd.read_parquet(folder / "part-00000.parquet").columns.tolist() == ["id", "vector"]


@pytest.mark.parametrize("layer", [None, 0, -1, "fused"])
def test_items_vectors_are_those_of_the_library(layer, world: World, tmp_path: Path):
    folder = tmp_path / "items"
    chosen = () if layer is None else (f"--layer={layer}",)
    export = ("rec_export", "--run", world.finetuned, "--output", folder, "--part_size=5")
    succeed(*export, *chosen)
    ids, vectors = read_parts(parts_of(folder))
    recommender = Recommender.load(world.finetuned, index=False)
    assert ids.equals(recommender.vocabulary.ids)
    if layer is None:
        expected = recommender.model.item_vectors()[FIRST_ITEM:]
    else:
        expected = item_layer_vectors(recommender.model, layer)
    np.testing.assert_allclose(vectors, expected.numpy(), **NEAR)


def test_an_index_of_exported_vectors_is_the_one_that_rec_index_makes(copied: Path):
    expected = VectorIndex.load(copied / "index")
    for what in ("items", "users"):
        succeed("rec_export", "--run", copied, f"--what={what}", "--part_size=7")
    succeed("rec_index", "--run", copied, "--users=true")
    made_here = VectorIndex.load(copied / "user_index")
    for folder in ("item_vectors", "user_vectors"):
        succeed("rec_index", "--run", copied, "--vectors", copied / folder)
    for name, index in (("index", expected), ("user_index", made_here)):
        found = VectorIndex.load(copied / name)
        assert found.ids.equals(index.ids)
        np.testing.assert_allclose(found.vectors(), index.vectors(), **NEAR)
    asked = "--items=item 11,item 00,item 01"
    assert "item 02" in succeed("rec_recommend", "--run", copied, asked, "--k=1").out


def test_users_without_a_known_item_have_no_vector(world: World, tmp_path: Path):
    log, folder = tmp_path / "others.csv", tmp_path / "users"
    events = {"user_id": list("abc"), "item_id": ["item 01", "new", "item 02"], "timestamp": 1}
    pd.DataFrame(events).to_csv(log, index=False)
    export = ("rec_export", "--run", world.finetuned, "--what=users", "--output", folder)
    succeed(*export, "--histories", log, "--part_size=1")
    ids, vectors = read_parts(parts_of(folder))
    assert ids.to_pylist() == ["a", "c"] and vectors.shape == (2, 33)


def test_a_stopped_export_goes_on_with_the_parts_that_are_missing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "items"
    export = ("rec_export", "--run", world.finetuned, "--output", folder)
    made = []

    def written(path: Path, *arguments: object) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(path)
        real(path, *arguments)  # type: ignore[arg-type]

    from idbert.retrieval import vector_export

    real = vector_export.write_part
    with monkeypatch.context() as patch:
        patch.setattr(vector_export, "write_part", written)
        assert run(*export, "--part_size=3").status == 130
    assert parts_of(folder) == made
    refused = run("rec_index", "--run", world.finetuned, "--vectors", folder)
    assert "the export has not finished. Give the same rec_export command" in refused.message
    before = [part.stat().st_mtime_ns for part in made]
    assert "2 of 4 parts found finished" in succeed(*export, "--part_size=3").err
    assert [part.stat().st_mtime_ns for part in made] == before
    assert len(parts_of(folder)) == 4
    assert "is finished" in succeed(*export, "--part_size=3").err
    refused = run(*export, "--part_size=4")
    assert refused.status == 2 and "part_size is 3 there and 4 here" in refused.message


def test_an_unfinished_export_with_other_settings_is_made_anew(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "items"
    export = ("rec_export", "--run", world.finetuned, "--output", folder)
    with monkeypatch.context() as patch:
        patch.setattr("idbert.run_dir.RunDir.finish", lambda *_: exec("raise KeyboardInterrupt"))
        assert run(*export, "--part_size=3").status == 130
    succeed(*export, "--part_size=6")
    assert len(parts_of(folder)) == 2 and len(read_parts(parts_of(folder))[0]) == 12


def test_damaged_and_foreign_vectors_are_refused(world: World, copied: Path, tmp_path: Path):
    index = ("rec_index", "--run", copied, "--vectors")
    foreign, layer = tmp_path / "foreign", tmp_path / "layer"
    succeed("rec_export", "--run", world.pretrained, "--output", foreign)
    assert "holds vectors of another model" in run(*index, foreign).message
    succeed("rec_export", "--run", copied, "--output", layer, "--layer=1")
    assert "holds vectors of layer 1" in run(*index, layer).message
    succeed("rec_export", "--run", copied)
    part = copied / "item_vectors" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    assert "part-00000.parquet has" in run(*index, copied / "item_vectors").message
    with pytest.raises(DataError, match=r"part-00000\.parquet is cut short or damaged"):
        read_parts([part])
    digests = json.loads((copied / "item_vectors" / "run.json").read_text())["files"]
    assert set(digests) == {"config.yaml", "part-00000.parquet"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("--what=items", "--behaviour=buy"), "behaviour cannot act on the vectors of items"),
        (("--what=items", "--histories=log.csv"), "histories cannot act on the vectors of items"),
        (("--what=users", "--layer=1"), "layer cannot act on the vectors of users"),
        (("--part_size=0",), "part_size is 0"),
        (("--ray.workers=2",), "the settings of --ray are for --engine ray"),
        (("--engine=ray", "--ray.workers=0"), "ray.workers is 0"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings: tuple[str, ...], words: str, world: World):
    refused = run("rec_export", "--run", world.finetuned, *settings)
    assert refused.status == 2 and words in refused.message


def test_histories_need_no_weights_and_another_folder_is_named_by_output(
    world: World, tmp_path: Path
):
    log, new = tmp_path / "log.csv", tmp_path / "new.csv"
    world.events.assign(weight=1.0).to_csv(log, index=False)
    world.events.to_csv(new, index=False)
    weighted = (f"--data.source={log}", "--data.weight_column=weight", *TINY)
    succeed("rec_pretrain", "--run", tmp_path / "run", *weighted)
    export = ("rec_export", "--run", tmp_path / "run", "--what=users")
    succeed(*export, "--histories", new)
    refused = run(*export)
    assert refused.status == 2 and "Name another folder with --output" in refused.message


def test_users_are_not_indexed_twice(world: World):
    refused = run("rec_index", "--run", world.finetuned, "--users=true", "--vectors=x")
    assert refused.status == 2 and "Leave one of them out" in refused.message
