"""One part of each kind from outside the package, used by the commands without a change inside."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.nlp_tasks.text_world import bert_folder, texts, write
from tests.pipelines.commands import TINY, run, succeed
from tests.worlds import cycle_world

PARTS = """
from dataclasses import dataclass

import torch
from torch import nn

from idbert.nn.blocks.block import BLOCKS, Block
from idbert.nn.fusion import FUSIONS, LayerFusion
from idbert.nn.heads import HEADS, Head
from idbert.nn.losses.labels import LABEL_LOSSES, SingleLabelLoss
from idbert.nn.parts import NoOptions
from idbert.nn.pooling import POOLINGS, Pooling


@FUSIONS.register("median_of_layers")
class MedianOfLayers(LayerFusion):
    def forward(self, hidden_KBLD):
        return torch.stack(self._chosen(hidden_KBLD)).median(dim=0).values


@BLOCKS.register("scaled")
class Scaled(Block):
    supports_causal = True

    def __init__(self, input_width, width, options, *, is_causal):
        super().__init__(input_width, width, options, is_causal=is_causal)
        self.scale = nn.Linear(self.input_width, self.width, bias=False)

    def forward(self, hidden_BLD, attention_mask_BL):
        scaled = self.scale(hidden_BLD)
        if attention_mask_BL is None:
            return scaled
        return scaled * (attention_mask_BL != 0)[..., None]


@POOLINGS.register("power_mean")
class PowerMean(Pooling):
    @dataclass(frozen=True)
    class Options(NoOptions):
        exponent: float = 3.0

    def __init__(self, input_width, options):
        super().__init__(input_width, options)
        self.exponent = options.exponent

    def pool(self, hidden_BLD, real_BL):
        powers = hidden_BLD.abs() ** self.exponent
        return powers.sum(1) / real_BL.sum(1, keepdim=True).clamp(min=1)


@HEADS.register("cosine")
class Cosine(Head):
    def __init__(self, input_width, num_outputs, options):
        super().__init__(input_width, num_outputs, options)
        self.labels = nn.Linear(input_width, num_outputs, bias=False)

    def forward(self, pooled_BD):
        normalised = [nn.functional.normalize(x, dim=1) for x in (pooled_BD, self.labels.weight)]
        return 10 * normalised[0] @ normalised[1].T


@LABEL_LOSSES.register("hinge")
class Hinge(SingleLabelLoss):
    def row_losses(self, logits_BC, targets):
        return nn.functional.multi_margin_loss(logits_BC, targets, reduction="none")
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "outside_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "--plugins=[outside_parts]"
    sys.modules.pop("outside_parts", None)
    forget_the_parts()


def forget_the_parts() -> None:
    """Take the parts out of the tables again: other tests go over all that are registered."""
    from idbert.nn.blocks.block import BLOCKS
    from idbert.nn.fusion import FUSIONS
    from idbert.nn.heads import HEADS
    from idbert.nn.losses.labels import LABEL_LOSSES
    from idbert.nn.pooling import POOLINGS

    for table, name in (
        (FUSIONS, "median_of_layers"),
        (BLOCKS, "scaled"),
        (POOLINGS, "power_mean"),
        (HEADS, "cosine"),
        (LABEL_LOSSES, "hinge"),
    ):
        table._entries.pop(name, None)


def test_a_classifier_of_parts_from_outside_is_trained_and_predicts(plugin, tmp_path):
    bert_folder(tmp_path / "bert")
    write(texts(60), tmp_path / "train.jsonl")
    parts = (
        *("--structure.fusion.name=median_of_layers", "--structure.block.name=scaled"),
        *("--structure.block.width=12", "--structure.residual.name=projected"),
        *("--pooling.name=power_mean", "--pooling.options={exponent: 2.0}"),
        *("--head.name=cosine", "--loss.name=hinge", "--loss.r_drop=0.5", "--loss.auxiliary=true"),
    )
    settings = ("--model", tmp_path / "bert", "--data.train", tmp_path / "train.jsonl")
    short = ("--text.max_length=16", "--batches.token_budget=200", "--training.max_steps=4")
    succeed("nlp_cls", "--run", tmp_path / "run", plugin, *settings, *short, *parts)
    output = ("--input", tmp_path / "train.jsonl", "--output", tmp_path / "out.jsonl")
    succeed("nlp_predict", "--run", tmp_path / "run", plugin, *output)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and np.isfinite([row["probability"] for row in rows]).all()
    forget_the_parts()
    unknown = run("nlp_predict", "--run", tmp_path / "run", *output)
    assert unknown.status in (1, 2) and "There is no" in unknown.message


def test_a_recommender_of_parts_from_outside_is_trained(plugin, tmp_path):
    log = Path(tmp_path / "log.csv")
    cycle_world().to_csv(log, index=False)
    succeed(
        *("rec_pretrain", "--run", tmp_path / "run", plugin, f"--data.source={log}", *TINY),
        *("--model.fusion.name=median_of_layers", "--model.block.name=scaled"),
    )
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert (config["fusion"], config["block"]) == ("median_of_layers", "scaled")
