"""Whether a training fits into memory is told before it begins."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.sequences import Sequences
from idbert.nn.config import EncoderSettings
from idbert.nn.cpu_attention import NUM_AT_ONCE
from idbert.nn.item_models import NextItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.nn.time_bias import TimeBiasSettings
from idbert.training import memory
from idbert.training.arguments import TrainingSettings
from idbert.training.averaging import AveragingSettings
from idbert.training.machine_memory import free_bytes
from idbert.training.memory import (
    Workload,
    check_memory,
    check_memory_first,
    estimate_memory,
    workload_of,
)
from tests.training.small import build

ROOT = Path(__file__).parents[2]
MIB = 2**20

WORK = Workload(
    rows=100_000,
    width=64,
    other_parameters=100_000,
    layers=2,
    inner_width=256,
    gate_width=0,
    positions=2000,
    matrix_columns=400,
    targets=500,
    scored_targets=500,
    scores_of_target=100_000,
    score_copies=2,
    drawn_rows=0,
    unit_rows=100_000,
    sparse_rows=False,
    sum_tables=0,
    averages=1,
    several_processes=False,
    users=100,
)


def sketched(rows=1_000_000, loss="chunked"):
    """A model without weights."""
    with torch.device("meta"):
        settings = EncoderSettings(hidden_size=64, max_length=50)
        return NextItemModel.build(settings, vocab_size=rows, loss=LossSettings(loss))


def check(model, free, budget=2000, **settings):
    sequences = Sequences.from_histories([list(range(4, 55))] * 100)
    training = TrainingSettings(**settings)
    check_memory(model, sequences, None, BatchSettings(token_budget=budget), training, free=free)


@pytest.mark.parametrize("name", [f.name for f in fields(Workload) if f.name != "sparse_rows"])
def test_more_of_anything_never_takes_less(name):
    value = getattr(WORK, name)
    larger = replace(WORK, **{name: True if value is False else value * 2 or 1})
    assert estimate_memory(larger).total >= estimate_memory(WORK).total


@pytest.mark.parametrize(
    "name", ["rows", "width", "layers", "positions", "scored_targets", "several_processes"]
)
def test_what_a_step_is_made_of_takes_more_memory_the_more_there_is(name):
    value = getattr(WORK, name)
    larger = replace(WORK, **{name: True if value is False else value * 2})
    assert estimate_memory(larger).total > estimate_memory(WORK).total


def test_sparse_rows_take_less():
    few = replace(WORK, scores_of_target=1000, drawn_rows=1000, averages=0, users=0)
    sparse = estimate_memory(replace(few, sparse_rows=True))
    assert sparse.total < estimate_memory(few).total / 1.5


def test_a_table_of_ten_million_rows_trains_sparsely_in_less_than_sixteen_gib():
    of_sample = replace(WORK, rows=10_000_000, scores_of_target=1024, averages=0, users=0)
    of_sample = replace(of_sample, drawn_rows=1024)
    assert estimate_memory(replace(of_sample, sparse_rows=True)).total < 16 * 2**30
    assert estimate_memory(of_sample).total > 12 * 2**30


def test_the_estimate_is_the_measured_peak_within_a_factor():
    finished = subprocess.run(
        [sys.executable, "-m", "tests.training.measured_memory"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    for estimated, measured in json.loads(finished.stdout.splitlines()[-1]):
        # What a process takes once for all its work is not in the estimate.
        assert measured / 1.6 - 60 * MIB < estimated < 1.6 * measured, (estimated, measured)


def test_the_sizes_are_read_from_model_data_and_settings():
    sequences = Sequences.from_histories([list(range(4, 55))] * 3)
    training = TrainingSettings(averaging=AveragingSettings("ema"))
    model = sketched(rows=500)
    work = workload_of(model, sequences, None, BatchSettings(token_budget=2000), training, 7)
    assert (work.rows, work.width, work.users, work.averages) == (500, 64, 7, 1)
    assert work.positions == 150 and work.scores_of_target == 500
    assert work.other_parameters + 500 * 65 == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("loss", "negatives"), [("bce", 1), ("gbce", 256), ("sampled", 1024)])
def test_a_loss_counts_with_as_many_negatives_as_it_draws_by_default(loss, negatives):
    sequences = Sequences.from_histories([list(range(4, 55))] * 3)
    given = (sequences, None, BatchSettings(), TrainingSettings(), 0)
    work = workload_of(sketched(loss=loss), *given)
    assert work.scores_of_target == negatives
    assert work.drawn_rows == negatives * (1 if loss == "sampled" else work.targets)


@pytest.fixture
def two_threads(monkeypatch):
    """More threads have larger caches together, and so larger chunks of scores."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.usefixtures("two_threads")
def test_of_a_sampled_loss_a_chunk_of_scores_counts():
    def scored(negatives):
        with torch.device("meta"):
            loss = LossSettings("sampled", {"negatives": negatives})
            model = NextItemModel.build(EncoderSettings(), vocab_size=50_000, loss=loss)
        sequences = Sequences.from_histories([list(range(4, 204))] * 100)
        budget = BatchSettings(token_budget=12_800)
        work = workload_of(model, sequences, None, budget, TrainingSettings(), 0)
        return work.targets, work.scored_targets, work.scores_of_target

    assert scored(4096) == (12_800, 2**20 // 4096, 4096)
    assert scored(40_000)[1] == 64 and scored(4)[1] == 1024


@pytest.mark.usefixtures("two_threads")
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("precision", "has_tiles", "chunk"),
    [("float32", True, 104), ("medium", False, 104), ("medium", True, 4 * 104)],
)
def test_chunks_are_larger_where_products_are_rounded(precision, has_tiles, chunk, monkeypatch):
    monkeypatch.setattr(memory, "has_tiles", lambda: has_tiles)
    sequences = Sequences.from_histories([list(range(4, 204))] * 100)
    settings = TrainingSettings(precision=precision, device="cpu")
    budget = BatchSettings(token_budget=5000)
    work = workload_of(sketched(rows=10_000), sequences, None, budget, settings, 0)
    assert work.scored_targets == chunk


