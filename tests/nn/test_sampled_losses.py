"""Losses over a sample of the catalogue: what they estimate, and what they never read."""

import math

import pytest
import torch
import torch.nn.functional as F

from idbert.errors import ConfigError
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel, load_item_model
from idbert.nn.losses.binary import calibrated_beta
from idbert.nn.losses.catalogue import LossSettings, build_loss, full_softmax_loss
from idbert.nn.losses.negatives import NegativeOptions, NegativeSampler
from idbert.nn.losses.own_scores import own_scores
from idbert.nn.losses.sampled import sampled_softmax_loss
from idbert.rows import FIRST_ITEM
from tests.nn.loss_world import loss_and_gradients, problem

DISTRIBUTIONS = ("uniform", "log_uniform", "popularity", "in_batch", "mixed")
SAMPLED = [
    *(LossSettings("sampled", {"distribution": name, "negatives": 16}) for name in DISTRIBUTIONS),
    LossSettings("sampled", {"distribution": "uniform", "negatives": 8, "shared": False}),
    LossSettings("sampled", {"distribution": "mixed", "negatives": 8, "shared": False}),
    LossSettings("gbce", {"negatives": 16}),
    LossSettings("bce", {"negatives": 3}),
]


def fitted(settings, num_rows=31, first_row=0):
    loss = build_loss(settings, first_row=first_row)
    loss.fit(torch.arange(num_rows, 0, -1))
    return loss


