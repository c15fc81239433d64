"""Losses over several labels a row, or a number: oracles and formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from idbert.errors import DataError
from idbert.nn.losses.labels.weights import balanced_positive_weights
from tests.nn.label_world import B, C, build, fitted, world


def test_bce_is_that_of_torch_and_its_mean_that_of_transformers():
    weights = [1.0, 2.0, 3.0, 0.5, 1.0]
    loss = build("bce", {"pos_weight": weights})
    logits, targets = world(loss)
    expected = F.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=torch.tensor(weights), reduction="none"
    )
    torch.testing.assert_close(loss(logits, targets), expected.mean(1))
    plain = build("bce")(logits, targets)
    torch.testing.assert_close(plain.mean(), torch.nn.BCEWithLogitsLoss()(logits, targets))


def test_one_positive_weight_stands_for_all_labels():
    loss = build("bce", {"pos_weight": 10})
    logits, targets = world(loss)
    many = build("bce", {"pos_weight": [10] * C})
    assert torch.equal(loss(logits, targets), many(logits, targets))


def test_balanced_bce_counts_rows():
    loss = fitted("bce", {"pos_weight": "balanced"})
    logits, targets = world(loss)
    positives = targets.sum(0)
    by_hand = build("bce", {"pos_weight": ((B - positives) / positives).tolist()})
    torch.testing.assert_close(loss(logits, targets), by_hand(logits, targets))


def test_balanced_weights_of_several_labels_are_negatives_by_positives():
    weights_C = balanced_positive_weights(torch.tensor([2, 0, 10, 5]), 10)
    torch.testing.assert_close(weights_C, torch.tensor([4.0, 1.0, 1.0, 1.0]))
    with pytest.raises(DataError, match="A label occurs in 11 of 10 rows"):
        balanced_positive_weights(torch.tensor([11.0]), 10)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_bce_is_its_formula_label_by_label(alpha):
    loss = build("focal_bce", {"gamma": 2, "alpha": alpha})
    logits, targets = world(loss)
    for row in range(B):
        terms = []
        for x, t in zip(logits[row].sigmoid(), targets[row], strict=True):
            q = x if t else 1 - x
            weight = 1.0 if alpha is None else (alpha if t else 1 - alpha)
            terms.append(-weight * (1 - q) ** 2 * q.log())
        torch.testing.assert_close(loss(logits, targets)[row], torch.stack(terms).mean())


def test_zlpr_is_its_formula():
    loss = build("zlpr")
    logits, targets = world(loss)
    for row in range(B):
        borne = targets[row] == 1
        expected = (1 + logits[row][~borne].exp().sum()).log()
        expected = expected + (1 + (-logits[row][borne]).exp().sum()).log()
        torch.testing.assert_close(loss(logits, targets)[row], expected)


def test_zlpr_decides_at_zero():
    loss = build("zlpr")
    decided = loss.decide(torch.tensor([[-0.1, 0.1, 3.0, -3.0, -0.1]]))
    assert decided.tolist() == [[False, True, True, False, False]]


def test_concurrent_softmax_is_its_formula():
    loss = fitted("concurrent_softmax")
    logits, targets = world(loss)
    counts = targets.sum(0)
    for row in range(B):
        expected = torch.tensor(0.0)
        borne = [i for i in range(C) if targets[row, i]]
        for i in borne:
            others = torch.tensor(0.0)
            for j in range(C):
                if j not in borne:
                    rate = (targets[:, i] * targets[:, j]).sum() / counts[i]
                    others = others + (1 - rate) * logits[row, j].exp()
            own = logits[row, i].exp()
            expected = expected - (own / (1 + own + others)).log()
        not_borne = logits[row][targets[row] == 0]
        expected = expected + (1 + not_borne.exp().sum()).log()
        torch.testing.assert_close(loss(logits, targets)[row], expected)


def test_concurrent_softmax_multiplies_in_float32_under_autocast():
    loss = fitted("concurrent_softmax")
    logits, targets = world(loss)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(logits, targets)
    assert torch.equal(found, loss(logits, targets))


def test_concurrent_softmax_keeps_a_label_far_below_the_others():
    """Relative to the highest logit, 60, the competitor's exponential is 1e-29 and still counts."""
    loss = build("concurrent_softmax", {"use_rates": False}, num_outputs=3)
    logits = torch.tensor([[60.0, -6.0, -6.0]], requires_grad=True)
    row_loss = loss(logits, torch.tensor([[1.0, 1.0, 0.0]]))
    expected = 6 + math.log(1 + 2 * math.exp(-6)) + math.log(1 + math.exp(-6))
    torch.testing.assert_close(row_loss, torch.tensor([expected]))
    row_loss.sum().backward()
    assert (logits.grad[0, 1:] != 0).all()


def test_labels_that_occur_together_are_spared():
    """Label 1 is borne in half of the rows that bear 0, and 2 in none."""
    loss = build("concurrent_softmax", num_outputs=3)
    rows = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    loss.fit_targets(rows)
    logits = torch.zeros(1, 3, requires_grad=True)
    loss(logits, torch.tensor([[1.0, 0.0, 0.0]])).sum().backward()
    # 1/3 each from the background; of 1 + 1 + 1/2 + 1 the half label has 1/7 and the whole 2/7.
    torch.testing.assert_close(logits.grad[0, 1:], torch.tensor([1 / 3 + 1 / 7, 1 / 3 + 2 / 7]))


def test_numbers_are_those_of_torch():
    logits, targets = world(build("mse"))
    squared = F.mse_loss(logits[:, 0], targets, reduction="none")
    torch.testing.assert_close(build("mse")(logits, targets), squared)
    huber = F.huber_loss(logits[:, 0], targets, reduction="none", delta=0.5)
    torch.testing.assert_close(build("huber", {"delta": 0.5})(logits, targets), huber)