def test_what_does_not_fit_is_refused_and_what_is_advised_fits():
    free = 1000 * MIB
    with pytest.raises(ConfigError) as error:
        check(sketched(), free)
    words = str(error.value)
    assert "needs about 2.0 GiB" in words and "more memory, and 1000.0 MiB are free" in words
    assert "by --loss.name sampled --training.sparse_rows true." in words
    assert "--training.check_memory false" in words
    check(sketched(loss="sampled"), free, sparse_rows=True)


@pytest.mark.usefixtures("two_threads")
def test_a_smaller_batch_is_advised_where_that_is_enough():
    with pytest.raises(ConfigError, match="by --batches.token_budget 1000") as error:
        check(sketched(rows=50_000), 120 * MIB, budget=4000)
    assert "sampled" not in str(error.value)
    check(sketched(rows=50_000), 120 * MIB, budget=1000)


def test_where_nothing_helps_that_is_said():
    with pytest.raises(ConfigError, match="No loss and no batch makes it fit: give a smaller"):
        check(sketched(), 10 * MIB)


def test_a_training_is_refused_before_it_begins_unless_it_is_not_to_be_checked(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(ConfigError, match="This training needs about"):
        build(tmp_path)
    assert not list(tmp_path.iterdir())
    build(tmp_path, epochs=1, check_memory=False).train_or_resume()


def test_a_training_that_does_not_fit_is_refused_before_its_weights_take_memory(monkeypatch):
    built = []

    def build():
        built.append(sketched())
        return built[-1]

    rest = (Sequences.from_histories([[4, 5]]), None, BatchSettings(), TrainingSettings())
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(ConfigError, match="This training needs about"):
        check_memory_first(build, *rest)
    assert built[0].device.type == "meta"

    def cannot_be_sketched():
        raise NotImplementedError("Cannot copy out of meta tensor")

    check_memory_first(cannot_be_sketched, *rest)


def test_a_model_that_has_its_weights_needs_only_the_rest():
    def needed_mib(device):
        with torch.device(device):
            settings = EncoderSettings(hidden_size=64, max_length=50)
            model = NextItemModel.build(settings, vocab_size=50_000)
        with pytest.raises(ConfigError) as error:
            check(model, MIB)
        number, unit = re.search(r"about ([0-9.]+) (MiB|GiB) more", str(error.value)).groups()
        return float(number) * (1024 if unit == "GiB" else 1)

    weights_mib = 50_000 * 65 * 4 / MIB
    assert needed_mib("meta") - needed_mib("cpu") == pytest.approx(weights_mib, abs=2)
    assert needed_mib("meta") > needed_mib("cpu")


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/batch/job", "batch/job", ("memory.max", "memory.current", "inactive_file")),
        (
            "4:memory:/batch/job",
            "memory/batch/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_the_limit_of_a_container_counts_and_its_file_cache_is_free(line, folder, names, tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"9:pids:/\n{line}\n")
    group = tmp_path / "sys/fs/cgroup" / folder
    group.mkdir(parents=True)
    limit, usage, cache = names
    (group.parent / limit).write_text("max\n")
    (group.parent / usage).write_text("5\n")
    (group / limit).write_text(f"{3 * MIB}\n")
    (group / usage).write_text(f"{2 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 7\n{cache} {MIB // 2}\n")
    assert free_bytes(torch.device("cpu"), tmp_path) == 3 * MIB // 2
    (group / limit).write_text("max\n")
    assert free_bytes(torch.device("cpu"), tmp_path) > 100 * MIB


def test_without_control_groups_the_machine_decides(tmp_path):
    assert free_bytes(torch.device("cpu"), tmp_path) > 100 * MIB
    assert np.isfinite(free_bytes(torch.device("cpu")))


def test_a_time_bias_keeps_matrices_of_attention():
    sequences = Sequences.from_histories([list(range(4, 55))] * 3)
    with torch.device("meta"):
        settings = EncoderSettings(max_length=50, time_bias=TimeBiasSettings("log"))
        model = NextItemModel.build(settings, vocab_size=500)
    work = workload_of(model, sequences, None, BatchSettings(), TrainingSettings(), 0)
    assert work.matrix_columns == (2 + 1) * 50


@pytest.mark.parametrize("settings", [{"kind": "nezha"}, {"attention_dropout": 0.1}])
def test_on_a_processor_no_large_matrices_of_attention_are_kept(settings):
    sequences = Sequences.from_histories([list(range(4, 204))] * 200)
    with torch.device("meta"):
        sizes = {"hidden_size": 64, "num_heads": 2}
        model = NextItemModel.build(EncoderSettings(**sizes, **settings), vocab_size=500)

    def columns(token_budget):
        batches = BatchSettings(token_budget=token_budget)
        work = workload_of(model, sequences, None, batches, TrainingSettings(device="cpu"), users=0)
        return work.matrix_columns

    assert columns(2_000) == 2 * 200
    assert columns(40_000) == -(-NUM_AT_ONCE // 40_000) < 2 * 200
