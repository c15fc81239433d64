"""What every benchmark ends with: one table and one plot, with machine, versions and spread.

Printed, and with --write put into results.md between two markers, so that a repeated command
replaces its own table; the plot goes into plots/ beside it.
"""

import argparse
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib
import psutil
import torch
from matplotlib.figure import Figure

from benchmarks.quiet import is_quiet
from idbert.evaluation.charts import ACCENT, INK, QUIET, STYLE, WIDTH_IN, svg
from idbert.files import written_aside

RESULTS = Path(__file__).with_name("results.md")
PACKAGES = ("torch", "transformers", "numpy", "pyarrow", "duckdb", "faiss-cpu", "faiss-gpu")


@dataclass(frozen=True)
class Report:
    """One benchmark's section.

    Attributes:
        name: of the section and its plot: another work, another name.
        title: of the section.
        table: in markdown.
        notes: lines below it.
        plot: as SVG.
        device: cpu or cuda.
    """

    name: str
    title: str
    table: str
    notes: Sequence[str]
    plot: str
    device: str = "cpu"


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--passes", type=int, default=2, help="over everything, in turn")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="seconds, at most, for the machine to be quiet"
    )
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=RESULTS,
        help="put table and plot into this file (benchmarks/results.md), in place of the last ones",
    )
    parser.add_argument("--small", action="store_true", help="tiny data, to see that it runs")
    return parser


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, **small: Any
) -> argparse.Namespace:
    """Read a command line.

    Args:
        parser: of `new_parser`.
        arguments: None: those of the process.
        small: defaults that `--small` puts in place of the usual ones.

    Returns:
        The options, and as `given` the arguments that they were read from.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.small:
        parser.set_defaults(**small)
        options = parser.parse_args(given)
    if getattr(options, "device", "cpu") == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here.")
    options.given = given
    return options


def publish(report: Report, module: str, options: argparse.Namespace) -> None:
    """Print a report, and write it where the options say."""
    command = f"python -m benchmarks.{module} {shown(options.given)}".strip()
    lines = [f"### {report.title}", f"```bash\n{command}\n```", report.table]
    lines += ["\n".join(f"- {note}" for note in report.notes if note), machine(report.device)]
    text = "\n\n".join(line for line in lines if line)
    print(f"\n{text}")
    if options.write is None:
        return
    plot = options.write.parent / "plots" / f"{report.name}.svg"
    plot.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(plot) as aside:
        aside.write_text(report.plot, encoding="utf-8")
    link = f"![{report.title}](plots/{plot.name})"
    old = options.write.read_text(encoding="utf-8") if options.write.exists() else ""
    with written_aside(options.write) as aside:
        aside.write_text(replaced(old, report.name, f"{text}\n\n{link}"), encoding="utf-8")


def replaced(page: str, name: str, section: str) -> str:
    """Return a page with a section between the markers of its name; a new one comes last."""
    first, last = f"<!-- benchmark {name} -->", f"<!-- end of {name} -->"
    marked = f"{first}\n{section}\n{last}"
    before, found, rest = page.partition(first)
    if not found:
        return f"{page.rstrip()}\n\n{marked}\n".lstrip()
    _, ended, after = rest.partition(last)
    if not ended:
        raise SystemExit(f"the page holds '{first}' without '{last}'. Put it back, or take both.")
    return f"{before}{marked}{after}"


def shown(arguments: Sequence[str]) -> str:
    """Return arguments as anybody may give them, without --write.

    Of paths out of this repository the last name alone.
    """
    words: list[str] = []
    skips = False
    for word in arguments:
        if word.split("=")[0] == "--write":
            skips = "=" not in word
            continue
        if skips and not word.startswith("--"):
            continue
        skips = False
        option, equals, value = word.rpartition("=")
        is_elsewhere = Path(value).is_absolute() or ".." in Path(value).parts
        words.append(option + equals + (Path(value).name if is_elsewhere else value))
    return shlex.join(words)


def section_name(*parts: object) -> str:
    """Return the name of a section: small letters, digits and hyphens."""
    return "-".join(re.sub(r"[^a-z0-9.]+", "-", str(part).lower()).strip("-") for part in parts)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first column stands left, the others right."""
    lines = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def failed_row(name: str, reason: str, columns: int) -> list[str]:
    """Return the row of what could not be measured."""
    words = " ".join(reason.replace("|", "/").split())
    return [f"{name}: {words}", *[""] * (columns - 1)]


