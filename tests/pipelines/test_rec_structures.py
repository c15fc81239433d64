"""Fusions, residual wrappers and blocks as settings of the recommenders' commands."""

import json
from pathlib import Path

import pytest

from idbert.nn.item_models import load_item_model
from tests.pipelines.commands import TINY, run, succeed
from tests.pipelines.conftest import World


@pytest.mark.parametrize(
    ("settings", "saved", "width"),
    [
        (
            "--model.block.name=textcnn --model.block.width=6 --model.residual.name=concat"
            " --model.residual.gate=true --model.fusion.name=mean_max",
            {"block": "textcnn", "residual": "concat", "residual_gate": True},
            16 + 6,
        ),
        (
            "--model.block.name=transformer --model.block.options.num_heads=2"
            " --model.fusion.name=weights --model.fusion.layers=[-2,-1]",
            {"block": "transformer", "block_options": {"num_heads": 2}, "fusion_layers": [-2, -1]},
            8,
        ),
        (
            "--model.kind=nezha --model.residual_scores=gated --model.fusion.name=layer"
            " --model.fusion.layers=[1] --model.fusion.width=4 --model.fusion.activation=relu",
            {"residual_scores": "gated", "fusion": "layer", "fusion_width": 4},
            4,
        ),
        (
            "--model.similarity=cosine --model.temperature=0.1 --model.learned_temperature=true",
            {"similarity": "cosine", "temperature": 0.1, "learned_temperature": True},
            8,
        ),
        (
            "--model.norm=pre --model.feed_forward=gated --model.activation=silu"
            " --model.layer_residual=gated",
            {"feed_forward": "gated", "layer_residual": "gated", "hidden_act": "silu"},
            8,
        ),
    ],
    ids=[
        "textcnn beside mean and max",
        "transformer on free weights",
        "one narrow layer",
        "cosine",
        "gated layers",
    ],
)
def test_every_part_is_a_setting_of_both_stages(
    settings: str, saved: dict[str, object], width: int, world: World, tmp_path: Path
) -> None:
    data = (f"--data.source={world.log}", *TINY, *settings.split())
    pretrained, finetuned = tmp_path / "pretrained", tmp_path / "finetuned"
    succeed("rec_pretrain", "--run", pretrained, *data)
    succeed("rec_finetune", "--run", finetuned, "--pretrained", pretrained, *data)
    for folder in (pretrained, finetuned):
        config = json.loads((folder / "model" / "config.json").read_text())
        assert {name: config[name] for name in saved} == saved
        assert load_item_model(folder / "model").backbone.width == width
    succeed("rec_index", "--run", finetuned)
    best = tmp_path / "best.csv"
    succeed("rec_recommend", "--run", finetuned, "--k", 2, "--output", best)
    assert len(best.read_text().splitlines()) == 1 + 2 * 64


def test_losses_over_a_sample_are_a_setting_of_both_stages(world: World, tmp_path: Path) -> None:
    data = (f"--data.source={world.log}", *TINY)
    pretrained, finetuned = tmp_path / "pretrained", tmp_path / "finetuned"
    sampled = ("--loss.name=sampled", "--loss.options={negatives: 8, distribution: mixed}")
    succeed("rec_pretrain", "--run", pretrained, *data, *sampled)
    gbce = ("--loss.name=gbce", "--loss.options={negatives: 4, calibration: 0.5}")
    succeed("rec_finetune", "--run", finetuned, "--pretrained", pretrained, *data, *gbce)
    options = {
        folder: json.loads((folder / "model/config.json").read_text())["loss_options"]
        for folder in (pretrained, finetuned)
    }
    assert options[pretrained] == {"negatives": 8, "distribution": "mixed"}
    assert options[finetuned] == {"negatives": 4, "calibration": 0.5}


def test_recent_targets_are_a_setting_of_both_stages(world: World, tmp_path: Path) -> None:
    data = (f"--data.source={world.log}", *TINY)
    succeed("rec_pretrain", "--run", tmp_path / "masked", *data, "--masking.recency=0.8")
    recent = ("--targets.recency=0.8", "--targets.probability=0.5")
    succeed("rec_finetune", "--run", tmp_path / "next", *data, *recent)
    refused = run("rec_finetune", "--run", tmp_path / "other", *data, "--targets.recency=1")
    assert refused.status == 2 and "recency is 1" in refused.message


