"""Attributes of items as a setting of both stages; later commands need no table of items."""

import json
from pathlib import Path

import pytest

from idbert.nn.item_models import load_item_model
from tests.pipelines.commands import TINY, run, succeed
from tests.pipelines.conftest import World


@pytest.fixture
def items(world: World, tmp_path: Path) -> Path:
    table = world.events[["item_id"]].drop_duplicates()
    table["title"] = table["item_id"].str.upper()
    number = table["item_id"].str[-2:].astype(int)
    table["kinds"] = number.map(lambda n: f"{'even' if n % 2 == 0 else 'odd'}|third {n % 3}")
    table.to_csv(tmp_path / "items.csv", index=False)
    return tmp_path / "items.csv"


def test_attributes_are_a_setting_of_both_stages_and_stay_with_the_model(
    world: World, items: Path, tmp_path: Path
) -> None:
    data = (f"--data.source={world.log}", f"--data.items={items}", *TINY)
    data += ("--data.attributes=[kinds]", "--loss.name=sampled")
    pretrained, finetuned = tmp_path / "pretrained", tmp_path / "finetuned"
    succeed("rec_pretrain", "--run", pretrained, *data)
    succeed("rec_finetune", "--run", finetuned, "--pretrained", pretrained, *data)
    for folder in (pretrained, finetuned):
        config = json.loads((folder / "model" / "config.json").read_text())
        assert (config["num_attributes"], config["attributes_per_item"]) == (5, 2)
    rows = load_item_model(finetuned / "model")._attributes.rows_VG
    assert rows[4:].gt(0).all() and not rows[:4].any()
    compared = f"[{world.finetuned}]"
    items.write_text(items.read_text().replace("even", "uneven"))
    succeed("rec_evaluate", "--run", finetuned, "--compare", compared)
    succeed("rec_index", "--run", finetuned)
    best = tmp_path / "best.csv"
    succeed("rec_recommend", "--run", finetuned, "--k", 2, "--output", best)
    assert len(best.read_text().splitlines()) == 1 + 2 * 64


def test_a_prepared_log_brings_its_attributes_along(
    world: World, items: Path, tmp_path: Path
) -> None:
    named = (f"--data.items={items}", "--data.attributes=[kinds]")
    log, trained = tmp_path / "log", tmp_path / "run"
    succeed("rec_prepare", "--data.source", world.log, "--run", log, *named)
    succeed("rec_finetune", "--run", trained, f"--data.source={log}", *TINY)
    rows = load_item_model(trained / "model")._attributes.rows_VG
    assert rows.shape == (16, 2) and rows[4:].gt(0).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("--data.attributes=[kinds]", "there is no table of items. Give it by data.items"),
        ("--data.items={items} --data.attributes=[kind]", "no column 'kind' for data.attributes"),
        ("--data.attribute_separator=;", "cannot act without attributes"),
        (
            "--data.items={items} --data.attributes=[kinds] --loss.name=sampled"
            " --training.sparse_rows=true",
            "sparse_rows=true cannot act",
        ),
    ],
)
def test_attributes_that_cannot_act_are_one_clear_error(
    settings: str, words: str, world: World, items: Path, tmp_path: Path
) -> None:
    arguments = settings.format(items=items).split()
    data = (f"--data.source={world.log}", *TINY, *arguments)
    refused = run("rec_finetune", "--run", tmp_path / "run", *data)
    assert refused.status in (1, 2) and "Traceback" not in refused.err
    assert words in refused.message and len(refused.message.splitlines()) == 1
