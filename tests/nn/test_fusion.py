import math
from dataclasses import dataclass

import pytest
import torch

from idbert.errors import ConfigError, ShapeError
from idbert.nn.config import EncoderSettings
from idbert.nn.fusion import FUSIONS, FusionSettings, LayerFusion, build_fusion
from idbert.nn.item_models import MaskedItemModel
from idbert.nn.parts import NoOptions
from idbert.nn.registry import Registry
from tests.nn.cases import fusion_settings

NUM_STATES = 4


def states(seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 5, 6, generator=generator) for _ in range(NUM_STATES))


def fusion(name: str, layers=None, **more) -> LayerFusion:
    return build_fusion(name, NUM_STATES, 6, layers or fusion_settings(name).layers, **more)


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


def test_one_layer_is_that_layer_as_it_is():
    hidden = states()
    assert fusion("layer", [-2])(hidden) is hidden[2]
    assert fusion("layer", [0])(hidden) is hidden[0]


def test_sum_and_max_are_those_of_the_chosen_layers():
    hidden = states()
    torch.testing.assert_close(fusion("sum")(hidden), torch.stack(hidden).sum(0))
    torch.testing.assert_close(fusion("max")(hidden), torch.stack(hidden).amax(0))
    torch.testing.assert_close(fusion("sum", [0, 2])(hidden), hidden[0] + hidden[2])
    last_two = torch.maximum(hidden[2], hidden[3])
    torch.testing.assert_close(fusion("max", [-1, -2])(hidden), last_two)


def test_mean_max_is_the_mean_and_the_maximum_side_by_side():
    both = fusion("mean_max", [-1, 0])
    hidden = states()
    chosen = torch.stack([hidden[0], hidden[3]])
    assert both.width == 12
    torch.testing.assert_close(both(hidden), torch.cat([chosen.mean(0), chosen.amax(0)], -1))


@pytest.mark.parametrize("name", ["softmax", "weights"])
@pytest.mark.parametrize("layers", [None, [1, -1]])
def test_an_untrained_fusion_of_weights_is_the_mean_of_the_layers(name, layers):
    mean = fusion("mean", layers)(states())
    torch.testing.assert_close(fusion(name, layers)(states()), mean)


def test_free_weights_may_be_negative_and_need_not_sum_to_one():
    blend = fusion("weights", [0, 2])
    with torch.no_grad():
        blend.layer_weights.copy_(torch.tensor([-1.0, 3.0]))
    hidden = states()
    torch.testing.assert_close(blend(hidden), 3 * hidden[2] - hidden[0])
    assert blend.weights().tolist() == [-1.0, 3.0]
    assert not blend.weights().requires_grad


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


@pytest.mark.parametrize("name", ["softmax", "weights", "gate"])
def test_learned_fusions_have_a_gradient_for_each_parameter(name):
    blend = fusion(name)
    blend(states()).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in blend.parameters())


@pytest.mark.parametrize("name", sorted(FUSIONS))
@pytest.mark.parametrize("width", [None, 3])
def test_every_fusion_gives_its_width_and_keeps_the_type(name, width):
    hidden = [state.bfloat16() for state in states()]
    blend = fusion(name, width=width).bfloat16()
    assert blend.width == (width or (12 if name == "mean_max" else 6))
    fused = blend(hidden)
    assert fused.shape == (2, 5, blend.width)
    assert fused.dtype is torch.bfloat16


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_only_a_fusion_that_learns_one_weight_a_layer_shows_weights(name):
    assert (fusion(name).weights() is not None) is (name in ("softmax", "weights"))


def test_a_width_puts_a_dense_layer_and_its_activation_behind_the_fusion():
    projected = fusion("softmax", [0, 2], width=3, activation="relu")
    plain = fusion("softmax", [0, 2])
    expected = projected.dense(plain(states())).relu()
    torch.testing.assert_close(projected(states()), expected)
    assert projected.layers == (0, 2)
    assert projected.needs_all_states
    torch.testing.assert_close(projected.weights(), plain.weights())
    assert not fusion("last", width=3).needs_all_states


