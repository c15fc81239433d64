"""Peers' drivers are called as they ask for, and what goes wrong with one is said."""

import stat
import sys
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel

from benchmarks import peers
from benchmarks.peer_questions import ASKED, SUMMARY, TRAINED, read_questions
from benchmarks.peer_start import keep_attention_whole
from benchmarks.peers import PEERS, Peer, result_at, run_driver

COMMON = """
import json, sys
class Data:
    def __init__(self, path): self.path = path
class Meter:
    def _mark(self): return 1
def tic(): return 0
def emit(args, **more): print("RESULT " + json.dumps(more))
"""
DRIVER = """
import argparse, common
parser = argparse.ArgumentParser()
parser.add_argument("--no-eval", action="store_true")
args, rest = parser.parse_known_args()
if "sasrec" in rest: raise SystemExit("no such model")
data = common.Data(rest[rest.index("--data") + 1])
on = "use_cpu=True"
if not args.no_eval: common.tic()
common.emit(args, rest=rest, data=data.path, on=on)
"""

METER = """
import time
class Meter:
    def __init__(self): self.t_start, self.steps = time.perf_counter(), 0
    def step(self):
        self.steps += 1
        return time.perf_counter() - self.t_start > 0.6
"""
STEPS = """
import common, os, time
data, meter = common.Data("log"), common.Meter()
open("file", "w").close()
while not meter.step(): time.sleep(0.001)
os.unlink("file")
if meter.steps == 1: raise ValueError("never trained")
{worse}
common.emit(None, steps=meter.steps, seconds=time.perf_counter() - meter.t_start)
open("ended", "a").write("once ")
"""


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    """Options with a folder in which RePlay is installed; its driver tells how it was called."""
    folder = tmp_path / "peers"
    (folder / "drivers").mkdir(parents=True)
    (folder / "drivers/common.py").write_text(COMMON)
    (folder / "drivers/drive_replay.py").write_text(DRIVER)
    (folder / "drivers/drive_hf.py").write_text("raise SystemExit('never started')")
    python = folder / "venvs/replay/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IEXEC)
    sizes = {"hidden": 64, "layers": 2, "heads": 2, "maxlen": 200, "batch": 128, "threads": 2}
    shares = {"dropout": 0.2, "mask": 0.15}
    return Namespace(peers=folder, device="cpu", **sizes, **shares)


REPLAY = Peer("RePlay", "replay", arguments=("--bucket", "16"))


def test_a_driver_gets_the_architecture_and_its_memory_is_told(options, tmp_path):
    result = run_driver(REPLAY, "bert4rec", tmp_path / "log.parquet", options, seconds=3)
    assert isinstance(result, dict)
    given = dict(zip(result["rest"][::2], result["rest"][1::2], strict=True))
    expected = {"hidden": 64, "maxlen": 200, "dropout": 0.2, "mask": 0.15, "threads": 2}
    for name, value in (expected | {"seconds": 3, "bucket": 16, "batch": 128}).items():
        assert given[f"--{name}"] == str(value)
    assert result["data"] == given["--data"] == str(tmp_path / "log.parquet")
    assert 0 < result["imports_mib"] <= result["training_mib"] and result["scoring_mib"] > 0
    alone = run_driver(REPLAY, "bert4rec", tmp_path, options, "--no-eval", seconds=3)
    assert alone["training_mib"] > 0 and "scoring_mib" not in alone


@pytest.mark.parametrize("fails", [False, True])
def test_a_driver_ranks_at_moments_of_its_training_and_goes_on(options, tmp_path, fails):
    drivers = options.peers / "drivers"
    (drivers / "torch.py").write_text("def set_num_threads(count): assert count == 1")
    meter = "class Meter:\n    def _mark(self): return 1\n"
    (drivers / "common.py").write_text(COMMON.replace(meter, METER).replace("args, **", "_, **"))
    worse = 'if meter.t_start + 0.3 > time.perf_counter(): raise ValueError("no")' if fails else ""
    emit = "common.emit(common.Namespace(no_eval=True), steps"
    source = STEPS.format(worse=worse).replace("common.emit(None, steps", emit)
    (drivers / "common.py").open("a").write("from argparse import Namespace\n")
    (drivers / "drive_replay.py").write_text(source)
    last = run_driver(
        REPLAY, "sasrec", tmp_path, options, seconds=1, moments_s=[0.4, 0.2], told=tmp_path
    )
    first, second = (result_at(tmp_path, seconds) for seconds in (0.2, 0.4))
    assert isinstance(second, dict) and isinstance(last, dict)
    assert 0.4 <= second["seconds"] < 0.6 <= last["seconds"] < 0.9, "the wait counted as training"
    assert second["steps"] < last["steps"]
    if fails:
        assert first == "failed: no ranking after 0.2 s of training"
    else:
        assert isinstance(first, dict) and first["steps"] < second["steps"]
    assert (drivers / "ended").read_text() == "once ", "a copy went on to the training's end"
    assert not (drivers / "file").exists()
    assert result_at(tmp_path, 7) == "failed: no ranking after 7 s of training"


def test_what_is_missing_or_fails_is_said_in_words(options, tmp_path, monkeypatch):
    absent = run_driver(PEERS[0], "bert4rec", tmp_path, options, seconds=1)
    assert absent == "left out: venvs/rectools/bin/python is not there"
    assert run_driver(REPLAY, "sasrec", tmp_path, options, seconds=1) == "failed: no such model"
    slow = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    assert peers.run(slow, tmp_path, 0.1) == "failed: not done after 0 s"


