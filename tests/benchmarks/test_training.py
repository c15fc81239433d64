"""The arithmetic of the benchmark of training is torch's."""

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.training_work import needed_operations
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MaskedItemModel
from idbert.nn.products import onednn_is_faster


class Operations(TorchDispatchMode):
    """Counts the floating-point operations of all products."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet == torch.ops.aten.addmm_:  # in place torch's registry knows none
            packet = torch.ops.aten.addmm
        if packet in flop_registry:
            count = flop_registry[packet]
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def test_the_operations_that_are_needed_are_those_that_torch_counts(monkeypatch):
    monkeypatch.setattr("idbert.nn.attention.suits", lambda query, dropout, **_: True)
    settings = EncoderSettings(hidden_size=16, num_layers=3, num_heads=2, head_transform=False)
    model = MaskedItemModel.build(settings, vocab_size=50).eval()
    ids = torch.randint(4, 50, (2, 32))
    labels = torch.full_like(ids, -100)
    labels[:, :8] = ids[:, :8]
    onednn_is_faster()  # multiplies, the first time
    with Operations() as counted:
        model(ids, labels=labels).loss.backward()
    needed = needed_operations(
        np.array([32.0, 32.0]),
        np.array([8.0, 8.0]),
        layers=3,
        hidden=16,
        inner=64,
        rows=50,
        is_causal=False,
    )
    assert counted.total == needed
