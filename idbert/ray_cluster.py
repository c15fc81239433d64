"""Ray, which spreads work over the machines of a cluster; its failures in our words.

The only file that imports Ray. What is spread is functions of this package: Ray moves data and
calls them, and what they do is what they do on one machine.
"""

import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from idbert.errors import ConfigError, DataError, IdbertError, MissingExtraError

CPUS_A_TASK = 1
"""CPUs that a task asks Ray for, and the threads that it uses."""


@dataclass(frozen=True)
class RaySettings:
    """Which Ray does the work."""

    address: str | None = None
    """A cluster: auto (the one that this machine belongs to) or HOST:PORT. Default: that of the
    variable RAY_ADDRESS; without it a Ray on this machine, which ends with the command."""

    cpus: int | None = None
    """CPUs of this machine's own Ray. Default: all; on a cluster it cannot act."""

    def __post_init__(self) -> None:
        if self.cpus is not None and self.cpus < 1:
            raise ConfigError(f"ray.cpus is {self.cpus}; it must be at least 1.")
        if self.cpus is not None and self.address is not None:
            raise ConfigError(
                f"ray.cpus is for a Ray on this machine alone, and ray.address={self.address} is a "
                "cluster. Leave one of them out."
            )


@contextmanager
def cluster(settings: RaySettings) -> Iterator[ModuleType]:
    """Yield Ray, connected; what fails inside the block is one error in our words.

    A Ray that this process is connected to already is used, and stays.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: there is no cluster at the address, or Ray cannot start.
        DataError: a worker died, or its memory did not suffice.
    """
    ray = _ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, settings)
    try:
        with _in_our_words(ray), _quiet(ray):
            yield ray
    finally:
        if is_ours:
            ray.shutdown()


def check_shared(ray: ModuleType, files: Sequence[Path], folder: Path) -> None:
    """Check that every machine of the cluster sees the same files as this one.

    Args:
        ray: connected.
        files: what is to be read, by absolute paths.
        folder: where workers are to write, an absolute path; made if absent.

    Raises:
        ConfigError: a machine does not see a file, or another folder under that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token, text = folder / ".seen-by-all", secrets.token_hex(8)
    token.write_text(text)
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    look = ray.remote(num_cpus=0)(_unseen)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and "CPU" in node["Resources"]]
        answers = [
            look.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(
                files, token, text
            )
            for node in nodes
        ]
        for node, unseen in zip(nodes, ray.get(answers), strict=True):
            if unseen:
                raise ConfigError(
                    f"machine {node['NodeManagerAddress']} of the Ray cluster does not see "
                    f"{len(unseen)} of {len(files) + 1} paths that this machine sees, the first is "
                    f"{unseen[0]}. Put the data and the run's folder where all machines see them "
                    "under the same path (a network file system), or work without --engine ray."
                )
    finally:
        token.unlink()


def in_workers(paths: Iterable[str | Path]) -> list[Path]:
    """Return paths as workers find them, whose working folder is another."""
    return [Path(path).expanduser().resolve() for path in paths]


def _unseen(files: Sequence[Path], token: Path, text: str) -> list[str]:
    """Return which paths this machine does not see; runs on every machine."""
    unseen = [str(file) for file in files if not file.exists()]
    is_same = token.exists() and token.read_text() == text
    return unseen if is_same else [*unseen, str(token.parent)]


def _ray() -> ModuleType:
    """Import Ray, or say what to install."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise MissingExtraError(
            "Ray is not installed, which --engine ray needs. Run pip install 'idbert[ray]', or "
            "leave --engine out: one machine makes the same files."
        ) from error
    module: ModuleType = ray
    return module


def _connect(ray: ModuleType, settings: RaySettings) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address=settings.address,
            num_cpus=settings.cpus,
            include_dashboard=None if _is_cluster(settings) else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises plain exceptions here
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        place = settings.address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise ConfigError(
            f"Ray does not start or answer at {place}: {first}. Check --ray.address (and the "
            "variable RAY_ADDRESS), or leave --engine out."
        ) from error


def _is_cluster(settings: RaySettings) -> bool:
    return settings.address is not None or "RAY_ADDRESS" in os.environ


@contextmanager
def _quiet(ray: ModuleType) -> Iterator[None]:
    """Leave out Ray's own bars and reports, and let a worker's error arrive as it was raised."""
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "raise_original_map_exception": True,
    }
    before, level = {name: getattr(context, name) for name in wanted}, log.level
    log.setLevel(logging.CRITICAL)
    for name, value in wanted.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


@contextmanager
def _in_our_words(ray: ModuleType) -> Iterator[None]:
    """Raise an error of ours that a worker raised as it was; say of others what can be done."""
    try:
        yield
    except IdbertError as error:
        if not isinstance(error, ray.exceptions.RayError):
            raise
        raise _ours_in(error) or error from None
    except ray.exceptions.RayError as error:
        ours = _ours_in(error)
        if ours is not None:
            raise ours from None
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # a failure that nobody foresaw, with the worker's traceback
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"Ray could not finish: {first}. A worker was killed or ran out of memory; give it "
            "smaller blocks or parts, or fewer workers a machine. The same command goes on where "
            "it was."
        ) from error


def _ours_in(error: BaseException | None) -> IdbertError | None:
    """Return the error of ours behind what Ray has made of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, IdbertError) and not hasattr(error, "cause"):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None
