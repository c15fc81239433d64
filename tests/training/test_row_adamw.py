"""Steps that touch only the rows that were read."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from idbert.errors import ConfigError
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.training import row_adamw
from idbert.training.averaging import AveragingSettings
from idbert.training.row_adamw import RowAdamW, clip_gradients
from tests.training.small import AtStep, Killed, build, build_model, die, weights_sha256

SAMPLED = LossSettings("sampled", {"negatives": 8})
LOSSES = (SAMPLED, LossSettings("gbce", {"negatives": 8}), LossSettings("bce", {"negatives": 2}))
ROWS = torch.tensor([[5, 1, 5], [9, 1, 0]])


def table(width=3, seed=0):
    torch.manual_seed(seed)
    return nn.Parameter(torch.randn(12, width))


def read(parameter, rows=ROWS, *, sparse=True):
    """Give the parameter a gradient at some rows."""
    taken = nn.functional.embedding(rows, parameter, sparse=sparse)
    (taken * torch.linspace(-1, 2, taken.numel()).view_as(taken)).sum().backward()


def test_a_row_one_wide_moves_as_adamw_moves_a_number_of_its_own():
    ours, theirs = table(1), [nn.Parameter(row.clone()) for row in table(1).detach()]
    optimizer = RowAdamW([{"params": [ours], "weight_decay": 0.1}], lr=0.05)
    reference = torch.optim.AdamW(theirs, lr=0.05, weight_decay=0.1)
    for step in range(6):
        rows = (ROWS + step * (ROWS > 4)) % 12
        optimizer.zero_grad()
        read(ours, rows)
        touched = set(rows.flatten().tolist())
        for row, parameter in enumerate(theirs):
            parameter.grad = ours.grad.to_dense()[row] if row in touched else None
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-5, atol=1e-6)


def test_a_rows_second_moment_is_the_mean_over_its_width():
    ours = table()
    before = ours.detach().clone()
    optimizer = RowAdamW([{"params": [ours], "weight_decay": 0.0}], lr=0.1)
    read(ours)
    grad_ND = ours.grad.to_dense()
    optimizer.step()
    rows = ROWS.unique()
    expected = -0.1 * grad_ND[rows] / grad_ND[rows].square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close((ours - before)[rows], expected, rtol=1e-4, atol=1e-6)
    state = optimizer.state[ours]
    assert state["row_exp_avg_sq"].shape == state["row_steps"].shape == (12,)


def test_rows_that_are_not_read_stay_as_they_are_to_the_last_bit():
    ours = table()
    before = ours.detach().clone()
    optimizer = RowAdamW([{"params": [ours], "weight_decay": 0.5}], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        read(ours)
        optimizer.step()
    touched = torch.zeros(12, dtype=torch.bool)
    touched[ROWS.flatten()] = True
    assert torch.equal(ours[~touched], before[~touched])
    assert (ours[touched] != before[touched]).all()


def test_dense_gradients_take_adamws_own_step_bit_for_bit():
    ours, theirs = table(), table()
    optimizers = RowAdamW([ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1, fused=True)
    for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            read(parameter, sparse=False)
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_the_state_comes_back_from_its_dict():
    ours, again = table(), table()
    optimizer, other = RowAdamW([ours], lr=0.1), RowAdamW([again], lr=0.1)
    for step in range(4):
        if step == 2:
            other.load_state_dict(deepcopy(optimizer.state_dict()))
            again.data.copy_(ours.data)
        for parameter, one in ((ours, optimizer), (again, other))[: 1 + (step >= 2)]:
            one.zero_grad()
            read(parameter)
            one.step()
    assert torch.equal(ours, again)


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="takes no closure"):
        RowAdamW([table()], lr=0.1).step(lambda: 0.0)


@pytest.mark.parametrize("max_norm", [0.5, 100])
def test_sparse_gradients_are_clipped_with_the_dense_ones(max_norm):
    sparse, dense, bias, unread = table(), table(), table(2, seed=1), table()
    for parameter in (sparse, dense):
        read(parameter, sparse=parameter is sparse)
    bias.sum().backward()
    reference = [nn.Parameter(dense.detach().clone()), nn.Parameter(bias.detach().clone())]
    reference[0].grad, reference[1].grad = dense.grad.clone(), bias.grad.clone()
    expected = nn.utils.clip_grad_norm_(reference, max_norm)
    norm = clip_gradients([sparse, bias, unread], max_norm)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(sparse.grad.to_dense(), reference[0].grad)
    torch.testing.assert_close(bias.grad, reference[1].grad)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
def test_sparse_gradients_are_the_dense_ones(model_class, loss):
    gradients = []
    for sparse in (False, True):
        model = build_model(model_class, loss=loss, hidden_dropout=0.0)
        if sparse:
            model.read_sparsely()
        input_ids = torch.tensor([[4, 5, 6], [7, 5, 9]])
        torch.manual_seed(1)
        model(input_ids, labels=input_ids.roll(1, 1)).loss.backward()
        table, bias = model.get_input_embeddings().weight.grad, model.head.bias.grad
        assert table.is_sparse == bias.is_sparse == sparse
        gradients.append([g.to_dense() for g in (table, bias)])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_training_with_sparse_rows_learns_the_circle(loss, tmp_path):
    model = build_model(loss=loss)
    trainer = build(tmp_path, model=model, sparse_rows=True, epochs=30, accumulation=2)
    trainer.train_or_resume()
    assert isinstance(trainer.optimizer.optimizer, RowAdamW)
    assert max(row.get("ndcg@10", 0) for row in trainer.curve()) > 0.75


def test_a_killed_training_with_sparse_rows_resumes_bit_for_bit(tmp_path):
    settings = {"sparse_rows": True, "checkpoint_every_steps": 2}
    whole = build(tmp_path / "whole", model=build_model(loss=SAMPLED), **settings)
    whole.train_or_resume()
    with pytest.raises(Killed):
        build(
            tmp_path / "killed",
            model=build_model(loss=SAMPLED),
            callbacks=[AtStep(5, die)],
            **settings,
        ).train_or_resume()
    again = build(tmp_path / "killed", model=build_model(loss=SAMPLED, seed=99), **settings)
    torch.manual_seed(99)
    again.train_or_resume()
    assert weights_sha256(again.model) == weights_sha256(whole.model)


def test_large_tables_are_sparse_where_nothing_else_is_said(tmp_path, monkeypatch):
    def is_sparse(loss=SAMPLED, **settings):
        model = build_model(loss=loss)
        build(tmp_path, model=model, **settings)
        return model.get_input_embeddings().sparse

    assert not is_sparse()
    monkeypatch.setattr(row_adamw, "LARGE_TABLE", 15)
    assert is_sparse()
    assert not is_sparse(sparse_rows=False)
    assert not is_sparse(loss=None)
    assert not is_sparse(averaging=AveragingSettings("ema"))
    assert not is_sparse(frozen_layers=0)


def test_a_later_training_of_the_same_model_may_be_dense(tmp_path):
    model = build_model(loss=LossSettings("sampled", {"negatives": 4}))
    build(tmp_path / "one", model=model, sparse_rows=True).train_or_resume()
    averaged = {"averaging": AveragingSettings("ema"), "sparse_rows": False}
    build(tmp_path / "two", model=model, **averaged).train_or_resume()
    assert not model.get_input_embeddings().sparse


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        (None, {}, "the loss 'chunked' reads all rows; sampled, gbce and bce do not"),
        (SAMPLED, {"averaging": AveragingSettings("swa")}, "averaging.name=swa touches all rows"),
        (SAMPLED, {"frozen_layers": 0}, "the embeddings are frozen"),
    ],
)
def test_sparse_rows_that_cannot_act_are_refused(loss, settings, message, tmp_path):
    with pytest.raises(ConfigError, match=f"sparse_rows=true cannot act: {message}"):
        build(tmp_path, model=build_model(loss=loss), sparse_rows=True, **settings)
    if loss is None:
        with pytest.raises(ConfigError, match="reads all rows, so that their gradient is dense"):
            build_model().read_sparsely()
