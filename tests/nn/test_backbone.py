import pytest
import torch

from idbert.nn.backbone import Backbone
from idbert.nn.config import EncoderSettings
from idbert.nn.fusion import FUSIONS, FusionSettings

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = (IDS != 0).long()


def build(fusion: FusionSettings, is_causal: bool = False) -> Backbone:
    torch.manual_seed(0)
    settings = EncoderSettings(hidden_size=16, initializer_range=0.3, fusion=fusion)
    return Backbone(
        settings.to_config(vocab_size=20, is_causal=is_causal, type_vocab_size=2)
    ).eval()


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_a_backbone_is_the_encoder_and_then_the_fusion(name):
    backbone = build(FusionSettings(name))
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
    backbone = build(FusionSettings(name))
    kept = []
    backbone.encoder.register_forward_hook(lambda *call: kept.append(call[-1].hidden_states))
    backbone(IDS)
    assert (kept[0] is not None) is (name != "last")


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_a_causal_backbone_stays_causal_under_every_fusion(name):
    backbone = build(FusionSettings(name), is_causal=True)
    changed = IDS.clone()
    changed[0, 3] = 4
    torch.testing.assert_close(backbone(IDS)[0, :3], backbone(changed)[0, :3])


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_every_parameter_of_a_backbone_is_trained(name):
    backbone = build(FusionSettings(name)).train()
    backbone(IDS, token_type_ids=torch.tensor([[0, 1, 0, 1]] * 2)).square().sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, parameter_name
