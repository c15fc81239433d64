"""What do NEZHA's relative positions cost in attention, in memory and in time?

    python -m benchmarks.nezha_attention

Four forms of attention, forward and backward, float32, one sequence, 12 heads of width 64, k = 64:
`plain` is `eager_attention` without distances (BERT's), `ours` the same with distances, `parts` is
`cpu_attention` with distances, some heads at a time, as encoders on a CPU have it, and `naive` is
written here as transformers 4 wrote it, with a [L, L, W] tensor of sinusoids that is made once,
before the clock starts. With --dropout shares are dropped too, by idbert's dropout. Memory is the
peak of resident memory above that before the inputs are made, each form in a process of its own;
time is the best of several runs, the forms taking turns.
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
from idbert.nn.cpu_attention import cpu_attention
from idbert.nn.dropout import dropout as drop
from idbert.nn.relative import RelativePositions

FORMS = ("plain", "naive", "ours", "parts")
MAX_DISTANCE = 64
MEMORY_LIMIT, TIME_LIMIT = 0.25, 1.2
RETURN_TO_SYSTEM = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""So that resident memory is what is in use, not what the allocator keeps for later."""


def main() -> None:
    """Print one line for each length and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each measurement of time")
    parser.add_argument("--measure", help="for internal use: a form, or 'time'")
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(options.threads[0])
        result = (
            best_times(options) if options.measure == "time" else peak_mib(options.measure, options)
        )
        print(json.dumps(result))
        return
    for length in options.lengths:
        arguments = ["--lengths", str(length)]
        for name in ("batch-size", "heads", "width", "dropout"):
            arguments += [f"--{name}", str(getattr(options, name.replace("-", "_")))]
        arguments += ["--causal"] if options.causal else []
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
    """Print the figures of the forms, and ours against naive's."""
    base = figures["plain"] if beyond_plain else 0.0
    ratio, by_parts = (
        (figures[form] - base) / (figures["naive"] - base) for form in ("ours", "parts")
    )
    shown = ", ".join(f"{form} {figures[form]:.0f} {unit}" for form in FORMS)
    what = "beyond plain, " if beyond_plain else ""
    what += f"parts / naive: {by_parts:.2f}, ours / naive"
    verdict = "holds" if ratio <= limit else "does not hold"
    print(f"{name:<24} {shown}; {what}: {ratio:.2f} (at most {limit}: {verdict})", flush=True)


def in_process(*arguments: str) -> dict[str, float] | float:
    """Measure in a new process."""
    command = [sys.executable, "-m", "benchmarks.nezha_attention", *arguments]
    environment = {**os.environ, **RETURN_TO_SYSTEM} if "time" not in arguments else None
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(finished.stdout)


def best_times(options: argparse.Namespace) -> dict[str, float]:
    """Return the shortest time of each form in milliseconds."""
    runs = {form: step_of(form, options) for form in FORMS}
    for run in runs.values():
        run()  # the first one is slower
    best = dict.fromkeys(FORMS, float("inf"))
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end:
        for form, run in runs.items():
            start = time.perf_counter()
            run()
            best[form] = min(best[form], 1000 * (time.perf_counter() - start))
    return best


def peak_mib(form: str, options: argparse.Namespace) -> float:
    """Return the peak of resident memory that one forward and backward pass adds."""
    small = {"batch_size": 1, "lengths": [16]}
    step_of(form, argparse.Namespace(**vars(options) | small))()  # loads what is loaded once
    before = resident_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    step_of(form, options)()
    return (resident_kib("VmHWM") - before) / 1024


def resident_kib(name: str) -> int:
    """Read a figure of this process that Linux keeps."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def step_of(form: str, options: argparse.Namespace) -> Callable[[], None]:
    """Make the inputs of one form of attention, and return its forward and backward pass."""
    torch.manual_seed(0)
    batch_size, length = options.batch_size, options.lengths[0]
    heads, width = options.heads, options.width
    inputs = [
        torch.randn(batch_size, length, heads, width).requires_grad_() for _ in range(3)
    ]  # as a Linear returns them
    upstream_BHLW = torch.randn(batch_size, heads, length, width)
    visible = torch.ones(1, 1, length, length, dtype=torch.bool).tril() if options.causal else None
    distances = None
    if form != "plain":
        positions = RelativePositions(MAX_DISTANCE, width)
        distances = positions(length, is_causal=options.causal)
    relative_LLW = distances.table_PW[distances.bucket_LL] if form == "naive" else None

    def step() -> None:
        tensors = [one.transpose(1, 2) for one in inputs]
        if relative_LLW is not None:
            attended = naive_attention(*tensors, relative_LLW, visible, options.dropout)
        elif form == "parts":
            attended = cpu_attention(
                *tensors, visible, dropout=options.dropout, distances=distances
            )
        else:
            attended = eager_attention(*tensors, visible, distances, options.dropout)
        torch.autograd.grad(attended, inputs, upstream_BHLW)

    return step


def naive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative_LLW: Tensor,
    visible: Tensor | None,
    dropout: float,
) -> Tensor:
    """Compute NEZHA's attention with a sinusoid for each pair of positions."""
    batch_size, heads, length, width = query.shape
    scores = query @ key.mT
    query_first = query.permute(2, 0, 1, 3).reshape(length, batch_size * heads, width)
    of_keys = query_first @ relative_LLW.mT
    scores = scores + of_keys.view(length, batch_size, heads, length).permute(1, 2, 0, 3)
    scores = scores * width**-0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    shares = drop(scores.softmax(dim=-1), dropout)
    query_first = shares.permute(2, 0, 1, 3).reshape(length, batch_size * heads, length)
    of_values = query_first @ relative_LLW
    return shares @ value + of_values.view(length, batch_size, heads, width).permute(1, 2, 0, 3)


if __name__ == "__main__":
    main()
