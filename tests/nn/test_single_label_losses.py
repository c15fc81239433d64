"""Losses over one label a row: oracles, formulas, and how labels are weighted or drawn."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from idbert.errors import DataError
from idbert.nn.losses.labels import LABEL_LOSSES, LabelLoss
from idbert.nn.losses.labels.weights import balanced_weights
from tests.nn.label_world import CASES, B, C, build, fitted, world


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "sampled_softmax"])
def test_a_sure_and_right_row_costs_nothing(name):
    """Logits that went through a softmax before would leave log(1 + (C - 1) / e) = 0.9 here."""
    loss = fitted(name, {"num_negatives": 3} if name == "sampled_softmax" else {})
    logits = torch.zeros(1, C)
    logits[0, 2] = 20.0
    assert loss(logits, torch.tensor([2])) < 1e-6
    assert loss(logits, torch.tensor([1])) > 19.9


def test_cross_entropy_is_that_of_torch():
    loss = build("cross_entropy", {"class_weights": [1, 2, 0.5, 3, 0], "label_smoothing": 0.1})
    logits, targets = world(loss)
    expected = F.cross_entropy(
        logits,
        targets,
        weight=torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0]),
        label_smoothing=0.1,
        reduction="none",
    )
    torch.testing.assert_close(loss(logits, targets), expected)
    plain = build("cross_entropy")(logits, targets)
    torch.testing.assert_close(plain.mean(), F.cross_entropy(logits, targets))


def test_smoothing_spreads_its_share_evenly_over_all_labels():
    loss = build("cross_entropy", {"label_smoothing": 0.3})
    logits, targets = world(loss)
    target_BC = 0.7 * F.one_hot(targets, C) + 0.3 / C
    expected = -(target_BC * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(loss(logits, targets), expected)


def test_a_weight_acts_in_a_batch_of_one_row():
    loss = build("cross_entropy", {"class_weights": [10, 1, 1, 1, 1]})
    logits, _ = world(loss)
    plain = build("cross_entropy")(logits[:1], torch.tensor([0]))
    torch.testing.assert_close(loss(logits[:1], torch.tensor([0])), 10 * plain)


def test_balanced_class_weights_are_those_of_scikit_learn():
    targets = np.array([0, 0, 0, 0, 1, 1, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    counts_C = torch.from_numpy(np.bincount(targets))
    torch.testing.assert_close(balanced_weights(counts_C), torch.from_numpy(expected).float())
    loss = build("cross_entropy", {"class_weights": "balanced"}, num_outputs=3)
    loss.fit(counts_C, len(targets))
    logits = torch.zeros(1, 3)
    torch.testing.assert_close(
        loss(logits, torch.tensor([2])), torch.tensor([math.log(3) * expected[2]]).float()
    )


def test_a_class_that_does_not_occur_takes_nothing_from_the_others():
    weights_C = balanced_weights(torch.tensor([6, 0, 2]))
    torch.testing.assert_close(weights_C, torch.tensor([8 / 12, 0.0, 8 / 4]))
    with pytest.raises(DataError, match="there are none"):
        balanced_weights(torch.zeros(3))


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name, options in CASES if LABEL_LOSSES[name].kind == "single"],
)
def test_a_row_without_a_target_costs_nothing(name, options):
    loss = fitted(name, options)
    logits, targets = world(loss)
    expected = loss(logits, targets)
    targets[3] = -100
    torch.testing.assert_close(loss(logits, targets)[:3], expected[:3])
    logits.requires_grad_()
    row_losses = loss.train()(logits, targets)
    assert row_losses[3] == 0
    row_losses.sum().backward()
    assert logits.grad[3].eq(0).all() and logits.grad.isfinite().all()


def test_rows_without_a_target_are_not_counted():
    loss = build("cross_entropy", {"class_weights": "balanced"}, num_outputs=2)
    loss.fit_targets(torch.tensor([0, 0, 0, 1, -100, -100]))
    torch.testing.assert_close(loss.class_weights(), torch.tensor([4 / 6, 2.0]))


def test_focal_is_its_formula_row_by_row():
    alpha = [1.0, 2.0, 3.0, 4.0, 5.0]
    loss = build("focal", {"gamma": 2, "alpha": alpha})
    logits, targets = world(loss)
    for row in range(B):
        p = logits[row].softmax(-1)[targets[row]]
        expected = -alpha[targets[row]] * (1 - p) ** 2 * p.log()
        torch.testing.assert_close(loss(logits, targets)[row], expected)


def test_focal_does_not_take_its_factor_of_the_mean_of_the_batch():
    loss = build("focal")
    logits, targets = world(loss)
    mean = F.cross_entropy(logits, targets)
    of_the_mean = (1 - (-mean).exp()) ** 2 * mean
    assert abs(loss(logits, targets).mean() - of_the_mean) > 0.05


def test_a_sure_row_counts_less_against_an_unsure_one_than_in_cross_entropy():
    logits = torch.tensor([[3.0, 0.0], [0.2, 0.0]])
    targets = torch.tensor([0, 0])
    shares = [
        (loss(logits, targets)[0] / loss(logits, targets)[1]).item()
        for loss in (
            build("cross_entropy", num_outputs=2),
            build("focal", {"gamma": 1}, num_outputs=2),
            build("focal", {"gamma": 2}, num_outputs=2),
        )
    ]
    assert shares[0] > 5 * shares[1] > 25 * shares[2]


def test_sampled_softmax_is_the_full_one_in_evaluation():
    loss = fitted("sampled_softmax", {"num_negatives": 2})
    logits, targets = world(loss)
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(loss(logits, targets), expected)
    assert not torch.allclose(loss.train()(logits, targets), expected)


def sampled(power: float, counts: Tensor, num_negatives: int, num_labels: int) -> LabelLoss:
    options = {"num_negatives": num_negatives, "power": power}
    loss = build("sampled_softmax", options, num_outputs=num_labels)
    loss.fit(counts, int(counts.sum()))
    return loss


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_the_sampled_sum_has_no_bias(power):
    """The mean of e^(loss) over many draws is the full softmax' e^(loss)."""
    torch.manual_seed(1)
    counts = torch.tensor([50, 20, 5, 5, 1, 0])
    loss = sampled(power, counts, 3, 6)
    logits, targets = torch.randn(2, 6), torch.tensor([0, 4])
    draws = torch.stack([loss(logits, targets) for _ in range(1500)]).exp()
    expected = F.cross_entropy(logits, targets, reduction="none").exp()
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - expected).abs() < 4 * error).all()
    assert (error < 0.2 * expected).all()


