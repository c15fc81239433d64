"""From parquet to training-ready: how long, and in how much memory, beside DuckDB and the peers?

    python -m benchmarks.power_law_log --rows 10000000 --output LOG
    python -m benchmarks.preparation --log LOG --work WORK --peers PEERS --json preparation.json

Each library works in a process of its own, one after another, in as many rounds as asked; of the
rounds the least seconds count. The yardstick is DuckDB's bare sort of the same table by user and
time, in the same rounds. PEERS holds a virtual environment a peer (recbole, rectools), made by
the lists of requirements; one that is not there is skipped with a line. Seconds are without the
imports; peak memory is the process's, with and without what it held after its imports. idbert
holds out two events a user, writes and syncs its files, and checks their digests on opening;
RecBole holds out as many and makes a training sample of each prefix, as it ships; RecTools holds
out none.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from idbert.files import written_aside

WORK = Path(__file__).with_name("preparation_work.py")
PEERS = ("recbole", "rectools")


@dataclass(frozen=True)
class Measured:
    """What one process took.

    Attributes:
        library: whose work.
        seconds: without imports.
        cpu_seconds: likewise, of all its threads.
        peak_mib: of the process.
        import_mib: of that, its peak after the imports.
        steps: the seconds of each step.
        failure: the last line that it wrote on stderr, if it ended early; figures are then those of
            the steps that it finished.
    """

    library: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    import_mib: float
    steps: dict[str, float]
    failure: str = ""


def measure(library: str, python: str, given: argparse.Namespace) -> Measured:
    """Run one library's preparation in a new process."""
    folder = given.work / f"{library}-work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [python, str(WORK), library, "--log", str(given.log), "--folder", str(folder)]
    command += ["--memory_limit", given.memory_limit, "--max_length", str(given.max_length)]
    root = str(Path(__file__).parent.parent)
    paths = {"PYTHONPATH": root} if library == "idbert" else {}
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | paths, check=False
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"step"')]
    imports, steps = lines[:1], lines[1:]
    failure = ""
    if ended.returncode:
        words = ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"]
        failure = words[-1]
    return Measured(
        library,
        sum(line["seconds"] for line in steps),
        sum(line["cpu_seconds"] for line in steps),
        max((line["peak_mib"] for line in lines), default=0.0),
        max((line["peak_mib"] for line in imports), default=0.0),
        {line["step"]: line["seconds"] for line in steps},
        failure,
    )


def pythons(peers: Path | None) -> dict[str, str]:
    """Return the Python of each library that can be measured; say which cannot."""
    found = {"duckdb": sys.executable, "idbert": sys.executable}
    for name in PEERS:
        python = peers / name / "bin" / "python" if peers else None
        if python is not None and python.exists():
            found[name] = str(python)
        else:
            print(f"{name}: skipped, there is no {python or 'folder --peers'}", file=sys.stderr)
    return found


def best_of(rounds: list[Measured]) -> Measured:
    """Return the round with the least seconds; one that failed only if none did not."""
    whole = [measured for measured in rounds if not measured.failure]
    return min(whole or rounds, key=lambda measured: measured.seconds)


def as_markdown(best: dict[str, Measured]) -> str:
    """Return the table: seconds and memory, and how many times the bare sort's seconds."""
    bare = best["duckdb"]
    lines = [
        "| | seconds | CPU seconds | times the bare sort | peak MiB | peak above imports, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in best.items():
        label = "DuckDB, bare sort" if name == "duckdb" else name
        if one.failure:
            done = ", ".join(one.steps) or "nothing"
            label += f" (failed after: {done})"
        lines.append(
            f"| {label} | {one.seconds:.2f} | {one.cpu_seconds:.2f} | "
            f"{one.seconds / bare.seconds:.2f} | {one.peak_mib:,.0f} | "
            f"{one.peak_mib - one.import_mib:,.0f} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", type=Path, required=True, help="folder of parquet files")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--peers", type=Path, help="folder of the peers' virtual environments")
    parser.add_argument("--rounds", type=int, default=2, help="passes over all libraries")
    parser.add_argument("--memory_limit", default="2GB", help="of DuckDB, bare and inside idbert")
    parser.add_argument("--max_length", type=int, default=50, help="of a sequence")
    parser.add_argument("--json", type=Path, help="file for all rounds")
    return parser.parse_args()


def main() -> None:
    """Measure all libraries in turn and print the table."""
    given = parse()
    found = pythons(given.peers)
    rounds: dict[str, list[Measured]] = {name: [] for name in found}
    for number in range(given.rounds):
        for name, python in found.items():
            measured = measure(name, python, given)
            rounds[name].append(measured)
            print(f"round {number + 1}, {name}: {measured.seconds:.2f} s {measured.failure}")
    best = {name: best_of(several) for name, several in rounds.items()}
    print(f"\n{as_markdown(best)}")
    if given.json is not None:
        report: dict[str, Any] = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "log": given.log.name,
            "rounds": {name: [asdict(one) for one in several] for name, several in rounds.items()},
        }
        with written_aside(given.json) as aside:
            aside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    failed = [name for name in ("duckdb", "idbert") if best[name].failure]
    if failed:
        raise SystemExit(f"{failed[0]} failed: {best[failed[0]].failure}")


if __name__ == "__main__":
    main()
