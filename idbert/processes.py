"""The processes that torchrun starts for one command: one of them writes, and all of them agree.

A command that is started by hand is one process, which is the writer; then nothing here waits.
What processes tell each other is JSON over gloo, whatever their gradients travel by, so that a
process that waits for another learns at once when that one is gone.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from idbert import errors
from idbert.errors import ConfigError, DataError, IdbertError

Value = TypeVar("Value")

PATIENCE = timedelta(days=1)
"""How long a process waits for one that is alive: the writer may evaluate for hours."""

_SPOKEN = f"idbert/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/spoken"
"""Key of what was said; torchrun may start the processes anew with the store of the last ones."""

_LOST_WORDS = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "peer")


@dataclass
class _Joined:
    """What the processes have in common."""

    store: Any  # of keys; None where somebody else has made the group
    control: Any  # a group of processes that talk by gloo


_joined: _Joined | None = None

_parted: list[Any] = []
"""The groups that were parted from, kept until Python ends."""


def process_rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def num_processes() -> int:
    """Return how many processes run this command."""
    return int(os.environ.get("WORLD_SIZE", 1))


def num_processes_here() -> int:
    """Return how many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", num_processes()))


def is_writer() -> bool:
    """Say whether this is the process that writes files and shows the progress."""
    return process_rank() == 0


def join() -> None:
    """Meet the other processes, if there are any; a second call does nothing.

    Raises:
        ConfigError: the environment names several processes and not where they meet.
    """
    global _joined
    if _joined is not None or num_processes() == 1:
        return
    if dist.is_initialized():
        _joined = _Joined(None, dist.new_group(backend="gloo", timeout=PATIENCE))
        return
    try:
        store, rank, size = next(rendezvous("env://"))
    except ValueError as error:
        raise ConfigError(
            f"WORLD_SIZE is {num_processes()}, and the processes cannot meet: {error}. Start them "
            "by torchrun, or unset WORLD_SIZE."
        ) from None
    with_gpu = torch.cuda.is_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if with_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    control = dist.new_group(backend="gloo", timeout=PATIENCE) if with_gpu else dist.group.WORLD
    _joined = _Joined(store, control)


def leave() -> None:
    """Part from the other processes: from here on nobody waits for anybody."""
    if _joined is not None and dist.is_initialized():
        # A group whose last reference goes waits for its thread without letting go of Python's
        # lock, and the thread may need that lock to let go of its last tensor: neither goes on.
        _parted.extend([_joined.control, dist.group.WORLD])
        _joined.control = None
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """Return the rank of this process and the number of those that are together: (0, 1) alone."""
    return (process_rank(), num_processes()) if _together() else (0, 1)


def wait() -> None:
    """Go on when all processes have come here."""
    if _together():
        dist.barrier(group=_control())


@contextmanager
def writer_first() -> Iterator[None]:
    """Let the writer go through the block alone, then the others; for files that it may make."""
    if not is_writer():
        wait()
    try:
        yield
    finally:
        if is_writer():
            wait()


def by_writer(work: Callable[[], Value]) -> Value:
    """Let the writer work; all processes return what it returned, or raise what it raised.

    Args:
        work: Returns what JSON can hold.
    """
    if not _together():
        return work()
    if not is_writer():
        answer = _receive()
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        value: Value = answer["value"]
        return value
    try:
        made = work()
    except IdbertError as error:
        _send({"error": type(error).__name__, "message": str(error)})
        raise
    _send({"value": made})
    return made


def any_of(flag: bool) -> bool:
    """Say whether the flag is set in any process."""
    if not _together():
        return flag
    together = torch.tensor(int(flag))
    dist.all_reduce(together, op=dist.ReduceOp.MAX, group=_control())
    return bool(together)


def summed(tensor: Tensor) -> Tensor:
    """Add up a tensor over the processes, in place; it has the same shape in all of them.

    Where only one process has other numbers than 0 in a place, these come out bit for bit.
    """
    if _together():
        dist.all_reduce(tensor)
    return tensor


def check_agreement(facts: Mapping[str, str]) -> None:
    """Check that all processes are about to do the same.

    Args:
        facts: By name; the same names in all processes.

    Raises:
        DataError: a fact differs; the message names it and the ranks.
    """
    if not _together():
        return
    of_ranks = _gathered(dict(facts))
    found = []
    for name in facts:
        ranks: dict[str, list[int]] = {}
        for rank, theirs in enumerate(of_ranks):
            ranks.setdefault(str(theirs.get(name)), []).append(rank)
        if len(ranks) > 1:
            shown = "; ".join(f"{value} in {_named(of)}" for value, of in ranks.items())
            found.append(f"{name} is {shown}")
    if found:
        raise DataError(
            f"The {num_processes()} processes do not agree ({len(found)} differences): "
            f"{' | '.join(found[:5])}. Give all of them the same command, files and version of "
            "idbert; nothing was trained."
        )


def seed_of_process(seed: int, *more: int) -> int:
    """Return a seed that each process has for itself; that of one process alone is unchanged."""
    if num_processes() == 1 and not more:
        return seed
    return int(np.random.SeedSequence([seed, process_rank(), *more]).generate_state(1)[0])


def is_first_to_say(message: str) -> bool:
    """Say whether no other process has said the same, so that the user reads it once."""
    if num_processes() == 1:
        return True
    if _joined is None or _joined.store is None:
        return is_writer()
    try:
        _joined.store.add(_SPOKEN, 1)
        digest = hashlib.sha256(message.encode()).hexdigest()
        return bool(_joined.store.add(f"{_SPOKEN}/{digest}", 1) == 1)
    except RuntimeError:  # the process that kept the store is gone
        return True


def has_anybody_spoken() -> bool:
    """Say whether any process has already said why the command ends."""
    if _joined is None or _joined.store is None:
        return False
    try:
        return bool(_joined.store.add(_SPOKEN, 0) > 0)
    except RuntimeError:
        return False


def is_loss_of_process(error: BaseException) -> bool:
    """Say whether an error means that another process is gone."""
    if num_processes() == 1 or not isinstance(error, RuntimeError):
        return False
    words = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in words for word in _LOST_WORDS)


def _together() -> bool:
    return _joined is not None and _joined.control is not None


def _control() -> Any:
    assert _joined is not None
    return _joined.control


def _send(value: Any) -> None:
    raw = _as_bytes(value)
    dist.broadcast(torch.tensor(len(raw)), src=0, group=_control())
    dist.broadcast(raw, src=0, group=_control())


def _receive() -> Any:
    size = torch.tensor(0)
    dist.broadcast(size, src=0, group=_control())
    raw = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(raw, src=0, group=_control())
    return json.loads(bytes(raw.tolist()))


def _gathered(value: Any) -> list[Any]:
    """Return the value of every process; they travel at the length of the longest."""
    raw = _as_bytes(value)
    longest = torch.tensor(len(raw))
    dist.all_reduce(longest, op=dist.ReduceOp.MAX, group=_control())
    padded = torch.full((int(longest),), ord(" "), dtype=torch.uint8)
    padded[: len(raw)] = raw
    received = [torch.empty_like(padded) for _ in range(num_processes())]
    dist.all_gather(received, padded, group=_control())
    return [json.loads(bytes(theirs.tolist())) for theirs in received]


def _as_bytes(value: Any) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def _named(ranks: list[int]) -> str:
    more = f" and {len(ranks) - 5} more" if len(ranks) > 5 else ""
    shown = ", ".join(str(rank) for rank in ranks[:5])
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {shown}{more}"