def test_many_drawn_labels_are_near_the_full_softmax():
    torch.manual_seed(2)
    loss = sampled(0.75, torch.arange(2000), 1900, 2000)
    logits, targets = torch.randn(4, 2000), torch.tensor([3, 70, 500, 1999])
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(loss(logits, targets), expected, atol=0.2, rtol=0.0)


def test_labels_are_drawn_by_their_counts():
    loss = sampled(0.5, torch.tensor([99, 24, 0, 0]), 2, 4)
    torch.testing.assert_close(loss.probability_C, torch.tensor([10.0, 5.0, 1.0, 1.0]) / 17)
    uniform = build("sampled_softmax", {"num_negatives": 2, "power": 0}, num_outputs=4)
    assert uniform(torch.randn(1, 4), torch.tensor([0])).isfinite()
    torch.testing.assert_close(uniform.probability_C, torch.full((4,), 0.25))


def test_only_drawn_labels_and_the_own_one_have_a_gradient():
    torch.manual_seed(0)
    loss = sampled(0.0, torch.ones(1000), 10, 1000)
    logits = torch.randn(2, 1000, requires_grad=True)
    loss(logits, torch.tensor([1, 2])).sum().backward()
    assert 2 <= (logits.grad != 0).sum(dim=1).max() <= 11
    assert logits.grad[0, 1] < 0 and logits.grad[1, 2] < 0


def test_the_own_label_is_never_its_own_negative():
    loss = sampled(1.0, torch.tensor([10**9, 0, 0]), 2, 3)
    assert loss(torch.randn(1, 3), torch.tensor([0])) < 1e-6
