"""Checks that the options of several blocks share."""

from idbert.errors import ConfigError


def check_counts(part: str, **counts: int | tuple[int, ...]) -> None:
    """Check that each number, or each of several, is at least 1.

    Raises:
        ConfigError: one is not, or a tuple is empty.
    """
    for name, count in counts.items():
        numbers = count if isinstance(count, tuple) else (count,)
        if not numbers or min(numbers) < 1:
            raise ConfigError(f"The {part} needs {name} of at least 1, not {count}.")


def check_dropout(part: str, **shares: float | int) -> None:
    """Check that each share lies in [0, 1).

    Raises:
        ConfigError: one does not.
    """
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"The {part} needs {name} from 0 to below 1, not {share}.")


def check_divisible(part: str, width: int, parts: int, what: str) -> None:
    """Check that a width can be divided evenly.

    Args:
        part: Noun and name for the message.
        width: Width to divide.
        parts: Into how many.
        what: What they are: "directions".

    Raises:
        ConfigError: it cannot.
    """
    if width % parts:
        raise ConfigError(
            f"The {part} divides its width among {parts} {what}, and {width} is no multiple of "
            f"{parts}. Choose another width."
        )