def plainly(hidden_MD, weight_VD, bias_V, targets_M, weights_M, rows_N, log_expected_N):
    """Compute the sampled loss as its docstring says it, a target at a time."""
    losses = []
    for hidden_D, target in zip(hidden_MD, targets_M, strict=True):
        right = hidden_D @ weight_VD[target] + bias_V[target]
        total = right.exp()
        for row, log_expected in zip(rows_N, log_expected_N, strict=True):
            if row != target:
                total = total + (hidden_D @ weight_VD[row] + bias_V[row] - log_expected).exp()
        losses.append(total.log() - right)
    return (torch.stack(losses) * (1 if weights_M is None else weights_M)).sum()


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_the_sampled_loss_has_value_and_gradients_of_its_formula(
    chunk_size, weighted, padded, monkeypatch
):
    monkeypatch.setattr("idbert.nn.products.products_are_fast", lambda: padded)
    *arguments, weights_M = problem(num_targets=9)
    rows_N, log_expected_N = torch.tensor([3, 0, 3, 17, 30, 5]), torch.randn(6).double()
    arguments.append(weights_M if weighted else None)
    expected = loss_and_gradients(lambda *a: plainly(*a, rows_N, log_expected_N), *arguments)

    def sampled(*given):
        *inputs, weights = given
        return sampled_softmax_loss(*inputs, rows_N, log_expected_N, weights, chunk_size=chunk_size)

    for one, other in zip(loss_and_gradients(sampled, *arguments), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_with_each_row_drawn_once_it_is_the_full_loss():
    arguments = problem()
    rows_N = torch.randperm(31, generator=torch.Generator().manual_seed(0))

    def sampled(*given):
        *inputs, weights = given
        return sampled_softmax_loss(*inputs, rows_N, torch.zeros(31).double(), weights)

    expected = loss_and_gradients(full_softmax_loss, *arguments)
    for one, other in zip(loss_and_gradients(sampled, *arguments), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_mean_of_the_estimated_sum_is_the_sum_over_the_catalogue(distribution):
    num_rows, target = 31, torch.tensor([2])
    hidden_MD, weight_VD, bias_V, *_ = problem(num_targets=1)
    counts_V = torch.arange(num_rows, 0, -1)
    sampler = NegativeSampler(NegativeOptions(400, distribution))
    sampler.fit(counts_V)
    score_V = (hidden_MD @ weight_VD.T + bias_V)[0].detach()
    torch.manual_seed(0)
    totals = []
    for _ in range(500):
        of_batch_M = torch.multinomial(counts_V.float(), 300, replacement=True)
        rows_N, log_expected_N = sampler.draw(of_batch_M, num_rows=num_rows)
        loss = sampled_softmax_loss(hidden_MD, weight_VD, bias_V, target, rows_N, log_expected_N)
        totals.append((loss + score_V[2]).exp().item())
    mean, error = torch.tensor(totals).mean(), torch.tensor(totals).std() / math.sqrt(500)
    expected = score_V.exp().sum().item()
    assert abs(mean - expected) < 4 * error
    assert error < 0.02 * expected


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_mean_of_each_targets_own_sum_is_the_sum_over_the_catalogue(distribution):
    counts_V = torch.arange(31, 0, -1)
    hidden_MD, weight_VD, bias_V, *_ = problem(num_targets=1)
    score_V = (hidden_MD @ weight_VD.T + bias_V)[0].detach()
    loss = fitted(
        LossSettings("sampled", {"distribution": distribution, "negatives": 40, "shared": False})
    )
    # As often as is said, since a batch draws from its own targets.
    targets_M = torch.arange(31).repeat_interleave(4 * counts_V)
    number = len(targets_M)
    torch.manual_seed(0)
    weights_M = torch.ones(number, requires_grad=True)
    value = loss(hidden_MD.expand(number, -1), weight_VD, bias_V, targets_M, weights_M)
    (loss_M,) = torch.autograd.grad(value, weights_M)  # each target's
    totals_M = (loss_M + score_V[targets_M]).exp()
    error = totals_M.std().item() / math.sqrt(number)
    expected = score_V.exp().sum().item()
    assert abs(totals_M.mean().item() - expected) < 4 * error and error < 0.02 * expected


@pytest.mark.parametrize("distribution", ["uniform", "log_uniform", "popularity"])
@pytest.mark.parametrize("first_row", [0, 4])
def test_rows_are_drawn_as_often_as_is_said_and_special_rows_never(distribution, first_row):
    torch.manual_seed(0)
    sampler = NegativeSampler(NegativeOptions(200_000, distribution))
    sampler.fit(torch.arange(20, 0, -1))
    rows_N, log_expected_N = sampler.draw(torch.zeros(1).long(), num_rows=20, first_row=first_row)
    counts_V = torch.bincount(rows_N, minlength=20)
    expected_V = torch.zeros(20).index_put((rows_N,), log_expected_N.exp())
    assert counts_V[:first_row].sum() == 0 and (counts_V[first_row:] > 0).all()
    assert expected_V.sum() == pytest.approx(200_000, rel=1e-4)
    torch.testing.assert_close(counts_V.float(), expected_V, rtol=0.05, atol=0)


def test_of_a_mixture_half_is_of_the_batch():
    torch.manual_seed(0)
    sampler = NegativeSampler(NegativeOptions(1001, "mixed"))
    sampler.fit(torch.ones(100).long())
    rows_N, log_expected_N = sampler.draw(torch.tensor([7]), num_rows=100)
    assert (rows_N[501:] == 7).all() and (rows_N[:501] != 7).sum() > 450
    torch.testing.assert_close(log_expected_N.exp(), torch.full((1001,), 10.01))


@pytest.mark.parametrize("settings", SAMPLED, ids=str)
def test_gradients_reach_what_is_drawn_and_no_special_row(settings):
    hidden_MD, weight_VD, bias_V, targets_M, weights_M = problem()
    targets_M = targets_M.clamp(min=FIRST_ITEM)
    loss = fitted(settings, first_row=FIRST_ITEM)
    arguments = (hidden_MD, weight_VD, bias_V, targets_M, weights_M)
    torch.manual_seed(1)
    value, hidden_grad, weight_grad, bias_grad = loss_and_gradients(loss, *arguments)
    assert value > 0 and torch.isfinite(value)
    for gradient in (hidden_grad, weight_grad, bias_grad):
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    assert weight_grad[:FIRST_ITEM].abs().sum() == bias_grad[:FIRST_ITEM].abs().sum() == 0
    torch.manual_seed(1)
    assert loss(*arguments) == value
    assert loss(*arguments) != value  # another sample


@pytest.mark.parametrize("settings", SAMPLED, ids=str)
def test_no_target_costs_nothing_and_no_gradient(settings):
    value, *gradients = loss_and_gradients(fitted(settings), *problem(num_targets=0))
    assert value == 0
    assert all(gradient.abs().sum() == 0 for gradient in gradients)


@pytest.mark.parametrize("settings", SAMPLED, ids=str)
def test_under_autocast_the_loss_is_float32_and_near(settings):
    arguments = problem(dtype=torch.float32)
    loss = fitted(settings)
    torch.manual_seed(3)
    expected = loss_and_gradients(loss, *arguments)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        actual = loss_and_gradients(loss, *arguments)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("settings", SAMPLED, ids=str)
def test_weights_scale_the_targets(settings):
    *arguments, weights_M = problem()
    loss = fitted(settings)
    values = []
    for factor in (1, 3):
        torch.manual_seed(0)
        values.append(loss(*arguments, factor * weights_M))
    torch.testing.assert_close(values[1], 3 * values[0])


@pytest.mark.parametrize(
    ("settings", "beta"),
    [
        (LossSettings("bce", {"negatives": 5}), 1.0),
        (LossSettings("gbce", {"negatives": 5, "calibration": 0.0}), 1.0),
        (LossSettings("gbce", {"negatives": 5, "calibration": 1.0}), 5 / 30),
    ],
    ids=str,
)
@pytest.mark.parametrize("unit", [False, True])
def test_a_binary_loss_is_cross_entropy_against_negatives_of_each_targets_own(settings, beta, unit):
    *inputs, targets_M, weights_M = problem()
    loss = build_loss(settings)
    loss.unit_rows = unit

    def plainly(hidden_MD, weight_VD, bias_V, targets_M, weights_M):
        rows_MN = torch.randint(0, 31, (50, 5))
        if unit:
            weight_VD = F.normalize(weight_VD, dim=1)
        score_MV = hidden_MD @ weight_VD.T + bias_V + math.log(beta / 5)
        right_M = score_MV.gather(1, targets_M[:, None])[:, 0].sigmoid() ** beta
        wrong_MN = (-score_MV).sigmoid().gather(1, rows_MN)
        wrong_MN = wrong_MN.masked_fill(rows_MN == targets_M[:, None], 1)
        loss_M = -(right_M.log() + wrong_MN.log().sum(1)) / 6
        return (loss_M * weights_M).sum()

    torch.manual_seed(0)
    actual = loss_and_gradients(loss, *inputs, targets_M, weights_M)
    torch.manual_seed(0)
    expected = loss_and_gradients(plainly, *inputs, targets_M, weights_M)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["bce", "gbce"])
def test_an_untrained_model_presses_items_down_no_more_than_up(name):
    num_rows, targets_M = 2000, torch.arange(2000)
    loss = build_loss(LossSettings(name, {"negatives": 100}))
    bias_V = torch.zeros(num_rows, requires_grad=True)
    (gradient_V,) = torch.autograd.grad(
        loss(torch.zeros(num_rows, 4), torch.zeros(num_rows, 4), bias_V, targets_M), bias_V
    )
    assert gradient_V.abs().sum() > 0
    assert abs(gradient_V.sum()) < 0.01 * gradient_V.abs().sum()


@pytest.mark.parametrize("numbers", [1, 100, 2**18])
def test_own_scores_are_those_of_all_rows_read_at_their_places(numbers, monkeypatch):
    monkeypatch.setattr("idbert.nn.losses.own_scores._CACHED_NUMBERS", numbers)
    hidden_MD, table_VD, *_ = problem()
    rows_MN = torch.randint(0, 31, (50, 40))
    weight_MN = torch.randn(50, 40).double()
    found, expected = own_scores(hidden_MD, table_VD, rows_MN), hidden_MD @ table_VD.T
    torch.testing.assert_close(found, expected.gather(1, rows_MN))
    torch.testing.assert_close(
        torch.autograd.grad((found * weight_MN).sum(), (hidden_MD, table_VD)),
        torch.autograd.grad((expected.gather(1, rows_MN) * weight_MN).sum(), (hidden_MD, table_VD)),
    )


def test_calibration_goes_from_binary_cross_entropy_to_the_sampling_rate():
    assert calibrated_beta(0.1, 0) == 1
    assert calibrated_beta(0.1, 1) == pytest.approx(0.1)
    assert calibrated_beta(0.1, 0.75) == pytest.approx(0.1 * (0.75 * -9 + 10))
    arguments = problem()[:-1]
    values = []
    for calibration in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        settings = LossSettings("gbce", {"negatives": 5, "calibration": calibration})
        values.append(build_loss(settings)(*arguments).item())
    assert values == sorted(values, reverse=True) and values[0] > values[2]


def test_a_calibrated_score_is_the_conditional_probability():
    # An item that is right in one of ten cases, and drawn as a negative at the rate that gBCE is
    # told: at t = 1 the sigmoid of the best score is that share; at t = 0 it is far above it.
    rate, share = 0.05, 0.1
    best = {}
    for calibration in (0.0, 1.0):
        score = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([score], max_iter=100)

        def closure(calibration=calibration, score=score, optimizer=optimizer):
            optimizer.zero_grad()
            beta = calibrated_beta(rate, calibration)
            loss = -share * beta * F.logsigmoid(score) - rate * (1 - share) * F.logsigmoid(-score)
            loss.sum().backward()
            return loss

        optimizer.step(closure)
        best[calibration] = score.sigmoid().item()
    assert best[1.0] == pytest.approx(share, abs=1e-3)
    assert best[0.0] == pytest.approx(share / (share + rate * (1 - share)), abs=1e-3)


@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
@pytest.mark.parametrize("settings", SAMPLED, ids=str)
def test_item_models_train_with_each_and_open_again(model_class, settings, tmp_path):
    torch.manual_seed(0)
    model = model_class.build(
        EncoderSettings(hidden_size=8, num_heads=2, num_layers=1, max_length=6),
        vocab_size=20,
        loss=settings,
        item_counts=torch.arange(20, 0, -1).numpy(),
    )
    assert model.loss.first_row == FIRST_ITEM
    input_ids = torch.randint(FIRST_ITEM, 20, (3, 6))
    loss = model(input_ids, labels=input_ids).loss
    loss.backward()
    special = model.get_input_embeddings().weight.grad[:FIRST_ITEM]
    assert loss > 0 and special.abs().sum() == 0
    model.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert opened.config.loss == settings.name
    assert torch.equal(opened(input_ids).logits, model.eval()(input_ids).logits)


@pytest.mark.parametrize("distribution", ["popularity", "in_batch", "mixed"])
def test_popularity_without_counts_is_refused(distribution):
    loss = build_loss(LossSettings("sampled", {"distribution": distribution}))
    with pytest.raises(ConfigError, match=f"distribution={distribution} needs the items' counts"):
        loss(*problem())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sampled", {"negatives": 0}, "negatives is 0; it must be at least 1"),
        ("sampled", {"negatives": 1, "distribution": "mixed"}, "mixed needs negatives of at least"),
        ("sampled", {"distribution": "popular"}, "loss 'sampled'"),
        ("sampled", {"power": 0.5}, "power=0.5 cannot act on distribution=log_uniform"),
        (
            "sampled",
            {"distribution": "popularity", "power": -1},
            "power is -1; it must be at least 0",
        ),
        ("gbce", {"negatives": 0}, "negatives is 0"),
        ("gbce", {"calibration": 1.5}, "calibration is 1.5; it must be from 0 to 1"),
        ("bce", {"negatives": -1}, "negatives is -1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        LossSettings(name, options)


def shares(power, counts, first_row=0):
    sampler = NegativeSampler(NegativeOptions(100_000, "popularity", power))
    sampler.fit(torch.tensor(counts))
    torch.manual_seed(0)
    rows_N, log_expected_N = sampler.draw(
        torch.zeros(1).long(), num_rows=len(counts), first_row=first_row
    )
    expected_V = torch.zeros(len(counts)).index_put((rows_N,), log_expected_N.exp() / 100_000)
    return torch.bincount(rows_N, minlength=len(counts)) / 100_000, expected_V


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        (1, [8 / 11, 2 / 11, 1 / 11]),
        (0, [1 / 3, 1 / 3, 1 / 3]),
        (None, [8**0.75 / (8**0.75 + 2**0.75 + 1), 2**0.75 / (8**0.75 + 2**0.75 + 1), None]),
    ],
)
def test_popular_rows_are_drawn_by_their_events_to_a_power(power, expected):
    # The special row before them has the most events, and is never drawn; one event is the least.
    drawn_V, said_V = shares(power, [99, 8, 2, 0], first_row=1)
    expected[2] = expected[2] or 1 - expected[0] - expected[1]
    assert drawn_V[0] == 0
    assert said_V[1:].tolist() == pytest.approx(expected, rel=1e-5)
    assert drawn_V[1:].tolist() == pytest.approx(expected, abs=0.01)


