"""Options that the heads of several layers share."""

from dataclasses import dataclass

from idbert.errors import ConfigError
from idbert.nn.heads.head import build_activation
from idbert.nn.parts import NoOptions


@dataclass(frozen=True)
class LayersOptions(NoOptions):
    """Activation and dropout of the layers inside a head."""

    activation: str = "gelu"
    """Activation of the layers, by its name in transformers."""

    inner_dropout: float = 0.0
    """Dropout on what each layer writes."""

    def __post_init__(self) -> None:
        build_activation(self.activation)
        if not 0.0 <= self.inner_dropout < 1.0:
            raise ConfigError(
                f"inner_dropout of the head is {self.inner_dropout}; choose from 0 to below 1."
            )


def check_least(option: str, least: int, *values: int | None) -> None:
    """Check that no value of the option is below `least`; None stands for the default.

    Raises:
        ConfigError: one is.
    """
    for value in values:
        if value is not None and value < least:
            raise ConfigError(f"{option} of the head is {value}; it must be at least {least}.")
