"""Losses over the catalogue: one value and one gradient, however they are computed."""

from functools import partial
from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from idbert.errors import ConfigError
from idbert.nn.losses.catalogue import (
    LOSSES,
    CatalogueLoss,
    LossSettings,
    build_loss,
    chunked_softmax_loss,
    full_softmax_loss,
    usual_chunk,
)
from idbert.nn.losses.sampled import sampled_softmax_loss
from tests.nn.loss_world import loss_and_gradients, problem


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any tensor has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_the_full_loss_is_the_summed_cross_entropy():
    hidden_MD, weight_VD, bias_V, targets_M, weights_M = problem()
    scores_MV = hidden_MD @ weight_VD.T + bias_V
    expected = F.cross_entropy(scores_MV, targets_M, reduction="sum")
    torch.testing.assert_close(full_softmax_loss(hidden_MD, weight_VD, bias_V, targets_M), expected)
    expected = sum(
        weight * F.cross_entropy(score[None], target[None])
        for weight, score, target in zip(weights_M, scores_MV, targets_M, strict=True)
    )
    torch.testing.assert_close(
        full_softmax_loss(hidden_MD, weight_VD, bias_V, targets_M, weights_M), expected
    )


@pytest.mark.parametrize("chunk_size", [1, 7, 50, 1000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_the_chunked_loss_has_the_full_ones_value_and_gradients(
    chunk_size, weighted, padded, monkeypatch
):
    monkeypatch.setattr("idbert.nn.products.products_are_fast", lambda: padded)
    hidden_MD, weight_VD, bias_V, targets_M, weights_M = problem()
    arguments = (hidden_MD, weight_VD, bias_V, targets_M, weights_M if weighted else None)

    def chunked(*args):
        return chunked_softmax_loss(*args, chunk_size=chunk_size)

    expected = loss_and_gradients(full_softmax_loss, *arguments)
    actual = loss_and_gradients(chunked, *arguments)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_in_float32_the_gradients_agree_to_one_in_a_million():
    arguments = problem(num_targets=300, num_rows=97, dtype=torch.float32)
    expected = loss_and_gradients(full_softmax_loss, *arguments)
    actual = loss_and_gradients(chunked_softmax_loss, *arguments)
    for one, other in zip(actual, expected, strict=True):
        assert (one - other).abs().max() <= 1e-6 * other.abs().max()


@pytest.mark.parametrize(
    "shift", [0.0, 80.0, -80.0, 300.0, -300.0], ids=lambda shift: f"scores about {shift:.0f}"
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_large_and_small_scores_have_the_same_loss(shift, smoothing):
    hidden_MD, weight_VD, bias_V, targets_M, weights_M = problem(dtype=torch.float32)
    bias_V = (bias_V.detach() + shift).requires_grad_()
    inputs = (hidden_MD, weight_VD, bias_V)
    options = {"label_smoothing": smoothing, "first_row": 5}
    found = loss_and_gradients(
        partial(chunked_softmax_loss, chunk_size=7, **options), *inputs, targets_M, weights_M
    )
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = loss_and_gradients(
        partial(full_softmax_loss, **options), *exact, targets_M, weights_M
    )
    for value, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), truth, rtol=2e-4, atol=2e-5)


def test_a_target_of_no_probability_has_its_loss_and_pulls_with_all_its_weight():
    hidden_MD = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).requires_grad_()
    weight_VD = torch.tensor([[0.0, 0.0], [50.0, 2.0], [-60.0, 1.0]]).requires_grad_()
    loss, of_hidden_MD, of_weight_VD, _ = loss_and_gradients(
        chunked_softmax_loss,
        hidden_MD,
        weight_VD,
        torch.zeros(3, requires_grad=True),
        torch.tensor([2, 2]),
        torch.ones(2),
    )
    assert loss.item() == pytest.approx(110 + 1.4076, abs=1e-3)
    torch.testing.assert_close(7 * of_hidden_MD[0], torch.tensor([110.0, 1.0]))
    assert 7 * of_weight_VD[2, 0] == pytest.approx(-1)


def test_the_chunked_loss_never_holds_more_scores_than_a_chunk():
    arguments = problem(num_targets=400, num_rows=300)
    with LargestTensor() as full:
        loss_and_gradients(full_softmax_loss, *arguments)
    with LargestTensor() as chunked:
        loss_and_gradients(lambda *a: chunked_softmax_loss(*a, chunk_size=16), *arguments)
    assert full.elements == 400 * 300
    assert chunked.elements == 16 * 300


