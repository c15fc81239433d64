"""The benchmark of training runs in small, and its arithmetic is torch's. No time is asserted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import training
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MaskedItemModel
from idbert.nn.products import onednn_is_faster
from tests.worlds import cycle_world


class Operations(TorchDispatchMode):
    """Counts the floating-point operations of all products."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            count = flop_registry[func._overloadpacket]
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def test_the_operations_that_are_needed_are_those_that_torch_counts(monkeypatch):
    monkeypatch.setattr("idbert.nn.attention.suits", lambda query, dropout: True)
    settings = EncoderSettings(hidden_size=16, num_layers=3, num_heads=2, head_transform=False)
    model = MaskedItemModel.build(settings, vocab_size=50).eval()
    ids = torch.randint(4, 50, (2, 32))
    labels = torch.full_like(ids, -100)
    labels[:, :8] = ids[:, :8]
    onednn_is_faster()  # multiplies, the first time
    with Operations() as counted:
        model(ids, labels=labels).loss.backward()
    needed = training.needed_operations(
        np.array([32.0, 32.0]),
        np.array([8.0, 8.0]),
        layers=3,
        hidden=16,
        inner=64,
        rows=50,
        is_causal=False,
    )
    assert counted.total == needed


@pytest.mark.parametrize("model", ["bert4rec", "sasrec"])
def test_the_benchmark_trains_and_counts(tmp_path: Path, model: str, capsys) -> None:
    data = tmp_path / "log.parquet"
    cycle_world(num_users=30).to_parquet(data)
    small = ["--hidden=8", "--layers=1", "--maxlen=8", "--tokens=64", "--threads=1"]
    short = ["--seconds=1.5", "--warmup=2", f"--model={model}", "--worker"]
    training.main([f"--data={data}", *small, *short])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["quiet_interactions_per_s"] > 0
    assert result["interactions_per_cpu_s"] > 0
    assert 0 < result["gflops"] < result["peak_gflops"]


def test_lines_of_ours_and_of_the_others_and_what_is_left_out(tmp_path, monkeypatch, capsys):
    ours = {"quiet_interactions_per_s": 50, "interactions_per_cpu_s": 30, "foreign_cpu": 0.01}
    monkeypatch.setattr(training, "in_own_process", lambda arguments, threads: ours)
    monkeypatch.setattr(
        training,
        "run_driver",
        lambda peer, *more: {"quiet_interactions_per_s": 10} if peer == "hf" else f"no {peer}",
    )
    training.main([f"--data={tmp_path / 'log.parquet'}", f"--peers={tmp_path}", "--passes=1"])
    printed = capsys.readouterr().out
    assert "idbert is 5.0 times as fast as hf" in printed
    assert "| idbert | 50 | 30 |  |  | 1% |" in printed
    assert "no recbole" in printed
