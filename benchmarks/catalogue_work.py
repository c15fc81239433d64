"""A training on histories over a catalogue of any size, in a process of its own.

Started by `benchmarks.catalogue_size` with the settings as JSON.
"""

import json
import sys
import tempfile
from argparse import Namespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.power_law_log import power_law
from benchmarks.resident import peak_mib
from benchmarks.training_work import Meter, built, training_settings
from idbert.inputs.sequences import Sequences
from idbert.rows import FIRST_ITEM


def drawn(work: Namespace) -> Sequences:
    """Return one history of the full length a user, items by a power law over their rows."""
    length = work.maxlen + (work.model != "bert4rec")
    ranks = power_law(np.random.default_rng(0), work.users * length, work.items, exponent=1.0)
    offsets = np.arange(work.users + 1) * length
    items = (ranks + FIRST_ITEM).astype(np.int32)
    return Sequences(pa.array(np.arange(work.users)), items, offsets)


def measure(work: Namespace) -> dict[str, Any]:
    """Train for some seconds, and say how fast."""
    torch.set_num_threads(work.threads)
    torch.manual_seed(0)
    imports_mib = peak_mib()
    sequences = drawn(work)
    counts_V = np.bincount(sequences.items, minlength=FIRST_ITEM + work.items)
    sizes = {"layers": work.layers, "hidden": work.hidden, "inner": 4 * work.hidden}
    sizes |= {"rows": work.loss_options["negatives"], "is_causal": work.model != "bert4rec"}
    meter = Meter(work.seconds, work.warmup, sizes, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        settings = training_settings(work)
        trainer = built(work, sequences, counts_V, work.tokens, folder, settings, [meter])
        trainer.model.register_forward_pre_hook(
            lambda module, args, kwargs: meter.see(kwargs), with_kwargs=True
        )
        trainer.train_or_resume()
    return meter.windows.summary() | {"imports_mib": imports_mib, "training_mib": peak_mib()}


if __name__ == "__main__":
    print("RESULT " + json.dumps(measure(Namespace(**json.loads(sys.argv[1])))))
