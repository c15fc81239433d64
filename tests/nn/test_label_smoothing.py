"""Label smoothing in the softmax over a catalogue: torch's definition, over items alone."""

import pytest
import torch
import torch.nn.functional as F

from idbert.errors import ConfigError
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import NextItemModel, load_item_model
from idbert.nn.losses.catalogue import LossSettings, build_loss
from idbert.nn.word_models import MaskedWordModel
from idbert.rows import FIRST_ITEM
from tests.nn.loss_world import loss_and_gradients, problem

NAMES = pytest.mark.parametrize("name", ["full", "chunked"])


def smoothed(name, smoothing, first_row=0, chunk_size=7):
    options = {"label_smoothing": smoothing}
    if name == "chunked":
        options["chunk_size"] = chunk_size
    return build_loss(LossSettings(name, options), first_row=first_row)


def torchs(smoothing, first_row):
    """The loss by torch alone, against what is right as shares of all rows."""

    def loss(hidden_MD, weight_VD, bias_V, targets_M, weights_M):
        scores_MV = hidden_MD @ weight_VD.T + bias_V
        if first_row == 0:
            losses_M = F.cross_entropy(
                scores_MV, targets_M, label_smoothing=smoothing, reduction="none"
            )
        else:
            right_MV = torch.zeros_like(scores_MV)
            right_MV[:, first_row:] = smoothing / (scores_MV.shape[1] - first_row)
            right_MV += (1 - smoothing) * F.one_hot(targets_M, scores_MV.shape[1])
            losses_M = F.cross_entropy(scores_MV, right_MV, reduction="none")
        return (losses_M * (1 if weights_M is None else weights_M)).sum()

    return loss


@NAMES
@pytest.mark.parametrize("first_row", [0, FIRST_ITEM])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_value_and_gradients_are_torchs(name, first_row, weighted, padded, monkeypatch):
    monkeypatch.setattr("idbert.nn.products.products_are_fast", lambda: padded)
    hidden_MD, weight_VD, bias_V, targets_M, weights_M = problem()
    arguments = (
        hidden_MD,
        weight_VD,
        bias_V,
        targets_M.clamp(min=first_row),
        weights_M if weighted else None,
    )
    expected = loss_and_gradients(torchs(0.2, first_row), *arguments)
    actual = loss_and_gradients(smoothed(name, 0.2, first_row), *arguments)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@NAMES
def test_without_smoothing_nothing_changes(name):
    arguments = problem()
    plain = build_loss(LossSettings(name), first_row=FIRST_ITEM)
    assert torch.equal(smoothed(name, 0.0, FIRST_ITEM, 1024)(*arguments), plain(*arguments))


@NAMES
def test_no_target_costs_nothing_and_no_gradient(name):
    value, *gradients = loss_and_gradients(smoothed(name, 0.1), *problem(num_targets=0))
    assert value == 0 and all(gradient.abs().sum() == 0 for gradient in gradients)


@NAMES
def test_under_autocast_the_loss_is_float32_and_near(name):
    arguments = problem(dtype=torch.float32)
    loss = smoothed(name, 0.3)
    expected = loss_and_gradients(loss, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        actual = loss_and_gradients(loss, *arguments)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


@NAMES
def test_the_best_scores_put_the_share_on_items_and_nothing_on_special_rows(name):
    # One context, whose best possible shares the softmax must find by its biases alone.
    bias_V = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    fixed = (torch.zeros(1, 2).double(), torch.zeros(9, 2).double())
    optimizer = torch.optim.LBFGS([bias_V], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = smoothed(name, 0.25, FIRST_ITEM)(*fixed, bias_V, torch.tensor([6]))
        loss.backward()
        return loss

    optimizer.step(closure)
    share_V = bias_V.softmax(0).detach()
    expected_V = torch.tensor([0, 0, 0, 0, 0.05, 0.05, 0.80, 0.05, 0.05]).double()
    torch.testing.assert_close(share_V, expected_V, atol=1e-3, rtol=0)


@NAMES
def test_a_model_saves_its_smoothing_and_trains_with_it(name, tmp_path):
    def build(smoothing):
        torch.manual_seed(0)
        settings = EncoderSettings(hidden_size=8, num_layers=1, max_length=6)
        loss = LossSettings(name, {"label_smoothing": smoothing})
        return NextItemModel.build(settings, vocab_size=20, loss=loss).eval()

    input_ids = torch.randint(FIRST_ITEM, 20, (3, 6))
    model = build(0.5)
    loss = model(input_ids, labels=input_ids.roll(1, 1)).loss
    assert loss != build(0.0)(input_ids, labels=input_ids.roll(1, 1)).loss
    model.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert opened.config.loss_options == {"label_smoothing": 0.5}
    assert opened.loss.first_row == FIRST_ITEM
    torch.testing.assert_close(opened(input_ids, labels=input_ids.roll(1, 1)).loss, loss)


def test_words_are_smoothed_over_all_rows():
    assert MaskedWordModel.first_row == 0


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
@NAMES
def test_smoothing_out_of_range_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"label_smoothing is {value}; it must be from 0 to"):
        LossSettings(name, {"label_smoothing": value})


@pytest.mark.parametrize("name", ["sampled", "gbce", "bce"])
def test_losses_that_never_see_all_items_refuse_it(name):
    with pytest.raises(ConfigError, match=f"loss '{name}' has no option 'label_smoothing'"):
        LossSettings(name, {"label_smoothing": 0.1})
