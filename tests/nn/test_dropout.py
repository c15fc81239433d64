"""Dropout of random bits: its law, and what it leaves alone."""

import pytest
import torch

from idbert.nn.dropout import Dropout, dropout, dropout_factors


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.9])
def test_each_number_is_dropped_with_the_probability_wherever_it_stands(probability):
    torch.manual_seed(0)
    factors = dropout_factors(torch.Size([4000, 64]), probability)
    dropped = (factors == 0).float()
    noise = (probability * (1 - probability)) ** 0.5
    assert abs(dropped.mean() - probability) < 5 * noise / 256000**0.5
    # four neighbours share a random word, and are independent all the same
    assert (dropped.mean(0) - probability).abs().max() < 5 * noise / 4000**0.5
    correlation = torch.corrcoef(dropped.T) - torch.eye(64)
    assert correlation.abs().max() < 5.5 / 4000**0.5


def test_two_draws_are_independent():
    torch.manual_seed(0)
    first, second = (dropout_factors(torch.Size([256000]), 0.3) == 0 for _ in range(2))
    both = (first & second).float().mean()
    assert abs(both - 0.09) < 5 * (0.09 * 0.91 / 256000) ** 0.5


def test_the_expectation_is_kept():
    factors = dropout_factors(torch.Size([1000]), 0.3)
    dropped = round(0.3 * 65536)
    kept = torch.tensor(65536 / (65536 - dropped))
    assert set(factors.unique().tolist()) == {0.0, kept.item()}
    assert abs(kept - 1 / 0.7) < 1e-4


def test_the_gradient_passes_where_the_number_did():
    torch.manual_seed(0)
    x = torch.randn(50, 7, requires_grad=True)
    dropped = dropout(x, 0.4)
    dropped.sum().backward()
    assert torch.allclose(x.grad, (dropped / x).detach())
    assert torch.equal(x.grad == 0, dropped == 0)


@pytest.mark.parametrize("count", [100, 100000])
def test_torch_s_seed_makes_it_repeatable(count):
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(torch.ones(count), 0.5))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_type_of_number_is_kept(dtype):
    assert dropout(torch.ones(3, 5, dtype=dtype), 0.5).dtype == dtype


def test_nothing_is_dropped_at_zero_everything_at_one_and_outside_training():
    x = torch.randn(3, 5)
    assert dropout(x, 0.0) is x
    assert torch.equal(dropout(x, 1e-9), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros(3, 5))
    assert Dropout(0.9).eval()(x) is x
