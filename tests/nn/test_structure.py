"""What stands on an encoder, as settings that fit a new encoder or one that was opened."""

import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.backbone import Backbone
from idbert.nn.blocks import BlockSettings
from idbert.nn.config import EncoderConfig, EncoderSettings
from idbert.nn.fusion import FusionSettings
from idbert.nn.residual import ResidualSettings
from idbert.nn.structure import StructureSettings

FULL = StructureSettings(
    FusionSettings("mean_max", (1, -1), width=6, activation="tanh"),
    BlockSettings("textcnn", 9, {"kernel_widths": (1, 3)}),
    ResidualSettings("concat", gate=True),
)


def config(is_causal: bool = False) -> EncoderConfig:
    return EncoderSettings(hidden_size=8, fusion=FusionSettings("gate")).to_config(
        vocab_size=20, is_causal=is_causal
    )


def test_a_structure_replaces_that_of_an_opened_encoder():
    opened = config()
    FULL.apply_to(opened)
    backbone = Backbone(opened)
    assert backbone.fusion.layers == (1, 2)
    assert backbone.fusion.width == 6
    assert len(backbone.block.block.convolutions) == 2
    assert backbone.width == 6 + 9
    StructureSettings().apply_to(opened)
    assert opened.to_dict() == config().to_dict() | {"fusion": "last"}


def test_the_settings_of_an_encoder_hold_a_structure():
    as_parts = {"fusion": FULL.fusion, "block": FULL.block, "residual": FULL.residual}
    built = EncoderSettings(hidden_size=8, **as_parts).to_config(vocab_size=20, is_causal=False)
    opened = config()
    FULL.apply_to(opened)
    assert built.to_dict() == opened.to_dict()


def test_checking_a_structure_draws_no_random_number():
    before = torch.get_rng_state()
    FULL.apply_to(config())
    EncoderSettings(block=BlockSettings("bilstm"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_block_that_looks_ahead_is_refused_before_any_model_is_built():
    structure = StructureSettings(block=BlockSettings("bilstm"))
    structure.apply_to(config(is_causal=False))
    with pytest.raises(ConfigError, match="'bilstm' reads later positions"):
        structure.apply_to(config(is_causal=True))


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (StructureSettings(FusionSettings("mean", (0, 5))), r"layers \[5\] do not exist"),
        (StructureSettings(block=BlockSettings("lstm", 5)), r"makes 5 out of 8"),
        (
            StructureSettings(FusionSettings("last", width=6), BlockSettings("lstm", 8)),
            r"makes 8 out of 6",
        ),
    ],
)
def test_what_does_not_fit_the_encoder_is_refused(structure, message):
    with pytest.raises(ConfigError, match=message):
        structure.apply_to(config())


@pytest.mark.parametrize("residual", [ResidualSettings("none"), ResidualSettings("sum", True)])
def test_a_residual_without_a_block_is_refused(residual):
    with pytest.raises(ConfigError, match="cannot act without a block to lead past"):
        StructureSettings(residual=residual)
