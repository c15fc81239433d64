"""Parts that are found by name: a fusion, a block, a loss is one class and one registration."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from idbert.errors import ConfigError, UnknownPartError, suggestion

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of classes by name, open to classes from outside the package.

    Args:
        noun: What the table holds, in the singular; named in errors ("fusion").

    Example:
        >>> FUSIONS: Registry[type[LayerFusion]] = Registry("fusion")
        >>> @FUSIONS.register("last")
        ... class LastLayer(LayerFusion): ...
        >>> FUSIONS["last"](num_states=3, hidden_size=64)
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters what it decorates as `name`.

        Raises:
            ConfigError: `name` is taken by another entry. One of the same module and name is
                replaced: the cell of a notebook was run again.
        """

        def enter(entry: T) -> T:
            taken = self._entries.get(name, entry)
            if taken is not entry and not _is_same_definition(taken, entry):
                raise ConfigError(
                    f"The {self.noun} '{name}' is registered already, as {taken!r}. "
                    "Register yours under another name."
                )
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        """Return the entry called `name`.

        Raises:
            UnknownPartError: there is none; the text names the nearest and all.
        """
        if name not in self._entries:
            raise UnknownPartError(
                f"There is no {self.noun} '{name}'.{suggestion(name, self)} "
                f"Choose from: {', '.join(self)}."
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def _is_same_definition(one: object, other: object) -> bool:
    """Say whether two classes stand at one place of one module."""
    if not (isinstance(one, type) and isinstance(other, type)):
        return False
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
