"""The options of a part, from plain values."""

from dataclasses import dataclass

import pytest

from idbert.errors import ConfigError
from idbert.nn.parts import NoOptions, read_options


@dataclass(frozen=True)
class Options(NoOptions):
    layers: int = 2
    widths: tuple[int, ...] = (3,)
    share: float = 0.5
    name: str | None = None

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ConfigError(f"layers is {self.layers}; it must be at least 1.")


def read(**given) -> Options:
    return read_options("block 'x'", Options, given)


def test_options_come_from_plain_values_and_keep_their_defaults():
    assert read(widths=[2, 3], share=1) == Options(widths=(2, 3), share=1.0)
    assert type(read(share=1).share) is float
    assert read_options("block 'x'", Options, None) == Options()


def test_an_unknown_option_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match="block 'x' has no option 'layer'.*Did you mean 'layers'"):
        read(layer=3)
    with pytest.raises(ConfigError, match="It has none"):
        read_options("block 'x'", NoOptions, {"layers": 3})


@pytest.mark.parametrize(
    "given", [{"layers": "two"}, {"layers": 1.5}, {"widths": ["3"]}, {"share": "x"}, {"name": 3}]
)
def test_a_value_of_the_wrong_type_is_refused_by_name(given):
    with pytest.raises(ConfigError, match=f"block 'x'.*{next(iter(given))}"):
        read(**given)


def test_a_value_out_of_range_is_refused_by_the_options_themselves():
    with pytest.raises(ConfigError, match="layers is 0"):
        read(layers=0)