def spread(values: Sequence[float | None], form: str = ",.0f") -> str:
    """Return the median of the passes, and in brackets the least and the most."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    median, least, most = (
        format(value, form) for value in (statistics.median(known), min(known), max(known))
    )
    return median if least == most else f"{median} [{least}, {most}]"


def foreign(passes: Sequence[Mapping[str, Any]]) -> str:
    """Return the largest foreign load of the passes, and whether one of them was quiet."""
    known = [one["foreign"] for one in passes if one.get("foreign") is not None]
    if not known:
        return ""
    busy = "" if any(is_quiet(dict(one)) for one in passes) else ", no quiet pass"
    return f"{max(known):.0%}{busy}"


def times(values: Sequence[float], yardstick: Sequence[float]) -> str:
    """Return how many times the yardstick's median the values' median is."""
    if not yardstick:
        return ""
    return f"{statistics.median(values) / statistics.median(yardstick):.2f}"


def ratios(values: Mapping[str, Sequence[float]]) -> list[str]:
    """Say how many times as fast each form of idbert is as each of the others, by their medians."""
    medians = {name: statistics.median(found) for name, found in values.items()}
    mine = {name: median for name, median in medians.items() if name.startswith("idbert")}
    others = sorted(medians.keys() - mine.keys(), key=lambda name: -medians[name])
    return [
        f"{name}: " + ", ".join(f"{median / medians[other]:.1f} times {other}" for other in others)
        for name, median in mine.items()
        if others
    ]


def versions_of(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Say which versions the others had, as far as their drivers tell."""
    found = {}
    for name, passes in measured.items():
        versions = {**passes[0].get("versions", {}), "torch": passes[0].get("torch")}
        if versions["torch"]:
            found[name] = ", ".join(f"{package} {number}" for package, number in versions.items())
    return "; ".join(f"{name}: {versions}" for name, versions in found.items())


def check_own(failures: Mapping[str, str]) -> None:
    """End with an error if idbert itself could not be measured."""
    own = [f"{name} {why}" for name, why in failures.items() if name.startswith("idbert")]
    if own:
        raise SystemExit("\n".join(own))


def bars(title: str, values: Mapping[str, Sequence[float]], unit: str) -> str:
    """Draw a bar a name, at the median, with the range of the passes; return the SVG."""
    names = list(values)
    medians = [statistics.median(values[name]) for name in names]
    ranges = [
        [middle - min(values[name]) for name, middle in zip(names, medians, strict=True)],
        [max(values[name]) - middle for name, middle in zip(names, medians, strict=True)],
    ]
    colors = [ACCENT if name.startswith("idbert") else QUIET for name in names]
    with matplotlib.rc_context(STYLE):
        size = (WIDTH_IN, 0.9 + 0.3 * len(names))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        drawn = axes.barh(names, medians, xerr=ranges, color=colors, ecolor=INK, height=0.6)
        axes.bar_label(drawn, fmt="{:,.4g}", padding=4)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0)
        axes.set_xlabel(unit)
        axes.set_title(title)
        axes.margins(x=0.12)
        return svg(figure)


def machine(device: str = "cpu") -> str:
    """Say what was measured on, with which versions."""
    cores = f"{os.cpu_count()} cores of {_processor()}"
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    versions = ", ".join(f"{name} {number}" for name, number in found.items())
    return f"Machine: {cores}, {memory}{gpu}; {versions}; {_commit()}."


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """Return the checkout's commit, and whether files differ from it."""
    git = ["git", "-C", str(RESULTS.parent)]
    try:
        number = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True)
        changes = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "../idbert"])
    except OSError:
        return "commit unknown"
    if number.returncode:
        return "commit unknown"
    changed = ", changed since" if changes.returncode else ""
    return f"commit {number.stdout.decode().strip()}{changed}"