def test_unless_told_otherwise_a_chunk_fits_into_the_caches_of_a_processor(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert usual_chunk(3_416, "cpu") == 2 * 153
    assert usual_chunk(10, "cpu") == usual_chunk(54_542, "cuda") == 1024
    assert usual_chunk(54_542, "cpu") == 64
    assert usual_chunk(54_542, "cpu", is_rounded=True) == 76
    with LargestTensor() as chunked:
        loss_and_gradients(chunked_softmax_loss, *problem(num_targets=400, num_rows=20_000))
    assert chunked.elements == 58 * 20_000  # seven chunks of at most 64 targets, evenly
    with LargestTensor() as sampled:
        hidden_MD, weight_VD, bias_V, targets_M, _ = problem(num_targets=400, num_rows=30)
        negatives_N = torch.arange(20_000) % 30
        sampled_softmax_loss(
            hidden_MD, weight_VD, bias_V, targets_M, negatives_N, torch.zeros(20_000)
        )
    assert sampled.elements == 58 * 20_000


def peak_mib(action):
    """Return the most memory that an action's tensors take up at any one moment."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes)) / 2**20


def test_with_gradients_the_chunked_loss_takes_a_tenth_of_the_full_ones_memory():
    arguments = problem(num_targets=2048, num_rows=3000, dtype=torch.float32)
    full = peak_mib(lambda: loss_and_gradients(full_softmax_loss, *arguments))
    chunked = peak_mib(
        lambda: loss_and_gradients(lambda *a: chunked_softmax_loss(*a, chunk_size=64), *arguments)
    )
    assert full > 2 * 2048 * 3000 * 4 / 2**20  # else this measures nothing
    assert chunked < full / 10


def test_without_gradients_the_chunked_loss_is_the_same():
    arguments = problem()
    with torch.no_grad():
        without = chunked_softmax_loss(*arguments, chunk_size=7)
    assert without == chunked_softmax_loss(*arguments, chunk_size=7)


def test_the_chunked_loss_can_be_differentiated_twice_over_the_same_graph():
    hidden_MD, *others = problem()
    loss = chunked_softmax_loss(hidden_MD, *others)
    (first,) = torch.autograd.grad(loss, hidden_MD, retain_graph=True)
    (second,) = torch.autograd.grad(loss, hidden_MD)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_no_target_costs_nothing():
    arguments = problem(num_targets=0)
    for loss in (full_softmax_loss, chunked_softmax_loss):
        value, *gradients = loss_and_gradients(loss, *arguments)
        assert value == 0
        assert all(gradient.abs().sum() == 0 for gradient in gradients)


@pytest.mark.parametrize("name", ["full", "chunked"])
def test_under_autocast_the_loss_is_float32_and_near(name):
    arguments = problem(dtype=torch.float32)
    loss = build_loss(LossSettings(name))
    expected = loss_and_gradients(loss, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        actual = loss_and_gradients(loss, *arguments)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_every_loss_setting_acts():
    hidden_MD, weight_VD, bias_V, targets_M, weights_M = problem(num_targets=9, num_rows=5)
    for settings, largest in [
        (LossSettings("full"), 9 * 5),
        (LossSettings("chunked", {"chunk_size": 2}), 5 * 8),
    ]:
        with LargestTensor() as recorder:
            build_loss(settings)(hidden_MD[:, :2], weight_VD[:, :2], bias_V, targets_M, weights_M)
        assert recorder.elements <= largest


def test_a_loss_from_outside_is_found_by_name():
    @LOSSES.register("half of the full one")
    class Half(CatalogueLoss):
        def forward(self, *arguments):
            return full_softmax_loss(*arguments) / 2

    arguments = problem()
    half = build_loss(LossSettings("half of the full one"))(*arguments)
    torch.testing.assert_close(2 * half, full_softmax_loss(*arguments))


def test_a_misspelt_loss_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="There is no loss 'chunkd'. Did you mean 'chunked'?"):
        LossSettings("chunkd")


def test_a_chunk_size_that_cannot_act_is_refused():
    with pytest.raises(ConfigError, match="loss 'full' has no option 'chunk_size'"):
        LossSettings("full", {"chunk_size": 64})
    with pytest.raises(ConfigError, match="chunk_size is 0; it must be at least 1"):
        LossSettings(options={"chunk_size": 0})
