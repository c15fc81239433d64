"""Folders of towers: foreign code is never run, and damage is told."""

import json
import shutil
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from idbert.errors import CheckpointError
from idbert.nn.fusion import FusionSettings
from idbert.nn.structure import StructureSettings
from nlp_tasks.match.settings import TowerSettings
from nlp_tasks.match.towers import build_towers, open_towers, save_towers
from tests.nlp_tasks.text_world import bert_folder

OWN = StructureSettings(fusion=FusionSettings("mean"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert"))


def saved(towers: SentenceTransformer, folder: Path) -> Path:
    save_towers(towers, folder)
    return folder


def change(file: Path, change_value) -> None:
    value = json.loads(file.read_text())
    change_value(value)
    file.write_text(json.dumps(value))


def test_a_foreign_class_is_never_opened(bert: Path, tmp_path: Path):
    folder = saved(build_towers(bert, TowerSettings()), tmp_path / "towers")
    change(folder / "modules.json", lambda value: value[1].update(type="evil.Pooling"))
    (folder / "evil.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(CheckpointError, match="names the class 'evil.Pooling'.*foreign code"):
        open_towers(folder)


def test_a_foreign_class_behind_a_router_is_never_opened(bert: Path, tmp_path: Path):
    folder = saved(build_towers(bert, TowerSettings(two_towers=True)), tmp_path / "towers")
    types = json.loads((folder / "router_config.json").read_text())["types"]
    change(
        folder / "router_config.json",
        lambda value: value["types"].update({next(iter(types)): "evil.Encoder"}),
    )
    with pytest.raises(CheckpointError, match="names the class 'evil.Encoder'"):
        open_towers(folder)


@pytest.mark.parametrize("name", ["Router", "Asym"])
@pytest.mark.parametrize("is_inside", [False, True], ids=["alone", "in a router"])
def test_a_router_by_any_name_opens_no_door_to_other_code(
    bert: Path, tmp_path: Path, name: str, is_inside: bool
):
    folder = saved(build_towers(bert, TowerSettings(structure=OWN)), tmp_path / "towers")
    (folder / "evil.py").write_text("raise SystemExit('this code was run')")
    kind = f"sentence_transformers.models.{name}"
    inner = folder / "2_Router" / "inside" if is_inside else folder / "2_Router"
    inner.mkdir(parents=True)
    router = {"structure": {"query": ["evil"]}, "parameters": {"default_route": "query"}}
    (inner / "router_config.json").write_text(json.dumps(router | {"types": {"evil": "evil.Evil"}}))
    if is_inside:
        outer = json.dumps(router | {"types": {"inside": kind}})
        (folder / "2_Router" / "router_config.json").write_text(outer)
    entry = {"idx": 2, "name": "2", "path": "2_Router", "type": kind}
    change(folder / "modules.json", lambda value: value.append(entry))
    with pytest.raises(CheckpointError, match="names the class 'evil.Evil'"):
        open_towers(folder)


@pytest.mark.parametrize("way_back", ["..", ".", "a/../.."])
def test_a_router_that_leads_back_is_refused(bert: Path, tmp_path: Path, way_back: str):
    folder = saved(build_towers(bert, TowerSettings(two_towers=True)), tmp_path / "towers")
    change(
        folder / "router_config.json",
        lambda value: value["types"].update({way_back: "sentence_transformers.models.Router"}),
    )
    with pytest.raises(CheckpointError, match="a router that leads back to"):
        open_towers(folder)


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("2_Dense/config.json", {"activation_function": "os.system"}),
    ],
)
def test_towers_of_ours_open_no_door_to_other_code(bert: Path, tmp_path: Path, file, value):
    towers = build_towers(bert, TowerSettings(structure=OWN, width=4))
    folder = saved(towers, tmp_path / "towers")
    change(folder / file, lambda there: there.update(value))
    with pytest.raises(CheckpointError, match="asks for code of its own"):
        open_towers(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "modules.json").write_text("{}"), "is no list of modules"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be opened"),
        (lambda folder: shutil.rmtree(folder), "does not exist"),
    ],
)
def test_a_damaged_folder_is_refused(bert: Path, tmp_path: Path, damage, words: str):
    folder = saved(build_towers(bert, TowerSettings()), tmp_path / "towers")
    damage(folder)
    with pytest.raises(CheckpointError, match=words):
        open_towers(folder)
