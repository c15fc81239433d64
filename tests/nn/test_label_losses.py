"""Losses over labels: laws that hold for each, oracles, and what is refused."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from idbert.errors import ConfigError, DataError, ShapeError
from idbert.nn.losses.labels import (
    DEFAULT_LOSSES,
    LABEL_LOSSES,
    LabelLoss,
    LabelLossSettings,
    SingleLabelLoss,
    build_label_loss,
)
from idbert.nn.losses.labels.weights import balanced_positive_weights, balanced_weights

C, B = 5, 8
CASES = [
    ("bce", {}),
    ("bce", {"pos_weight": "balanced"}),
    ("concurrent_softmax", {}),
    ("concurrent_softmax", {"use_rates": False}),
    ("cross_entropy", {}),
    ("cross_entropy", {"class_weights": "balanced", "label_smoothing": 0.2}),
    ("focal", {}),
    ("focal", {"gamma": 0.5, "alpha": "balanced"}),
    ("focal_bce", {}),
    ("focal_bce", {"gamma": 0.5, "alpha": 0.25}),
    ("huber", {}),
    ("mse", {}),
    ("sampled_softmax", {"num_negatives": 3}),
    ("zlpr", {}),
]
every_loss = pytest.mark.parametrize(("name", "options"), CASES)


def build(name: str, options: dict | None = None, num_outputs: int = C) -> LabelLoss:
    kind = LABEL_LOSSES[name].kind
    num_outputs = 1 if kind == "number" else num_outputs
    return build_label_loss(LabelLossSettings(name, options or {}), kind, num_outputs)


def world(loss: LabelLoss, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits and targets for the loss; every label occurs, and one row bears none."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3.0 * torch.randn(B, loss.num_outputs, generator=generator)
    if loss.kind == "single":
        return logits, torch.tensor([0, 1, 2, 3, 4, 0, 0, 1])
    if loss.kind == "number":
        return logits, torch.randn(B, generator=generator)
    targets = (torch.rand(B, C, generator=generator) < 0.4).float()
    targets[0], targets[1] = 0.0, 1.0
    return logits, targets


def fitted(name: str, options: dict | None = None) -> LabelLoss:
    """Return the loss, fitted to its world; it is in evaluation, so that nothing is drawn."""
    loss = build(name, options)
    loss.fit_targets(world(loss)[1])
    return loss.eval()


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


def test_balanced_weights_of_several_labels_are_negatives_by_positives():
    weights_C = balanced_positive_weights(torch.tensor([2, 0, 10, 5]), 10)
    torch.testing.assert_close(weights_C, torch.tensor([4.0, 1.0, 1.0, 1.0]))
    with pytest.raises(DataError, match="A label occurs in 11 of 10 rows"):
        balanced_positive_weights(torch.tensor([11.0]), 10)


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


def test_each_kind_has_its_default():
    for kind, name in DEFAULT_LOSSES.items():
        loss = build_label_loss(LabelLossSettings(), kind, 1 if kind == "number" else C)
        assert type(loss) is LABEL_LOSSES[name] and loss.kind == kind
    smoothed = LabelLossSettings(options={"label_smoothing": 0.1})
    assert build_label_loss(smoothed, "single", C).label_smoothing == 0.1
    with pytest.raises(ConfigError, match="'zlpr' has no option 'label_smoothing'"):
        build_label_loss(smoothed, "multi", C)


@pytest.mark.parametrize(("name", "kind"), product(LABEL_LOSSES, DEFAULT_LOSSES))
def test_a_loss_of_another_kind_is_refused(name, kind):
    own = LABEL_LOSSES[name].kind
    if own == kind:
        return
    with pytest.raises(ConfigError, match=f"'{name}' is for labels of kind '{own}'.*'{kind}'"):
        build_label_loss(LabelLossSettings(name), kind, C)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crossentropy", {}, r"no label loss 'crossentropy'. Did you mean 'cross_entropy'\?"),
        ("cross_entropy", {"smoothing": 0.1}, "has no option 'smoothing'"),
        ("cross_entropy", {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ("cross_entropy", {"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ("cross_entropy", {"class_weights": "even"}, "label loss 'cross_entropy'.*class_weights"),
        ("focal", {"gamma": 0}, "gamma of the focal loss is 0.0; it must be above 0"),
        ("focal_bce", {"gamma": -1}, "gamma of the focal loss is -1.0"),
        ("focal_bce", {"alpha": 1}, "alpha of the focal loss is 1"),
        ("sampled_softmax", {"num_negatives": 0}, "num_negatives is 0"),
        ("sampled_softmax", {"power": 2}, "power of the drawn labels is 2.0"),
        ("huber", {"delta": 0}, "delta of the Huber loss is 0.0"),
        ("mse", {"delta": 1}, "'mse' has no option 'delta'. It has none"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        LabelLossSettings(name, options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cross_entropy", {"class_weights": [1, 2]}, "class_weights holds 2 numbers.* 5 labels"),
        ("cross_entropy", {"class_weights": [0] * 5}, "that are not all 0"),
        ("focal", {"alpha": [1, 1, 1, 1, -1]}, "alpha is .*give numbers of at least 0"),
        ("bce", {"pos_weight": -3}, "pos_weight is .*give numbers of at least 0"),
        ("bce", {"pos_weight": [1]}, "pos_weight holds 1 numbers"),
        ("sampled_softmax", {}, "num_negatives=100 saves nothing with 5 labels"),
    ],
)
def test_options_that_do_not_fit_the_labels_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, options)


def test_a_number_of_outputs_that_does_not_fit_the_kind_is_refused():
    for kind, num_outputs, needs in [
        ("single", 1, "2 labels or more, not 1"),
        ("multi", 0, "1 label or more, not 0"),
        ("number", 3, "1 output, not 3"),
    ]:
        with pytest.raises(ConfigError, match=needs):
            build_label_loss(LabelLossSettings(), kind, num_outputs)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cross_entropy", {"class_weights": "balanced"}),
        ("focal", {"alpha": "balanced"}),
        ("bce", {"pos_weight": "balanced"}),
        ("sampled_softmax", {"num_negatives": 3}),
        ("concurrent_softmax", {}),
    ],
)
def test_a_loss_that_learns_from_the_rows_is_refused_before_it_has(name, options):
    loss = build(name, options)
    with pytest.raises(ConfigError, match="Call `fit"):
        loss(*world(loss))
    loss.fit_targets(world(loss)[1])
    assert loss(*world(loss)).isfinite().all()


def test_rates_need_the_counts_of_pairs():
    with pytest.raises(ConfigError, match="how often two labels occur together"):
        build("concurrent_softmax").fit(torch.ones(C), 10)
    build("concurrent_softmax", {"use_rates": False}).fit(torch.ones(C), 10)


def test_shapes_that_do_not_fit_are_refused():
    logits = torch.zeros(3, C)
    with pytest.raises(ShapeError, match="CrossEntropy was built for 5 outputs and received 4"):
        build("cross_entropy")(logits[:, :4], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"kind 'single' .* \[3\], not \[3, 5\]"):
        build("cross_entropy")(logits, logits)
    with pytest.raises(ShapeError, match=r"kind 'multi' .* \[3, 5\], not \[3\]"):
        build("zlpr")(logits, torch.zeros(3))
    with pytest.raises(ShapeError, match=r"kind 'number' .* \[3\], not \[3, 1\]"):
        build("mse")(logits[:, :1], torch.zeros(3, 1))


def test_targets_that_are_no_label_are_refused():
    with pytest.raises(DataError, match=r"2 targets are no label: \[5, -1\]. Labels are 0 to 4"):
        build("cross_entropy").fit_targets(torch.tensor([0, 5, -1, -100]))


def test_a_loss_from_outside_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(LABEL_LOSSES, "_entries", dict(LABEL_LOSSES._entries))

    @LABEL_LOSSES.register("zero_one")
    class ZeroOne(SingleLabelLoss):
        def row_losses(self, logits_BC, targets):
            return (self.decide(logits_BC) != targets).float()

    loss = build("zero_one")
    assert loss(torch.eye(C), torch.tensor([0, 1, 2, 3, 3])).tolist() == [0, 0, 0, 0, 1]
