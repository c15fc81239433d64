"""The errors that idbert raises: each says what was wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class IdbertError(Exception):
    """Base of all errors that a user of idbert can cause and mend."""


class ConfigError(IdbertError):
    """A setting is unknown, out of range, or cannot act together with another."""


class UnknownPartError(ConfigError):
    """No fusion, block, loss or other part is registered under a name."""


class DataError(IdbertError):
    """A table, file or list of ids does not hold what it must."""


class ShapeError(IdbertError):
    """A tensor's shape does not fit the module that receives it."""


class CheckpointError(IdbertError):
    """A saved model, index, run or training state is missing, incomplete or of another kind."""


class BusyError(IdbertError):
    """Another process is at work in a folder."""


class TrainingError(IdbertError):
    """A training cannot go on: its loss is no longer a number."""


class MissingExtraError(IdbertError):
    """An optional package is needed and not installed."""


def suggestion(name: str, choices: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the choice nearest to `name`, or "" if none is near."""
    near = difflib.get_close_matches(name, list(choices), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