def test_rows_of_a_large_catalogue_have_their_own_shares():
    num_rows = 2_000_000
    counts_V = (num_rows / torch.arange(1, num_rows + 1)).long()
    sampler = NegativeSampler(NegativeOptions(4096, "popularity"))
    sampler.fit(counts_V)
    rows_N, log_expected_N = sampler.draw(torch.zeros(1).long(), num_rows=num_rows)
    weight_V = counts_V.clamp(min=1).double() ** 0.75
    expected_N = (4096 * weight_V[rows_N] / weight_V.sum()).log().float()
    torch.testing.assert_close(log_expected_N, expected_N, atol=1e-4, rtol=0)


def test_counts_of_another_catalogue_are_refused():
    sampler = NegativeSampler(NegativeOptions(4, "popularity"))
    sampler.fit(torch.ones(9).long())
    with pytest.raises(ConfigError, match="counts are of 9 rows, and there are 12"):
        sampler.draw(torch.zeros(1).long(), num_rows=12)


@pytest.mark.parametrize("name", ["sampled", "gbce", "bce"])
def test_more_negatives_than_items_are_refused_and_the_default_is_not(name):
    settings = EncoderSettings(hidden_size=8, num_layers=1, max_length=6)

    def build(**options):
        return NextItemModel.build(settings, vocab_size=20, loss=LossSettings(name, options))

    build(negatives=16)
    build()
    with pytest.raises(ConfigError, match="negatives is 17, and the catalogue has 16 items"):
        build(negatives=17)
