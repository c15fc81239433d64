import math

import pytest
import torch

from idbert.errors import ConfigError, ShapeError
from idbert.nn.fusion import FUSIONS, FusionSettings, LayerFusion, build_fusion
from idbert.nn.registry import Registry

NUM_STATES = 4


def states(seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 5, 6, generator=generator) for _ in range(NUM_STATES))


def fusion(name: str, layers=None) -> LayerFusion:
    return build_fusion(name, NUM_STATES, 6, layers)


def test_last_is_the_last_state_and_needs_no_other():
    hidden = states()
    assert fusion("last")(hidden) is hidden[-1]
    assert fusion("last")(hidden[-1:]) is hidden[-1]
    assert not fusion("last").needs_all_states
    assert fusion("last").layers == (3,)


def test_mean_is_the_mean_of_the_chosen_layers():
    hidden = states()
    torch.testing.assert_close(fusion("mean")(hidden), torch.stack(hidden).mean(0))
    chosen = fusion("mean", [0, -1])(hidden)
    torch.testing.assert_close(chosen, (hidden[0] + hidden[3]) / 2)


@pytest.mark.parametrize("layers", [None, [1, -1]])
def test_an_untrained_softmax_fusion_is_the_mean_of_the_layers(layers):
    mean = fusion("mean", layers)(states())
    torch.testing.assert_close(fusion("softmax", layers)(states()), mean)


def test_an_untrained_gate_is_near_the_mean_of_the_layers():
    torch.manual_seed(0)
    torch.testing.assert_close(
        fusion("gate")(states()), fusion("mean")(states()), atol=0.2, rtol=0.0
    )


def test_softmax_weights_are_positive_and_sum_to_one():
    blend = fusion("softmax", [0, 2])
    with torch.no_grad():
        blend.layer_logits.copy_(torch.tensor([0.0, math.log(3.0)]))
    torch.testing.assert_close(blend.weights(), torch.tensor([0.25, 0.75]))
    hidden = states()
    torch.testing.assert_close(blend(hidden), 0.25 * hidden[0] + 0.75 * hidden[2])
    assert not blend.weights().requires_grad


def test_a_gate_weighs_the_layers_of_each_token_by_their_scores():
    gate = fusion("gate")
    with torch.no_grad():
        gate.score.weight.copy_(torch.randn(1, 6))
    hidden_KBLD = torch.stack(states())
    alpha_KBL1 = (hidden_KBLD @ gate.score.weight.T).softmax(0)
    torch.testing.assert_close(gate(states()), (alpha_KBL1 * hidden_KBLD).sum(0))


def test_a_gate_can_choose_another_layer_for_each_token():
    gate = fusion("gate")
    with torch.no_grad():
        gate.score.weight.fill_(100.0)
    hidden = [torch.zeros(1, 2, 6) for _ in range(NUM_STATES)]
    hidden[1][0, 0] = 1.0
    hidden[3][0, 1] = 2.0
    torch.testing.assert_close(gate(hidden)[0, :, 0], torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("name", ["softmax", "gate"])
def test_learned_fusions_have_a_gradient_for_each_parameter(name):
    blend = fusion(name)
    blend(states()).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in blend.parameters())


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_every_fusion_keeps_shape_and_type(name):
    hidden = [state.bfloat16() for state in states()]
    fused = fusion(name).bfloat16()(hidden)
    assert fused.shape == hidden[0].shape
    assert fused.dtype is torch.bfloat16


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_only_a_fusion_that_learns_one_weight_a_layer_shows_weights(name):
    assert (fusion(name).weights() is not None) is (name == "softmax")


@pytest.mark.parametrize("name", ["mean", "softmax", "gate"])
def test_another_number_of_states_is_refused(name):
    with pytest.raises(ShapeError, match="built for 4 hidden states .* and received 3"):
        fusion(name)(states()[1:])


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("men", None, r"no fusion 'men'. Did you mean 'mean'\? Choose from: gate, last, mean"),
        ("last", (1,), r"'last' reads no layer but the last, so layers=\(1,\) cannot act"),
        ("softmax", (1,), r"'softmax' needs at least 2 layers, not layers=\(1,\)"),
        ("gate", (), r"'gate' needs at least 2 layers"),
        ("mean", (), r"'mean' needs at least 1 layers"),
    ],
)
def test_settings_that_cannot_act_are_refused(name, layers, message):
    with pytest.raises(ConfigError, match=message):
        FusionSettings(name, layers)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([4], r"layers \[4\] do not exist: .* 4 states, 0 .* to 3 .*, or -4 to -1"),
        ([0, -5], r"layers \[-5\] do not exist"),
        ([3, -1], r"layers \[3, -1\] name a layer twice"),
    ],
)
def test_layers_that_do_not_exist_or_repeat_are_refused(layers, message):
    with pytest.raises(ConfigError, match=message):
        fusion("mean", layers)


def test_a_fusion_from_outside_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(FUSIONS, "_entries", dict(FUSIONS._entries))

    @FUSIONS.register("first")
    class FirstLayer(LayerFusion):
        def forward(self, hidden_KBLD):
            return self._chosen(hidden_KBLD)[0]

    hidden = states()
    assert fusion("first")(hidden) is hidden[0]


def test_a_name_is_registered_once():
    registry: Registry[int] = Registry("number")
    registry.register("one")(1)
    assert registry["one"] == 1
    assert "one" in registry
    with pytest.raises(ConfigError, match="The number 'one' is registered already, as 1"):
        registry.register("one")(2)
