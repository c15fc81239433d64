"""The laws of every block: padding, causality, gradients, and that every option acts."""

from dataclasses import fields

import pytest
import torch

from idbert.nn.blocks import BLOCKS, build_block
from tests.nn.block_world import (
    CASES,
    CHANGES,
    INPUT_WIDTH,
    LENGTHS,
    RECURRENT,
    block,
    mask_of,
    randn,
    rows,
)


def test_every_block_is_among_the_cases():
    assert set(CHANGES) == set(BLOCKS)


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_padding_changes_nothing_whatever_its_values(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal)
    alone = [
        tested(rows()[number : number + 1, :length], None)[0]
        for number, length in enumerate(LENGTHS)
    ]
    for total, filling in ((7, 0.0), (7, 1e4), (40, 1.0), (8, float("nan"))):
        output = tested(rows(total=total, filling=filling), mask_of(LENGTHS, total))
        assert output.shape == (3, total, INPUT_WIDTH)
        for number, length in enumerate(LENGTHS):
            torch.testing.assert_close(output[number, :length], alone[number])
            assert (output[number, length:] == 0).all()


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_padding_before_a_row_changes_nothing(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal)
    hidden, mask = rows(filling=5.0), mask_of(LENGTHS)
    output = tested(hidden, mask)
    for number, length in enumerate(LENGTHS):
        hidden[number] = hidden[number].roll(7 - length, dims=0)
        mask[number] = mask[number].roll(7 - length)
    moved = tested(hidden, mask)
    for number, length in enumerate(LENGTHS):
        torch.testing.assert_close(moved[number, 7 - length :], output[number, :length])


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_a_neighbour_in_the_batch_changes_nothing(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal)
    hidden, mask = rows(), mask_of(LENGTHS)
    before = tested(hidden, mask)
    hidden[0], mask[0] = 100 * randn(7, INPUT_WIDTH, seed=9), mask_of((2,), 7)[0]
    after = tested(hidden, mask)
    torch.testing.assert_close(after[1:], before[1:])
    assert not torch.allclose(after[0], before[0])
    turned = tested(hidden.flip(0), mask.flip(0))
    torch.testing.assert_close(turned.flip(0), after)


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
def test_a_row_of_padding_alone_gives_zeros_and_no_gradient(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal)
    hidden = rows((4, 0), filling=float("nan")).requires_grad_()
    output = tested(hidden, mask_of((4, 0)))
    assert (output[1] == 0).all()
    output.square().sum().backward()
    assert (hidden.grad[1] == 0).all() and hidden.grad[0].abs().min() > 0
    assert all(parameter.grad.isfinite().all() for parameter in tested.parameters())


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_any_length_width_and_a_batch_of_one_work(name, options, is_causal):
    tested = block(name, options, is_causal=is_causal, width=24)
    assert tested.width == 24
    for batch_size, length in ((1, 1), (1, 7), (3, 1), (2, 2), (1, 65)):
        for mask in (None, torch.ones(batch_size, length)):
            output = tested(randn(batch_size, length, INPUT_WIDTH), mask)
            assert output.shape == (batch_size, length, 24)
            assert output.isfinite().all()


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_no_mask_is_a_mask_of_ones(name, options, is_causal):
    tested, hidden = block(name, options, is_causal=is_causal), randn(2, 6, INPUT_WIDTH)
    expected = tested(hidden, None)
    for dtype in (torch.int64, torch.bool, torch.float32):
        torch.testing.assert_close(tested(hidden, torch.ones(2, 6, dtype=dtype)), expected)


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_a_causal_block_does_not_look_ahead_and_another_does(name, options, is_causal):
    tested, hidden = block(name, options, is_causal=is_causal), randn(2, 9, INPUT_WIDTH)
    changed = hidden.clone()
    changed[:, 5] = -changed[:, 5]
    for mask in (None, mask_of((9, 8))):
        before, after = tested(hidden, mask), tested(changed, mask)
        assert not torch.allclose(after[:, 5], before[:, 5])
        assert not torch.allclose(after[:, 6], before[:, 6])
        looks_ahead = not torch.allclose(after[:, :5], before[:, :5])
        assert looks_ahead == (not is_causal and name not in ("lstm", "gru"))
        if is_causal:
            torch.testing.assert_close(tested(hidden[:, :5], None), before[:, :5])


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
def test_gradients_reach_every_parameter_and_every_real_position(name, options, is_causal):
    tested = block(name, options, width=24, is_causal=is_causal, training=True)
    hidden = rows((7, 5)).requires_grad_()
    tested(hidden, mask_of((7, 5))).mul(randn(2, 7, 24)).sum().backward()
    for parameter_name, parameter in tested.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, parameter_name
    assert (hidden.grad.abs().amax(-1) > 0).equal(mask_of((7, 5)).bool())


@pytest.mark.parametrize(("name", "options", "is_causal"), CASES)
@torch.no_grad()
def test_a_saved_block_is_restored_exactly(name, options, is_causal, tmp_path):
    saved, hidden = block(name, options, is_causal=is_causal), randn(2, 5, INPUT_WIDTH)
    torch.save(saved.state_dict(), tmp_path / "block.pt")
    restored = build_block(name, INPUT_WIDTH, None, options, is_causal=is_causal).eval().double()
    restored.load_state_dict(torch.load(tmp_path / "block.pt", weights_only=True))
    assert restored(hidden, None).equal(saved(hidden, None))
    assert not list(saved.buffers())


@pytest.mark.parametrize("name", CHANGES)
def test_a_block_trains_under_bfloat16_autocast(name):
    tested = block(name, training=True).float()
    with torch.autocast("cpu", torch.bfloat16):
        output = tested(rows().float(), mask_of(LENGTHS))
    output.float().square().sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in tested.parameters())


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in CHANGES for option in CHANGES[name]]
)
@torch.no_grad()
def test_each_option_acts(name, option):
    outputs = []
    for value in CHANGES[name][option]:
        options = {switch: 0 for switch in CHANGES[name] if "dropout" in switch}
        tested = block(name, {**options, option: value}, training=True)
        torch.manual_seed(1)
        outputs.append(tested(randn(2, 9, INPUT_WIDTH), None))
    assert not torch.allclose(*outputs, atol=1e-4)


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_of_each_block_is_tried(name):
    tried = set(CHANGES[name]) | ({"dropout"} if CHANGES[name] is RECURRENT else set())
    assert {field.name for field in fields(BLOCKS[name].Options)} == tried


@pytest.mark.parametrize("name", CHANGES)
def test_dropout_is_still_when_the_model_is_judged(name):
    judged, hidden = block(name), randn(2, 5, INPUT_WIDTH)
    assert judged(hidden, None).equal(judged(hidden, None))


@pytest.mark.parametrize("name", CHANGES)
def test_every_bias_is_a_vector_so_that_it_does_not_decay(name):
    biases = {n: p for n, p in block(name).named_parameters() if "bias" in n}
    assert biases and {n for n, p in biases.items() if p.ndim > 1} == set()
