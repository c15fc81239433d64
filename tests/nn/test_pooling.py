"""Poolings: laws that hold for each, and the formula of each."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertPooler

from idbert.errors import ConfigError, ShapeError
from idbert.nn.parts import NoOptions
from idbert.nn.pooling import POOLINGS, Pooling, PoolingSettings, build_pooling
from idbert.nn.pooling.over_positions import mean_over_positions

WIDTH = 6
LENGTHS = (5, 1, 3, 2)
CASES = [
    ("attention", {}),
    ("attention", {"hidden_size": 2}),
    ("cls", {}),
    ("max", {}),
    ("mean", {}),
    ("mean_max", {}),
    ("min", {}),
    ("mix", {}),
    ("mix", {"weights": "free"}),
    ("mix", {"weights": "dense"}),
    ("pooler", {}),
    ("textcnn", {"channels": 4}),
    ("textcnn", {"channels": 3, "kernel_sizes": [1, 2, 7]}),
]
every_pooling = pytest.mark.parametrize(("name", "options"), CASES)


def build(name: str, options: dict | None = None) -> Pooling:
    """Build a pooling whose parameters are drawn wide, so that each of them matters."""
    torch.manual_seed(3)
    pooling = build_pooling(name, WIDTH, options)
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter)
    return pooling


def rows(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, WIDTH, generator=generator) for length in LENGTHS]


def padded(rows: list[Tensor], length: int, fill: float, left: bool = False):
    hidden_BLD = torch.full((len(rows), length, WIDTH), fill)
    mask_BL = torch.zeros(len(rows), length, dtype=torch.int64)
    for row, vectors in enumerate(rows):
        place = slice(length - len(vectors), length) if left else slice(len(vectors))
        hidden_BLD[row, place] = vectors
        mask_BL[row, place] = 1
    return hidden_BLD, mask_BL


def alone(pooling: Pooling, vectors: Tensor) -> Tensor:
    return pooling(vectors[None])[0]


def test_every_registered_pooling_is_in_these_tests():
    assert {name for name, _ in CASES} == set(POOLINGS)


@every_pooling
def test_padding_and_neighbours_change_nothing(name, options):
    pooling = build(name, options)
    expected = torch.stack([alone(pooling, vectors) for vectors in rows()])
    for length, left in [(5, False), (12, False), (9, True)]:
        for fill in (0.0, 1e4, -1e4, torch.nan, torch.inf):
            torch.testing.assert_close(pooling(*padded(rows(), length, fill, left)), expected)


@every_pooling
def test_no_mask_means_that_all_positions_are_real(name, options):
    pooling = build(name, options)
    hidden_BLD = torch.stack([rows(seed)[0] for seed in range(3)])
    expected = pooling(hidden_BLD, torch.ones(3, 5))
    torch.testing.assert_close(pooling(hidden_BLD), expected)


@every_pooling
def test_a_mask_may_be_of_any_type(name, options):
    pooling = build(name, options)
    hidden_BLD, mask_BL = padded(rows(), 7, 9.0)
    for dtype in (torch.bool, torch.int32, torch.float32):
        pooled = pooling(hidden_BLD, mask_BL.to(dtype))
        assert torch.equal(pooled, pooling(hidden_BLD, mask_BL))


@every_pooling
def test_any_batch_and_any_length_pool_to_the_announced_width(name, options):
    pooling = build(name, options)
    for batch in (1, 2, 5):
        for length in (1, 2, 4, 9):
            assert pooling(torch.randn(batch, length, WIDTH)).shape == (batch, pooling.width)


@every_pooling
def test_a_sequence_without_a_real_position_pools_to_zeros_with_gradients_of_zero(name, options):
    pooling = build(name, options)
    hidden_BLD = torch.randn(2, 3, WIDTH, requires_grad=True)
    pooled = pooling(hidden_BLD, torch.tensor([[0, 0, 0], [1, 1, 0]]))
    assert pooled[0].eq(0).all() and pooled[1].ne(0).any()
    pooled.square().sum().backward()
    assert hidden_BLD.grad[0].eq(0).all()
    for parameter in pooling.parameters():
        assert parameter.grad.isfinite().all()


@every_pooling
def test_gradients_reach_every_parameter_and_every_real_row_but_no_padding(name, options):
    pooling = build(name, options)
    hidden_BLD, mask_BL = padded(rows(), 7, 0.5)
    hidden_BLD.requires_grad_()
    pooling(hidden_BLD, mask_BL).square().sum().backward()
    for parameter_name, parameter in pooling.named_parameters():
        assert parameter.grad.abs().sum() > 0, parameter_name
    assert (hidden_BLD.grad.abs().sum(dim=(1, 2)) > 0).all()
    assert hidden_BLD.grad[mask_BL == 0].eq(0).all()


@every_pooling
def test_a_saved_pooling_is_the_same_when_loaded(name, options):
    hidden_BLD, mask_BL = padded(rows(), 6, 1.0)
    first = build(name, options)
    second = build_pooling(name, WIDTH, options)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(hidden_BLD, mask_BL), second(hidden_BLD, mask_BL))


@every_pooling
def test_bfloat16_is_kept(name, options):
    pooling = build(name, options).bfloat16()
    hidden_BLD, mask_BL = padded(rows(), 6, 1.0)
    assert pooling(hidden_BLD.bfloat16(), mask_BL).dtype is torch.bfloat16


def test_a_long_sum_in_bfloat16_is_taken_in_float32():
    hidden_BLD = torch.ones(1, 1000, WIDTH, dtype=torch.bfloat16)
    assert build("mean")(hidden_BLD).eq(1).all()
    real_BL = torch.ones(1, 1000, dtype=torch.bool)
    assert mean_over_positions(hidden_BLD, real_BL).dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("cls", lambda x: x[0]),
        ("mean", lambda x: x.mean(0)),
        ("max", lambda x: x.max(0).values),
        ("min", lambda x: x.min(0).values),
        ("mean_max", lambda x: torch.cat([x.mean(0), x.max(0).values])),
    ],
)
def test_poolings_without_parameters_are_their_formula(name, formula):
    pooled = build(name)(*padded(rows(), 8, 50.0))
    torch.testing.assert_close(pooled, torch.stack([formula(vectors) for vectors in rows()]))


def test_negative_vectors_are_not_lifted_to_zero_by_padding():
    hidden_BLD, mask_BL = padded([-1.0 - rows()[0].abs()], 9, 0.0)
    assert (build("max")(hidden_BLD, mask_BL) < -1.0).all()
    assert (build("min")(-hidden_BLD, mask_BL) > 1.0).all()


def test_the_pooler_is_that_of_bert_and_takes_its_weights():
    theirs = BertPooler(BertConfig(hidden_size=WIDTH, num_attention_heads=1))
    ours = build_pooling("pooler", WIDTH)
    ours.load_state_dict(theirs.state_dict())
    hidden_BLD = torch.randn(3, 4, WIDTH)
    torch.testing.assert_close(ours(hidden_BLD), theirs(hidden_BLD))


def test_an_untrained_mix_is_the_average_of_mean_and_maximum():
    hidden_BLD, mask_BL = padded(rows(), 8, 50.0)
    mean, highest = (build(name)(hidden_BLD, mask_BL) for name in ("mean", "max"))
    for weights in ("softmax", "free"):
        mix = build_pooling("mix", WIDTH, {"weights": weights})
        torch.testing.assert_close(mix(hidden_BLD, mask_BL), (mean + highest) / 2)
    dense = build_pooling("mix", WIDTH, {"weights": "dense"})
    torch.testing.assert_close(dense(hidden_BLD, mask_BL), (mean + highest) / 2, atol=0.1, rtol=0.0)


def test_a_mix_weighs_mean_against_maximum():
    hidden_BLD, mask_BL = padded(rows(), 8, 50.0)
    mean, highest = (build(name)(hidden_BLD, mask_BL) for name in ("mean", "max"))
    weights = torch.tensor([3.0, -1.0])
    expected = {
        "free": weights[0] * mean + weights[1] * highest,
        "softmax": weights.softmax(0)[0] * mean + weights.softmax(0)[1] * highest,
    }
    for name, pooled in expected.items():
        mix = build_pooling("mix", WIDTH, {"weights": name})
        mix.mix_weights.data.copy_(weights)
        torch.testing.assert_close(mix(hidden_BLD, mask_BL), pooled)
    dense = build("mix", {"weights": "dense"})
    u = dense.score.weight[0]
    for row, vectors in enumerate(rows()):
        two = torch.stack([vectors.mean(0), vectors.max(0).values])
        torch.testing.assert_close(
            dense(hidden_BLD, mask_BL)[row], ((two @ u).softmax(0)[:, None] * two).sum(0)
        )


@pytest.mark.parametrize("weights", ["softmax", "free", "dense"])
def test_a_mix_has_as_many_weights_for_one_row_as_for_many(weights):
    mix = build("mix", {"weights": weights})
    shapes = [tuple(parameter.shape) for parameter in mix.parameters()]
    assert shapes == [(1, WIDTH) if weights == "dense" else (2,)]
    assert mix(torch.randn(1, 4, WIDTH)).shape == (1, WIDTH)


def test_attention_is_a_softmax_over_the_real_positions():
    pooling = build("attention", {"hidden_size": 4})
    pooled = pooling(*padded(rows(), 8, 50.0))
    for row, vectors in enumerate(rows()):
        scores = (vectors @ pooling.dense.weight.T + pooling.dense.bias).tanh()
        weights = (scores @ pooling.score.weight[0]).softmax(0)
        torch.testing.assert_close(pooled[row], weights @ vectors)


def test_textcnn_is_the_strongest_answer_of_each_window():
    sizes = (2, 3)
    pooling = build("textcnn", {"kernel_sizes": list(sizes), "channels": 4})
    pooled = pooling(*padded(rows(), 8, 50.0))
    for row, vectors in enumerate(rows()):
        expected = []
        for size, convolution in zip(sizes, pooling.convolutions, strict=True):
            before, after = torch.zeros((size - 1) // 2, WIDTH), torch.zeros(size // 2, WIDTH)
            extended = torch.cat([before, vectors, after])
            windows = [extended[start : start + size] for start in range(len(vectors))]
            answers = [
                torch.einsum("cdk,kd->c", convolution.weight, window) + convolution.bias
                for window in windows
            ]
            expected.append(torch.stack(answers).relu().amax(0))
        torch.testing.assert_close(pooled[row], torch.cat(expected))


@pytest.mark.parametrize(
    ("name", "options", "other"),
    [
        ("mix", {"weights": "softmax"}, {"weights": "free"}),
        ("mix", {"weights": "softmax"}, {"weights": "dense"}),
        ("attention", {"hidden_size": 2}, {"hidden_size": 3}),
        ("textcnn", {"kernel_sizes": [2]}, {"kernel_sizes": [3]}),
        ("textcnn", {"channels": 2}, {"channels": 3}),
    ],
)
def test_every_option_acts(name, options, other):
    hidden_BLD = torch.randn(2, 5, WIDTH)
    first, second = (build(name, given)(hidden_BLD) for given in (options, other))
    assert first.shape != second.shape or not torch.allclose(first, second)


def test_the_widths_are_those_of_the_input_but_for_concatenations():
    expected = {"mean_max": 2 * WIDTH, "textcnn": 300}
    for name in POOLINGS:
        assert build_pooling(name, WIDTH).width == expected.get(name, WIDTH)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("men", {}, r"no pooling 'men'. Did you mean 'mean'\? Choose from: attention, cls, max"),
        ("mean", {"width": 3}, "pooling 'mean' has no option 'width'. It has none"),
        ("mix", {"weights": "dym"}, "pooling 'mix'.*weights"),
        ("attention", {"hidden_size": 0}, "hidden_size of the attention pooling is 0"),
        ("textcnn", {"kernel_sizes": []}, r"kernel_sizes of the textcnn pooling are \(\)"),
        ("textcnn", {"kernel_sizes": [0]}, r"kernel_sizes of the textcnn pooling are \(0,\)"),
        ("textcnn", {"kernel_sizes": [3, 3]}, "one stands there twice"),
        ("textcnn", {"channels": 0}, "channels of the textcnn pooling is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        PoolingSettings(name, options)
    with pytest.raises(ConfigError, match=message):
        build_pooling(name, WIDTH, options)


def test_a_width_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="MeanPooling was built for .* width 6 and .* width 5"):
        build("mean")(torch.randn(1, 2, 5))
    with pytest.raises(ConfigError, match="width 1 or more, not 0"):
        build_pooling("mean", 0)


def test_a_pooling_from_outside_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(POOLINGS, "_entries", dict(POOLINGS._entries))

    @POOLINGS.register("power_mean")
    class PowerMean(Pooling):
        @dataclass(frozen=True)
        class Options(NoOptions):
            exponent: float = 2.0

        def __init__(self, input_width, options):
            super().__init__(input_width, options)
            self.exponent = options.exponent

        def pool(self, hidden_BLD, real_BL):
            return mean_over_positions(hidden_BLD.abs() ** self.exponent, real_BL)

    assert PoolingSettings("power_mean", {"exponent": 3}).name == "power_mean"
    pooled = build_pooling("power_mean", WIDTH, {"exponent": 3})(*padded(rows(), 8, 50.0))
    torch.testing.assert_close(pooled[0], (rows()[0].abs() ** 3).mean(0))
