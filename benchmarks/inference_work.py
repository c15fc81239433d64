"""idbert's scoring of all users at work, in a process of its own as the peers': how fast?

Started by `benchmarks.inference` with the settings as JSON.
"""

import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from benchmarks.quiet import ForeignLoad, own_cpu_s
from benchmarks.training_work import MODELS
from idbert import Recommender, read_interactions
from idbert.inputs.splits import leave_last_out
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import EncoderSettings
from idbert.tables import Interactions

K = 10
WARM_UP = 256
"""Users that are scored before the time begins; a peer has trained a moment by then."""


def histories_of(data: Path, users: int) -> Interactions:
    """Return all but the last event of each user, as the peers do; 0: of all users."""
    log = leave_last_out(read_interactions(data)).test.histories
    return first_users(log, users) if users else log


def first_users(log: Interactions, users: int) -> Interactions:
    """Return the events of the first users."""
    bounds = log.user_offsets()
    return log.with_table(log.table.slice(0, int(bounds[min(users, len(bounds) - 1)])))


def recommender_of(log: Interactions, work: Namespace) -> Recommender:
    """Open the run, or put a fresh model round the log's items."""
    if work.run:
        return Recommender.load(work.run, device=work.device, table_precision=work.table_precision)
    vocabulary = Vocabulary.from_interactions(log)
    torch.manual_seed(0)
    settings = EncoderSettings(
        hidden_size=work.hidden,
        num_layers=work.layers,
        num_heads=work.heads,
        max_length=work.maxlen,
    )
    model = MODELS[work.model].build(settings, vocab_size=len(vocabulary))
    return Recommender(model.to(work.device), vocabulary, table_precision=work.table_precision)


def measure(work: Namespace) -> dict[str, Any]:
    """Score all users, or those that are asked for, and say how fast."""
    torch.set_num_threads(work.threads)
    log = histories_of(Path(work.data), work.users)
    recommender = recommender_of(log, work)
    list(recommender.recommend_batches(first_users(log, WARM_UP), K))
    load, cpu, started = ForeignLoad(), own_cpu_s(), time.perf_counter()
    batches = recommender.recommend_batches(log, K)
    found = sum(len(batch) for batch in batches)  # ids on the CPU: nothing is under way any more
    seconds, cpu = time.perf_counter() - started, own_cpu_s() - cpu
    users = len(batches.histories)
    assert found <= K * users
    on_gpu = work.device == "cuda"
    return {
        "users_per_s": users / seconds,
        "cpu_ms": 1000 * cpu / users,
        "foreign": load.share(),
        "device_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
    }


if __name__ == "__main__":
    print("RESULT " + json.dumps(measure(Namespace(**json.loads(sys.argv[1])))))
