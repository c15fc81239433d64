"""What do NEZHA's relative positions cost in attention, in memory and in time?

    python -m benchmarks.nezha_attention

Three forms of attention, forward and backward, float32, one sequence, 12 heads of width 64, k = 64:
`plain` is `eager_attention` without distances (BERT's), `ours` the same with distances, and `naive`
is written here as transformers 4 wrote it, with a [L, L, W] tensor of sinusoids that is made once,
before the clock starts. Memory is the peak of resident memory above that before the inputs are
made, each form in a process of its own; time is the best of several runs, the forms taking turns.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from idbert.nn.attention import eager_attention
from idbert.nn.relative import RelativePositions

FORMS = ("plain", "naive", "ours")
HEADS, WIDTH, MAX_DISTANCE = 12, 64, 64
MEMORY_LIMIT, TIME_LIMIT = 0.25, 1.2
RETURN_TO_SYSTEM = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""So that resident memory is what is in use, not what the allocator keeps for later."""


def main() -> None:
    """Print one line for each length and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each measurement of time")
    parser.add_argument("--measure", help="for internal use: a form, or 'time'")
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(options.threads[0])
        length, batch_size = options.lengths[0], options.batch_size
        result = (
            best_times(batch_size, length, options.seconds)
            if options.measure == "time"
            else peak_mib(options.measure, batch_size, length)
        )
        print(json.dumps(result))
        return
    for length in options.lengths:
        arguments = ["--lengths", str(length), "--batch-size", str(options.batch_size)]
        peaks = {
            form: in_process("--measure", form, "--threads", "1", *arguments) for form in FORMS
        }
        report("MiB", f"L = {length}, peak memory", peaks, beyond_plain=True, limit=MEMORY_LIMIT)
        for threads in options.threads:
            times = in_process(
                *("--measure", "time", "--threads", str(threads), *arguments),
                *("--seconds", str(options.seconds)),
            )
            name = f"L = {length}, threads: {threads}"
            report("ms", name, times, beyond_plain=False, limit=TIME_LIMIT)


def report(
    unit: str, name: str, figures: dict[str, float], *, beyond_plain: bool, limit: float
) -> None:
    """Print the figures of the three forms, and ours against naive's."""
    base = figures["plain"] if beyond_plain else 0.0
    ratio = (figures["ours"] - base) / (figures["naive"] - base)
    shown = ", ".join(f"{form} {figures[form]:.0f} {unit}" for form in FORMS)
    what = "beyond plain, ours / naive" if beyond_plain else "ours / naive"
    verdict = "holds" if ratio <= limit else "does not hold"
    print(f"{name:<24} {shown}; {what}: {ratio:.2f} (at most {limit}: {verdict})", flush=True)


def in_process(*arguments: str) -> dict[str, float] | float:
    """Measure in a new process."""
    command = [sys.executable, "-m", "benchmarks.nezha_attention", *arguments]
    environment = {**os.environ, **RETURN_TO_SYSTEM} if "time" not in arguments else None
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(finished.stdout)


def best_times(batch_size: int, length: int, seconds: float) -> dict[str, float]:
    """Return the shortest time of each form in milliseconds."""
    runs = {form: step_of(form, batch_size, length) for form in FORMS}
    for run in runs.values():
        run()  # the first one is slower
    best = dict.fromkeys(FORMS, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for form, run in runs.items():
            start = time.perf_counter()
            run()
            best[form] = min(best[form], 1000 * (time.perf_counter() - start))
    return best


def peak_mib(form: str, batch_size: int, length: int) -> float:
    """Return the peak of resident memory that one forward and backward pass adds."""
    step_of(form, 1, 16)()  # loads what is loaded once
    before = resident_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    step_of(form, batch_size, length)()
    return (resident_kib("VmHWM") - before) / 1024


def resident_kib(name: str) -> int:
    """Read a figure of this process that Linux keeps."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def step_of(form: str, batch_size: int, length: int) -> Callable[[], None]:
    """Make the inputs of one form of attention, and return its forward and backward pass."""
    torch.manual_seed(0)
    inputs = [
        torch.randn(batch_size, length, HEADS, WIDTH).requires_grad_() for _ in range(3)
    ]  # as a Linear returns them
    upstream_BHLW = torch.randn(batch_size, HEADS, length, WIDTH)
    distances = None
    if form != "plain":
        distances = RelativePositions(MAX_DISTANCE, WIDTH)(length, is_causal=False)
    relative_LLW = distances.table_PW[distances.bucket_LL] if form == "naive" else None

    def step() -> None:
        query, key, value = (one.transpose(1, 2) for one in inputs)
        if relative_LLW is None:
            attended = eager_attention(query, key, value, None, distances)
        else:
            attended = naive_attention(query, key, value, relative_LLW)
        torch.autograd.grad(attended, inputs, upstream_BHLW)

    return step


def naive_attention(query: Tensor, key: Tensor, value: Tensor, relative_LLW: Tensor) -> Tensor:
    """Compute NEZHA's attention with a sinusoid for each pair of positions."""
    batch_size, heads, length, width = query.shape
    scores = query @ key.mT
    query_first = query.permute(2, 0, 1, 3).reshape(length, batch_size * heads, width)
    of_keys = query_first @ relative_LLW.mT
    scores = scores + of_keys.view(length, batch_size, heads, length).permute(1, 2, 0, 3)
    shares = (scores * width**-0.5).softmax(dim=-1)
    query_first = shares.permute(2, 0, 1, 3).reshape(length, batch_size * heads, length)
    of_values = query_first @ relative_LLW
    return shares @ value + of_values.view(length, batch_size, heads, width).permute(1, 2, 0, 3)


if __name__ == "__main__":
    main()
