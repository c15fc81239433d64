"""The options of a part: what a fusion, block, pooling, head or loss can be told beside its name.

A part is one class in one file, found by name, and its options stand in it:

    @POOLINGS.register("power_mean")
    class PowerMean(Pooling):
        @dataclass(frozen=True)
        class Options(NoOptions):
            exponent: float = 2.0

Settings and configs hold them as plain values, `{"exponent": 3.0}`, which `read_options` turns into
that class: an unknown name or a wrong type is one clear error, whoever wrote the part.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_type_hints

from huggingface_hub.dataclasses import type_validator

from idbert.errors import ConfigError, suggestion


@dataclass(frozen=True)
class NoOptions:
    """The base of all options: none."""


OptionsT = TypeVar("OptionsT", bound=NoOptions)


def read_options(
    part: str, options_class: type[OptionsT], given: Mapping[str, Any] | None
) -> OptionsT:
    """Turn plain values into the options of a part.

    Args:
        part: Noun and name for messages: "pooling 'mean'".
        options_class: A frozen dataclass; ranges are checked in its `__post_init__`.
        given: Values by name; lists, as YAML and JSON hold them, stand for tuples.

    Raises:
        ConfigError: an option is unknown, of the wrong type or out of range.
    """
    types = get_type_hints(options_class)
    known = [field.name for field in fields(options_class)]
    values = {}
    for name, value in (given or {}).items():
        if name not in known:
            has = f"Its options: {', '.join(known)}." if known else "It has none."
            raise ConfigError(f"The {part} has no option '{name}'.{suggestion(name, known)} {has}")
        if isinstance(value, list):
            value = tuple(value)
        elif type(value) is int and types[name] is float:
            value = float(value)
        try:
            type_validator(name, value, types[name])
        except TypeError as error:
            raise ConfigError(f"The {part}: {' '.join(str(error).split())}.") from None
        values[name] = value
    return options_class(**values)