def test_windows_are_trained_on_and_evaluated_without(world: World, tmp_path: Path) -> None:
    data = (f"--data.source={world.log}", *TINY, "--sequences.max_length=4")
    users, windows = tmp_path / "users", tmp_path / "windows"
    before = succeed("rec_finetune", "--run", users, *data)
    after = succeed("rec_finetune", "--run", windows, *data, "--sequences.window_stride=3")
    assert "windows of at most 4 events, every 3 events" in after.err
    assert "windows of" not in before.err
    prepared = tmp_path / "prepared"
    succeed("rec_prepare", "--run", prepared, f"--data.source={world.log}")
    again = (f"--data.source={prepared}", *data[1:], "--sequences.window_stride=3")
    succeed("rec_finetune", "--run", tmp_path / "mapped", *again)
    weights = [
        (folder / "model/model.safetensors").read_bytes()
        for folder in (users, windows, tmp_path / "mapped")
    ]
    assert weights[1] == weights[2] != weights[0]
    # Both are evaluated on the same users, each once.
    held_out = [
        json.loads((folder / "metrics.json").read_text())["validation"][folder.name]["protocol"]
        for folder in (users, windows)
    ]
    assert held_out[0] == held_out[1]
    succeed("rec_evaluate", "--run", windows)


def test_a_mixed_objective_is_a_setting_of_pretraining(world: World, tmp_path: Path) -> None:
    data = (f"--data.source={world.log}", *TINY)
    mixed = ("--objective=mixed", "--mixed.share=0.4", "--model.head_transform=true")
    for used_as in ("next", "masked"):
        folder = tmp_path / used_as
        succeed("rec_pretrain", "--run", folder, *data, *mixed, f"--mixed.used_as={used_as}")
        assert load_item_model(folder / "model").objective == used_as
        best = tmp_path / f"{used_as}.csv"
        succeed("rec_recommend", "--run", folder, "--k", 2, "--output", best)
        assert len(best.read_text().splitlines()) == 1 + 2 * 64
    succeed(*("rec_finetune", "--run", tmp_path / "fine", "--pretrained", tmp_path / "next", *data))
    for settings, words in (
        (("--mixed.share=0.4",), "the settings of --mixed are for --objective mixed"),
        ((*mixed, "--model.block.name=lstm"), "reads in one direction, and objective=mixed"),
    ):
        refused = run("rec_pretrain", "--run", tmp_path / "refused", *data, *settings)
        assert refused.status == 2 and words in refused.message


def test_more_negatives_than_the_catalogue_are_one_clear_error(
    world: World, tmp_path: Path
) -> None:
    data = (f"--data.source={world.log}", *TINY, "--loss.name=sampled")
    popular = ("--loss.options={negatives: 1000, distribution: popularity}",)
    finished = run("rec_finetune", "--run", tmp_path / "run", *data, *popular)
    assert finished.status == 2 and "Traceback" not in finished.err
    assert "negatives is 1,000, and the catalogue has" in finished.message
    popular = ("--loss.options={negatives: 4, distribution: popularity, power: 1}",)
    succeed("rec_finetune", "--run", tmp_path / "other", *data, *popular)


def test_a_block_that_looks_ahead_serves_masked_items_and_is_refused_for_the_next(
    world: World, tmp_path: Path
) -> None:
    data = (f"--data.source={world.log}", *TINY, "--model.block.name=bigru")
    succeed("rec_pretrain", "--run", tmp_path / "pretrained", *data)
    # The absent log shows that the refusal comes before anything is read.
    absent = (*data, "--data.source=absent.csv")
    refused = run("rec_finetune", "--run", tmp_path / "finetuned", *absent)
    assert refused.status == 2
    assert "'bigru' reads later positions" in refused.message
    assert "Choose one that can look back only:" in refused.message
    assert not (tmp_path / "finetuned").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("--model.block.name=textcn", "Did you mean 'textcnn'?"),
        ("--model.residual.name=concat", "cannot act without a block"),
        ("--model.block.name=lstm --model.block.width=6", "Set the residual to projected"),
        ("--model.block.name=lstm --model.block.options.depth=2", "has no option 'depth'"),
        ("--model.fusion.name=layer", "must be told which layer"),
        ("--model.residual_scores=sum --model.attention=sdpa", "set attention='eager'"),
    ],
)
def test_parts_that_do_not_fit_are_one_clear_error(
    settings: str, words: str, tmp_path: Path
) -> None:
    finished = run("rec_pretrain", "--run", tmp_path / "run", *settings.split())
    assert finished.status == 2 and "Traceback" not in finished.err
    assert words in finished.message
    assert len(finished.message.splitlines()) == 1
    assert not (tmp_path / "run").exists()
