"""How a study's runs are made, resumed, and read."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
import yaml

from idbert.errors import ConfigError, DataError, suggestion
from idbert.files import digest_of, written_aside
from idbert.run_dir import MARKER, RunDir
from idbert.training.curve import name_in_curve
from pipelines.ablation_plan import SEED, Variant, merged
from pipelines.cli import UNFINISHED, Unfinished, logger
from pipelines.data_files import made_of_others

TABLE, CURVES = "table.csv", "curves.csv"
"""One row a finished run; one row an evaluation of it."""

NO_METRICS = ("epoch", "step", "loss", "learning_rate")
"""What a training curve holds beside the metrics of the validation part."""

LAST_LINES = 12
"""Of the log of a run that failed."""

LOOK_EVERY_S = 1.0
"""Between two looks at a run that may be stopped."""


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Attributes:
        variant: what is trained.
        seed: of the training.
        folder: of the run.
    """

    variant: Variant
    seed: int
    folder: Path

    @property
    def settings(self) -> Path:
        """The file of settings that the run was made with."""
        return self.folder.with_name(f"{self.folder.name}.yaml")

    @property
    def asked(self) -> Path:
        """The file of settings that the command is given; `settings` once it has made the run."""
        return self.folder.with_name(f"{self.folder.name}.asked.yaml")

    @property
    def log(self) -> Path:
        """What the command said."""
        return self.folder.with_name(f"{self.folder.name}.log")


def runs_of(variants: Sequence[Variant], seeds: Sequence[int], study: Path) -> list[Run]:
    """Return the runs of the variants, all variants with the first seed first."""
    return [
        Run(variant, seed, study / f"{variant.folder}-seed{seed}")
        for seed in seeds
        for variant in variants
    ]


def make_runs(pipeline: str, runs: Sequence[Run], metric: str | None) -> pd.DataFrame:
    """Make what is not made yet, and bring the study's tables up to date after every run.

    Args:
        pipeline: the command.
        runs: to make, all in one folder.
        metric: what is compared; None: the command's own.

    Returns:
        One row an evaluation: variant, seed, epoch, value, metric.

    Raises:
        DataError: a run failed, or measured no such metric.
        Unfinished: SIGTERM came; a training that was running has saved a checkpoint.
    """
    study = runs[0].folder.parent
    seconds = _known_seconds(study / TABLE)
    logger.info("%d of %d runs are made already", sum(map(is_made, runs)), len(runs))
    rows, curves, digest = [], [], cache(digest_of)
    for number, run in enumerate(runs, 1):
        name, is_new = (run.variant.name, run.seed), not is_made(run)
        if is_new:
            logger.info("run %d of %d: %s, reports to %s", number, len(runs), run.folder, run.log)
            begin = time.monotonic()
            make(pipeline, run)
            seconds[name] = time.monotonic() - begin
        elif made_of_others(RunDir(run.folder), digest):
            logger.warning(
                "run %s was trained on data that have changed since, and newer ones are not. "
                "Delete its folder to have it made anew.",
                run.folder,
            )
        curve = read_curve(run, metric)
        last = curve.iloc[-1]
        metric = str(last["metric"])
        if is_new:
            logger.info("%s %.4f after %g epochs", metric, last["value"], last["epoch"])
        curves.append(curve)
        result = {"epoch": last["epoch"], metric: last["value"], "seconds": seconds.get(name)}
        rows.append({"variant": name[0], "seed": name[1]} | result)
        write_csv(pd.DataFrame(rows), study / TABLE)
        write_csv(pd.concat(curves), study / CURVES)
    return pd.concat(curves, ignore_index=True)


def is_made(run: Run) -> bool:
    """Say whether an earlier call has made this very run, its report included."""
    made = RunDir(run.folder)
    if not (run.folder / MARKER).is_file() or not made.is_complete or not made.report.exists():
        return False
    return run.settings.is_file() and run.settings.read_text(encoding="utf-8") == _yaml(run)


def make(pipeline: str, run: Run, is_enough: Callable[[], bool] | None = None) -> None:
    """Train one run; an unfinished one goes on where it stopped.

    Args:
        pipeline: the command.
        run: what is trained.
        is_enough: asked every second, whether the run is to stop; None: it never is.

    Raises:
        ConfigError: the command refuses a setting.
        DataError: it failed otherwise.
        Unfinished: it was stopped, by `is_enough` too, where it was training with a checkpoint
            saved; or another process is at work in its folder.
    """
    with written_aside(run.asked) as aside:
        aside.write_text(_yaml(run), encoding="utf-8")
    arguments = ["--config", str(run.asked), "--run", str(run.folder)]
    status = start(pipeline, arguments, run.log, is_enough)
    if status in (UNFINISHED, -signal.SIGTERM):  # the latter before or after its training
        raise Unfinished(
            f"{run.folder.name} was stopped, or another process is at work in it: see {run.log}. "
            "The same command goes on from there."
        )
    if status:
        said = run.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        error = ConfigError if status == 2 else DataError
        raise error(
            f"{run.folder.name} failed. The end of {run.log}:\n"
            + "\n".join(f"  {line}" for line in said)
            + "\nMend the settings and give the same command again; finished runs are not repeated."
        )
    run.asked.replace(run.settings)


def start(
    pipeline: str,
    arguments: Sequence[str],
    log: Path,
    is_enough: Callable[[], bool] | None = None,
) -> int:
    """Run a command in a process of its own, and return its exit status.

    SIGTERM is handed on to it, so that it saves a checkpoint.

    Args:
        pipeline: the command.
        arguments: its arguments.
        log: what it says is added to this file.
        is_enough: asked every second, whether SIGTERM is to be sent; None: it never is.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", f"pipelines.{pipeline}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )

        def hand_on(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        before = signal.signal(signal.SIGTERM, hand_on)
        try:
            while is_enough is not None and not _ends_within(process, LOOK_EVERY_S):
                if is_enough():
                    process.terminate()
                    break
            return process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal has interrupted it too
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def read_curve(run: Run, metric: str | None) -> pd.DataFrame:
    """Return the metric of a finished run by epoch.

    Raises:
        DataError: the run measured no such metric.
    """
    made = RunDir(run.folder)
    points = made.read_json("curve.json")
    names = list(dict.fromkeys(name for point in points for name in point))
    measured = [name for name in names if name not in NO_METRICS]
    if metric is None:
        metric = made.read_config()["training"].get("metric") or next(iter(measured), None)
    metric = name_in_curve(str(metric))
    if metric not in measured:
        shown = ", ".join(measured) or "nothing: it has no validation part"
        raise DataError(
            f"{run.folder} did not measure '{metric}'.{suggestion(metric, measured)} "
            f"It measured {shown}."
        )
    return pd.DataFrame(
        [
            {
                "variant": run.variant.name,
                "seed": run.seed,
                "epoch": point["epoch"],
                "metric": metric,
                "value": point[metric],
            }
            for point in points
            if metric in point
        ]
    )


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all."""
    with written_aside(path) as aside:
        table.to_csv(aside, index=False)


def _known_seconds(path: Path) -> dict[tuple[str, int], float]:
    """Return the durations that an earlier call has noted."""
    if not path.is_file():
        return {}
    table = pd.read_csv(path).dropna(subset=["seconds"])
    keys = zip(table["variant"], table["seed"], strict=True)
    return dict(zip(keys, table["seconds"].tolist(), strict=True))


def _yaml(run: Run) -> str:
    values: dict[str, Any] = merged(run.variant.settings, {SEED: run.seed})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
