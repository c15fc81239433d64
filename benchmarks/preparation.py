"""From parquet to training-ready: how long, and in how much memory, beside DuckDB and the peers?

    python -m benchmarks.preparation --peers PEERS --write
    python -m benchmarks.preparation --log LOG --work WORK --peers PEERS --write

Without --log one of --rows interactions is drawn first (benchmarks.power_law_log). Each library
works in a process of its own, one after another, in as many passes as asked; a pass in which other
processes used 6% of the machine or more does not count as long as there is another. The yardstick
is DuckDB's bare sort of the same table by user and time, in the same passes. Seconds are without
the imports; peak memory is the process's, with and without what it held after its imports. idbert
holds out two events a user, writes and syncs its files, and checks their digests on opening;
RecBole holds out as many and makes a training sample of each prefix, as it ships; RecTools holds
out none.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.peers import python_of
from benchmarks.power_law_log import LogOptions, write_log
from benchmarks.quiet import in_turn, quiet_ones

WORK = Path(__file__).with_name("preparation_work.py")
BARE = "DuckDB, bare sort"
LIBRARIES = {BARE: "duckdb", "idbert": "idbert", "RecBole": "recbole", "RecTools": "rectools"}
OWN = ("duckdb", "idbert")


def measure(library: str, options: argparse.Namespace) -> dict[str, Any] | str:
    """Run one library's preparation in a new process; return its figures, or why there are none."""
    python = Path(sys.executable) if library in OWN else python_of(options.peers, library)
    if not python.exists():
        return f"left out: {python.relative_to(options.peers.absolute())} is not there"
    folder = options.work / f"{library}-work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [str(python), str(WORK), library, "--log", str(options.log), "--folder", str(folder)]
    command += ["--memory_limit", options.memory_limit, "--max_length", str(options.max_length)]
    paths = {"PYTHONPATH": str(WORK.parents[1])} if library == "idbert" else {}
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | paths,
            timeout=options.patience,
        )
    except subprocess.TimeoutExpired:
        return f"failed: not done after {options.patience:,.0f} s"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"step"')]
    imports, steps = lines[:1], lines[1:]
    if ended.returncode:
        words = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        done = ", ".join(f"{line['step']} {line['seconds']:.1f} s" for line in steps)
        return f"failed after {done or 'nothing'}: {words[-1]}"
    return {
        "seconds": sum(line["seconds"] for line in steps),
        "cpu_seconds": sum(line["cpu_seconds"] for line in steps),
        "peak_mib": max(line["peak_mib"] for line in lines),
        "imports_mib": max(line["peak_mib"] for line in imports),
        "steps": {line["step"]: line["seconds"] for line in steps},
    }


def add_log(parser: argparse.ArgumentParser) -> None:
    """Let a command line name the log, or how large a one to draw."""
    parser.add_argument("--log", type=Path, help="folder of parquet files; default: one is drawn")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the log that is drawn")
    parser.add_argument("--work", type=Path, help="folder for what is written; default: temporary")
    parser.add_argument("--memory_limit", default="2GB", help="of DuckDB, bare and inside idbert")
    parser.add_argument("--max_length", type=int, default=50, help="of a sequence")
    parser.add_argument("--patience", type=float, default=5400.0, help="seconds for one library")


def open_log(options: argparse.Namespace, stack: ExitStack) -> None:
    """Put a folder into `options.work`, and a log into `options.log` where none is named."""
    if options.work is None:
        options.work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    if options.log is None:
        options.log = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.work)))
        for _ in write_log(LogOptions(rows=options.rows), options.log):
            pass


def forms_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what measures each library; the peers only where their folder is given."""
    return {
        name: partial(measure, library, options)
        for name, library in LIBRARIES.items()
        if library in OWN or options.peers
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure all libraries in turn and publish the table."""
    parser = report.new_parser(__doc__)
    add_log(parser)
    parser.add_argument("--peers", type=Path, help="a folder with venvs/")
    options = report.parse(parser, arguments, rows=5000, passes=1)
    size = "" if options.log else f"{options.rows:,} interactions"
    with ExitStack() as stack:
        open_log(options, stack)
        measured, failures = in_turn(forms_of(options), options.passes, options.wait)
    used = {who: quiet_ones(passes) for who, passes in measured.items()}
    seconds = {who: [one["seconds"] for one in passes] for who, passes in used.items()}
    header = ["", "seconds", "times the bare sort", "CPU seconds", "peak MiB"]
    header += ["peak MiB above imports", "foreign"]
    rows = []
    for who, passes in used.items():
        bare = seconds.get(BARE, [])
        row = [who, report.spread(seconds[who], ".2f"), report.times(seconds[who], bare)]
        row.append(report.spread([one["cpu_seconds"] for one in passes], ".2f"))
        row.append(report.spread([one["peak_mib"] for one in passes]))
        row.append(report.spread([one["peak_mib"] - one["imports_mib"] for one in passes]))
        rows.append([*row, report.foreign(measured[who])])
    rows += [report.failed_row(who, why, len(header)) for who, why in failures.items()]
    title = f"Preparation of {size or options.log.name}"
    steps = {who: passes[0]["steps"] for who, passes in used.items()}
    notes = [
        f"DuckDB's memory limit {options.memory_limit}, sequences of up to {options.max_length}; "
        "median of the quiet passes, in brackets the least and the most.",
        *(
            f"{who}: " + ", ".join(f"{step} {value:.2f} s" for step, value in found.items())
            for who, found in steps.items()
        ),
    ]
    finished = report.Report(
        report.section_name("preparation", size or options.log.name),
        title,
        report.markdown(header, rows),
        notes,
        report.bars(title, seconds, "seconds"),
    )
    report.publish(finished, "preparation", options)
    report.check_own(failures)


if __name__ == "__main__":
    main()