def test_lengths_that_are_widths_are_refused_without_attention_dropout(options, tmp_path):
    options.maxlen = 256
    found = run_driver(REPLAY, "bert4rec", tmp_path, options, seconds=1, attention_dropout=False)
    assert "shares of attention cannot be told" in found


def test_without_attention_dropout_a_driver_that_has_none_fails(options, tmp_path):
    (options.peers / "drivers/torch").mkdir()  # stands for torch, which the driver's Python lacks
    for name in ("torch", "torch/nn"):
        (options.peers / "drivers" / name).mkdir(exist_ok=True)
        (options.peers / "drivers" / name / "__init__.py").write_text("")
    (options.peers / "drivers/torch/nn/functional.py").write_text(
        "scaled_dot_product_attention = dropout = None\n"
    )
    found = run_driver(REPLAY, "bert4rec", tmp_path, options, seconds=1, attention_dropout=False)
    assert found == "failed: no attention dropout was found that could be left out"


def test_on_a_gpu_the_words_for_the_processor_are_replaced(options, tmp_path):
    options.device = "cuda"
    folder = options.peers / "drivers/torch"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "class cuda:\n"
        "    synchronize = staticmethod(lambda: None)\n"
        "    max_memory_allocated = staticmethod(lambda: 3 * 2**20)\n"
    )
    result = run_driver(REPLAY, "bert4rec", tmp_path, options, "--no-eval", seconds=1)
    assert result["on"] == "use_cpu=False" and result["device_mib"] == 3
    driver = options.peers / "drivers/drive_replay.py"
    driver.write_text(DRIVER.replace("use_cpu=True", "x"))
    found = run_driver(REPLAY, "bert4rec", tmp_path, options, "--no-eval", seconds=1)
    assert found == "failed: drive_replay.py has no word that puts it on a GPU"


def test_shares_of_attention_are_kept_whole_and_all_else_is_dropped(monkeypatch):
    length = 6
    for name in ("dropout", "scaled_dot_product_attention"):
        monkeypatch.setattr(F, name, getattr(F, name))  # put back at the end
    kept = keep_attention_whole(length)
    hidden_BLD, shares_BHLL = torch.randn(3, length, 8), torch.rand(3, 2, length, length)
    assert torch.equal(nn.Dropout(0.9)(shares_BHLL), shares_BHLL)
    assert (nn.Dropout(0.9)(hidden_BLD) == 0).any()
    for needs_shares in (False, True):
        attention = nn.MultiheadAttention(8, 2, dropout=0.9, batch_first=True)
        found = attention(hidden_BLD, hidden_BLD, hidden_BLD, need_weights=needs_shares)[0]
        attention.eval()
        same = attention(hidden_BLD, hidden_BLD, hidden_BLD, need_weights=needs_shares)[0]
        torch.testing.assert_close(found, same)
    small = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**small, intermediate_size=8, hidden_dropout_prob=0.0)
    config.attention_probs_dropout_prob = 0.9
    for kind in ("sdpa", "eager"):
        model = BertModel._from_config(config, attn_implementation=kind)
        ids_BL = torch.randint(9, (2, length))
        dropped = model.train()(ids_BL).last_hidden_state
        torch.testing.assert_close(dropped, model.eval()(ids_BL).last_hidden_state)
    assert len(kept) > 5


def test_a_driver_is_asked_what_lies_in_the_folder_instead_of_its_own_split(tmp_path):
    histories, targets = [[1, 2, 3], [1, 2, 3, 4], [5]], [4, 7, 7]
    pq.write_table(pa.table({"items": [[1, 2, 3], [5, 6]]}), tmp_path / TRAINED)
    pq.write_table(pa.table({"items": histories, "target": targets}), tmp_path / ASKED)
    (tmp_path / SUMMARY).write_text('{"items": 9, "name": "some"}')
    prefixes = {"bert4rec": [[1, 2, 3], [5, 6]], "sasrec": [[1], [1, 2], [5]]}
    for model, trained_on in prefixes.items():
        data = Namespace()
        read_questions(data, tmp_path, model)
        assert [list(items) for items in data.train] == [[1, 2, 3], [5, 6]]
        assert [list(items) for items in data.ctx] == histories and list(data.test) == targets
        assert (data.n_users, data.n_items, data.items[0], data.items[-1]) == (3, 9, 1, 9)
        # what RecBole's driver writes: first what is trained on, then twice what is asked
        training = [(s[:-2], s[-3]) for s in data.seqs]
        assert [items for items, _ in training] == trained_on
        if model == "sasrec":
            assert [following for _, following in training] == [2, 3, 6]
        for _ in range(2):
            # the driver makes the pairs of all three files for each of them
            asked = [(s[:-1], s[-1]) for s in data.seqs if (s[:-2], s[-3]) and (s[:-2], s[-2])]
            assert asked == list(zip(histories, targets, strict=True))


def test_a_driver_that_measured_no_step_says_what_to_do():
    assert peers.trained({"peak_gb": 2.0}) == (
        "failed: no step behind the warm-up. Give more --seconds."
    )
    assert peers.trained("failed: no such model") == "failed: no such model"