@pytest.mark.parametrize("name", sorted(set(FUSIONS) - {"last"}))
def test_another_number_of_states_is_refused(name):
    with pytest.raises(ShapeError, match="built for 4 hidden states .* and received 3"):
        fusion(name)(states()[1:])


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        (
            "men",
            None,
            r"no fusion 'men'. Did you mean 'mean'\? Choose from: gate, last, layer, max, mean",
        ),
        ("last", (1,), r"'last' reads no layer but the last, so layers=\(1,\) cannot act"),
        ("softmax", (1,), r"'softmax' needs at least 2 layers, not layers=\(1,\)"),
        ("gate", (), r"'gate' needs at least 2 layers"),
        ("mean", (), r"'mean' needs at least 1 layers"),
        ("layer", None, r"'layer' must be told which layer to read, such as layers=\(-2,\)"),
        ("layer", (1, 2), r"'layer' reads no more than 1 of the layers, not layers=\(1, 2\)"),
        ("mean_max", (1,), r"'mean_max' needs at least 2 layers"),
    ],
)
def test_settings_that_cannot_act_are_refused(name, layers, message):
    with pytest.raises(ConfigError, match=message):
        FusionSettings(name, layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, r"fusion's width is 0; it must be at least 1"),
        ({"activation": "relu"}, r"activation 'relu' cannot act without a dense layer"),
        ({"width": 3, "activation": "rely"}, r"no activation 'rely'. Did you mean 'relu'\?"),
        ({"options": {"depth": 2}}, r"fusion 'mean' has no option 'depth'. It has none"),
    ],
)
def test_a_width_an_activation_or_an_option_that_cannot_act_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        FusionSettings("mean", **changes)


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


def test_a_fusion_from_outside_receives_its_options(monkeypatch):
    monkeypatch.setattr(FUSIONS, "_entries", dict(FUSIONS._entries))

    @FUSIONS.register("decayed")
    class DecayedSum(LayerFusion):
        @dataclass(frozen=True)
        class Options(NoOptions):
            rate: float = 0.5

        def __init__(self, num_states, hidden_size, layers=None, *, options):
            super().__init__(num_states, hidden_size, layers)
            self.rate = options.rate

        def forward(self, hidden_KBLD):
            return sum(h * self.rate**n for n, h in enumerate(self._chosen(hidden_KBLD)))

    hidden = states()
    torch.testing.assert_close(
        fusion("decayed", [0, 1], options={"rate": 3.0})(hidden), hidden[0] + 3 * hidden[1]
    )
    with pytest.raises(ConfigError, match="no option 'ratio'. Did you mean 'rate'"):
        FusionSettings("decayed", options={"ratio": 1.0})


def test_a_name_is_registered_once():
    registry: Registry[int] = Registry("number")
    registry.register("one")(1)
    assert registry["one"] == 1
    assert "one" in registry
    with pytest.raises(ConfigError, match="The number 'one' is registered already, as 1"):
        registry.register("one")(2)


def test_a_class_that_is_defined_again_takes_its_own_place():
    registry: Registry[type] = Registry("thing")

    def define() -> type:
        @registry.register("mine")
        class Mine: ...

        return Mine

    define()
    again = define()  # as when the cell of a notebook is run again
    assert registry["mine"] is again
    with pytest.raises(ConfigError, match="is registered already"):
        registry.register("mine")(int)


def test_numbers_that_would_not_be_saved_are_refused(monkeypatch):
    monkeypatch.setattr(FUSIONS, "_entries", dict(FUSIONS._entries))

    @FUSIONS.register("forgetful")
    class Forgetful(LayerFusion):
        def __init__(self, num_states, hidden_size, layers=None):
            super().__init__(num_states, hidden_size, layers)
            self.register_buffer("weights_K", torch.ones(num_states), persistent=False)

        def forward(self, hidden_KBLD):
            return sum(w * h for w, h in zip(self.weights_K, hidden_KBLD, strict=True))

    settings = EncoderSettings(hidden_size=8, fusion=FusionSettings("forgetful"))
    with pytest.raises(ConfigError, match="Forgetful keeps 'weights_K' as a buffer that is not"):
        MaskedItemModel.build(settings, vocab_size=20)
