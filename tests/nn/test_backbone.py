import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.backbone import Backbone, check_same_architecture
from idbert.nn.blocks import BlockSettings
from idbert.nn.config import EncoderSettings
from idbert.nn.fusion import FUSIONS, FusionSettings
from idbert.nn.residual import ResidualSettings
from tests.nn.cases import fusion_settings

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = (IDS != 0).long()


def build(fusion: FusionSettings | None = None, is_causal: bool = False, **settings) -> Backbone:
    torch.manual_seed(0)
    settings |= {"hidden_size": 16, "initializer_range": 0.3, "fusion": fusion or FusionSettings()}
    settings = EncoderSettings(**settings)
    return Backbone(
        settings.to_config(vocab_size=20, is_causal=is_causal, type_vocab_size=2)
    ).eval()


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_a_backbone_is_the_encoder_and_then_the_fusion(name):
    backbone = build(fusion_settings(name))
    inputs = {
        "attention_mask": MASK,
        "token_type_ids": torch.ones_like(IDS),
        "position_ids": torch.arange(1, 5)[None, :],
    }
    states = backbone.hidden_states(IDS, **inputs)
    expected = backbone.encoder(IDS, **inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states, expected)
    assert len(states) == 3
    torch.testing.assert_close(backbone(IDS, **inputs), backbone.fusion(states))


def test_the_layers_of_the_settings_are_fused():
    backbone = build(FusionSettings("mean", (0, -1)))
    states = backbone.hidden_states(IDS, attention_mask=MASK)
    fused = backbone(IDS, attention_mask=MASK)
    torch.testing.assert_close(fused, (states[0] + states[2]) / 2)


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_intermediate_states_are_kept_only_for_a_fusion_that_needs_them(name):
    backbone = build(fusion_settings(name))
    kept = []
    backbone.encoder.register_forward_hook(lambda *call: kept.append(call[-1].hidden_states))
    backbone(IDS)
    assert (kept[0] is not None) is (name != "last")


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_a_causal_backbone_stays_causal_under_every_fusion(name):
    backbone = build(fusion_settings(name), is_causal=True)
    changed = IDS.clone()
    changed[0, 3] = 4
    torch.testing.assert_close(backbone(IDS)[0, :3], backbone(changed)[0, :3])


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_every_parameter_of_a_backbone_is_trained(name):
    backbone = build(fusion_settings(name)).train()
    backbone(IDS, token_type_ids=torch.tensor([[0, 1, 0, 1]] * 2)).square().sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, parameter_name


def test_a_block_reads_the_fused_states_and_the_mask():
    block = BlockSettings("bilstm", 6)
    backbone = build(FusionSettings("mean"), block=block, residual=ResidualSettings("concat"))
    fused = build(FusionSettings("mean"))(IDS, attention_mask=MASK)
    expected = torch.cat([fused, backbone.block.block(fused, MASK)], dim=-1)
    torch.testing.assert_close(backbone(IDS, attention_mask=MASK), expected)
    assert backbone.width == 22


def test_the_last_state_comes_along_from_the_same_pass():
    backbone = build(FusionSettings("mean", width=4))
    calls = []
    backbone.encoder.register_forward_hook(lambda *_: calls.append(1))
    vectors, last = backbone.forward_with_last(IDS, attention_mask=MASK)
    assert len(calls) == 1
    torch.testing.assert_close(vectors, backbone(IDS, attention_mask=MASK))
    torch.testing.assert_close(last, backbone.hidden_states(IDS, attention_mask=MASK)[-1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fusion": FusionSettings("mean", width=16)}, "fusion last there, mean here"),
        ({"fusion": FusionSettings("last", width=16)}, "tensors differ, such as fusion.dense"),
        ({"block": BlockSettings("lstm")}, "block none there, lstm here"),
        ({"layer_residual": "gated"}, "8 tensors differ, such as encoder.encoder.layer.0"),
        ({"feed_forward": "gated", "intermediate_size": 64}, "tensors differ, such as .*gate"),
        ({"residual_scores": "gated"}, "residual_scores none there, gated here"),
    ],
)
def test_backbones_with_other_parts_are_told_apart(changes, words):
    with pytest.raises(ConfigError, match=words):
        check_same_architecture(build(), build(**changes))


def test_an_option_at_its_default_makes_no_other_backbone():
    plain = build(block=BlockSettings("transformer"))
    named = BlockSettings("transformer", options={"num_layers": 1})
    check_same_architecture(plain, build(block=named))
    other = BlockSettings("transformer", options={"num_heads": 2})
    with pytest.raises(ConfigError, match="block_options .* there"):
        check_same_architecture(plain, build(block=other))
