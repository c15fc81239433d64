"""The laws of every loss over labels, and that every option acts."""

import pytest
import torch

from idbert.nn.losses.labels import LABEL_LOSSES
from tests.nn.label_world import CASES, B, build, every_loss, fitted, world


def test_every_registered_loss_is_in_these_tests():
    assert {name for name, _ in CASES} == set(LABEL_LOSSES)


@every_loss
def test_the_loss_of_a_row_does_not_depend_on_its_neighbours(name, options):
    loss = fitted(name, options)
    logits, targets = world(loss)
    together = loss(logits, targets)
    assert together.shape == (B,)
    alone = torch.cat([loss(logits[row, None], targets[row, None]) for row in range(B)])
    torch.testing.assert_close(together, alone)


@every_loss
def test_gradients_are_those_of_finite_differences(name, options):
    loss = fitted(name, options).double()
    logits, targets = world(loss)
    assert torch.autograd.gradcheck(
        lambda logits: loss(logits, targets), logits.double().requires_grad_()
    )


@every_loss
def test_extreme_logits_have_finite_losses_and_gradients(name, options):
    loss = fitted(name, options)
    logits, targets = world(loss)
    for scale in (0.0, 1.0, 100.0, 1e4):
        scaled = (logits * scale).requires_grad_()
        row_losses = loss(scaled, targets)
        row_losses.sum().backward()
        assert row_losses.isfinite().all() and (row_losses >= 0).all()
        assert scaled.grad.isfinite().all()
        assert loss.probabilities(scaled).isfinite().all()


@every_loss
def test_losses_of_bfloat16_logits_are_taken_in_float32(name, options):
    loss = fitted(name, options)
    logits, targets = world(loss)
    half = logits.bfloat16()
    row_losses = loss(half, targets)
    assert row_losses.dtype is torch.float32
    torch.testing.assert_close(row_losses, loss(half.float(), targets))
    assert loss.probabilities(half).dtype is torch.float32


@every_loss
def test_what_was_fitted_is_saved_and_loaded(name, options):
    first, second = fitted(name, options), build(name, options).eval()
    second.load_state_dict(first.state_dict())
    logits, targets = world(first)
    assert torch.equal(first(logits, targets), second(logits, targets))
    assert torch.equal(first.probabilities(logits), second.probabilities(logits))


@every_loss
def test_training_by_the_loss_ends_in_the_right_decisions(name, options):
    """Free logits go down the gradient; a softmax on top of probabilities would stall far off."""
    torch.manual_seed(0)
    loss = fitted(name, options).train()
    logits, targets = world(loss)
    before = loss.eval()(logits, targets).sum()
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    loss.train()
    for _ in range(150):
        optimizer.zero_grad()
        loss(logits, targets).sum().backward()
        optimizer.step()
    loss.eval()
    decided = loss.decide(logits.detach())
    if loss.kind == "number":
        torch.testing.assert_close(decided, targets, atol=0.05, rtol=0.0)
    elif loss.kind == "single":
        assert decided.equal(targets)
    else:
        assert decided.equal(targets.bool())
    if "label_smoothing" not in options:
        assert loss(logits, targets).sum() < 0.05 * before


def test_probabilities_are_of_the_logits():
    logits, _ = world(build("cross_entropy"))
    for name, options in CASES:
        loss = fitted(name, options)
        if loss.kind == "single":
            torch.testing.assert_close(loss.probabilities(logits), logits.softmax(-1))
            assert loss.decide(logits).equal(logits.argmax(-1))
        elif loss.kind == "number":
            assert loss.probabilities(logits[:, :1]).equal(logits[:, :1])
            assert loss.decide(logits[:, :1]).equal(logits[:, 0])
        else:
            probabilities = loss.probabilities(logits)
            assert loss.decide(logits).equal(probabilities > 0.5)
            torch.testing.assert_close(probabilities, logits.sigmoid())


@pytest.mark.parametrize(
    ("name", "options", "other"),
    [
        ("cross_entropy", {}, {"class_weights": [1, 1, 1, 1, 2]}),
        ("cross_entropy", {}, {"class_weights": "balanced"}),
        ("cross_entropy", {}, {"label_smoothing": 0.1}),
        ("focal", {}, {"gamma": 1}),
        ("focal", {}, {"alpha": [1, 1, 1, 1, 2]}),
        ("focal", {}, {"alpha": "balanced"}),
        ("bce", {}, {"pos_weight": 2}),
        ("bce", {}, {"pos_weight": "balanced"}),
        ("focal_bce", {}, {"gamma": 1}),
        ("focal_bce", {}, {"alpha": 0.25}),
        ("concurrent_softmax", {}, {"use_rates": False}),
        ("huber", {}, {"delta": 0.1}),
        ("sampled_softmax", {"num_negatives": 2}, {"num_negatives": 3}),
        ("sampled_softmax", {"num_negatives": 2}, {"num_negatives": 2, "power": 0}),
    ],
)
def test_every_option_acts(name, options, other):
    results = []
    for given in (options, other):
        torch.manual_seed(0)
        loss = fitted(name, given).train()
        results.append(loss(*world(loss)))
    assert not torch.allclose(*results)
