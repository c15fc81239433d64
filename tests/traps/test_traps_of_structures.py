"""Traps of BERT fine-tuning code, each of which has been met in the wild: rows and batches.

Every check is a law that a sound part obeys; beside it stands a faulty part that breaks it, so that
the check itself is known to bite.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idbert.nn.fusion import FUSIONS, build_fusion
from idbert.nn.pooling import POOLINGS, build_pooling
from tests.nn.cases import fusion_settings
from tests.traps.rows import WIDTH, Part, blocks, check_padding_changes_nothing, states


def check_rows_stand_alone(part: Part) -> None:
    """What a row becomes does not depend on the rows beside it."""
    together = part(*states(5, 3, 1))
    for row, length in enumerate((5, 3, 1)):
        alone = part(*states(length))
        torch.testing.assert_close(together[row : row + 1, :length], alone, atol=1e-5, rtol=1e-4)


# 1. Attention across the batch


def test_no_block_mixes_the_rows_of_a_batch():
    for block in blocks().values():
        check_rows_stand_alone(block)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0)  # batch_first is not its default
    faulty = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    with pytest.raises(AssertionError):
        check_rows_stand_alone(lambda hidden, mask: faulty(hidden))


def test_no_position_attends_to_padding():
    for block in blocks().values():
        check_padding_changes_nothing(block)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True)
    faulty = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    with pytest.raises(AssertionError):
        check_padding_changes_nothing(lambda hidden, mask: faulty(hidden))


# 2. Pooling and recurrence over padding; a length that is fixed when the part is built


def test_no_pooling_reads_padding_or_knows_a_length():
    for name in POOLINGS:
        check_padding_changes_nothing(build_pooling(name, WIDTH).eval())

    def unmasked(hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden.amax(dim=1)

    def of_fixed_length(hidden: Tensor, mask: Tensor) -> Tensor:
        return F.max_pool1d(hidden.transpose(1, 2), kernel_size=6).squeeze(-1)

    with pytest.raises(AssertionError):
        check_padding_changes_nothing(unmasked)
    with pytest.raises(RuntimeError):
        check_padding_changes_nothing(of_fixed_length)


def test_no_recurrent_block_runs_over_padding():
    for block in blocks("lstm", "gru", "bilstm", "bigru").values():
        check_padding_changes_nothing(block)
    faulty = nn.LSTM(WIDTH, WIDTH // 2, bidirectional=True, batch_first=True)
    with pytest.raises(AssertionError):
        check_padding_changes_nothing(lambda hidden, mask: faulty(hidden)[0])


# 3. A weight for each row of the batch; an axis that is squeezed away


class WeightPerRow(nn.Module):
    """Mean plus maximum, times a weight of each row: neither can be preferred."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(batch_size, 1))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return ((hidden.mean(dim=1) + hidden.amax(dim=1)) * self.weight).squeeze()


def check_any_batch_size(part: Part) -> None:
    for batch_size in (4, 3, 1):
        assert part(*states(*[3] * batch_size)).shape[0] == batch_size


def check_can_learn_the_maximum(part: nn.Module) -> None:
    hidden, mask = states(3, 3, 3, 3)
    hidden = hidden + torch.arange(4.0)[:, None, None]
    optimizer = torch.optim.Adam(part.parameters(), lr=0.1)
    for _ in range(100):
        error = (part(hidden, mask) - hidden.amax(dim=1)).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error < 0.05


def test_weights_belong_to_the_model_and_not_to_the_rows_of_a_batch():
    torch.manual_seed(0)
    parts = {name: build_pooling(name, WIDTH) for name in POOLINGS} | blocks()
    for part in parts.values():
        check_any_batch_size(part)
    for form in ("softmax", "free"):
        check_can_learn_the_maximum(build_pooling("mix", WIDTH, {"weights": form}))
    faulty = WeightPerRow(4)
    with pytest.raises(RuntimeError):  # the last batch of an epoch is a smaller one
        check_any_batch_size(faulty)
    with pytest.raises(AssertionError):  # squeeze() takes the axis of a batch of 1
        check_any_batch_size(lambda hidden, mask: hidden.amax(dim=1).squeeze())
    with pytest.raises(AssertionError):
        check_can_learn_the_maximum(faulty)


def test_a_fusion_has_no_weight_for_each_row():
    torch.manual_seed(0)
    for name in FUSIONS:
        fusion = build_fusion(name, 3, WIDTH, fusion_settings(name).layers)
        check_any_batch_size(lambda hidden, mask, fusion=fusion: fusion([hidden, hidden, hidden]))
