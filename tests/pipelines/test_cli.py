"""Settings from files and the command line, and what is said when one is wrong."""

from dataclasses import dataclass, field

import pytest

from idbert.errors import ConfigError
from pipelines.cli import build_parser, parse_settings


@dataclass(frozen=True)
class Inner:
    """Inner settings."""

    width: int = 4
    """How wide."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width is {self.width}; it must be at least 1.")


@dataclass(frozen=True)
class Settings:
    """Settings of a command."""

    rate: float = 0.1
    """How fast."""
    inner: Inner = field(default_factory=Inner)
    """What is inside"""


def command(config: Settings) -> None:
    """Do something worth a help text."""


def parse(*arguments: str) -> Settings:
    return parse_settings(Settings, command, list(arguments))


def test_an_override_on_the_command_line_wins_over_the_file(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("rate: 1e-4\ninner:\n  width: 8\n")
    settings = parse("--config", str(recipe), "--inner.width", "9")
    assert settings == Settings(rate=1e-4, inner=Inner(width=9))


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match=r"inner\.wdth.*Did you mean 'inner\.width'\?.*--help"):
        parse("--inner.wdth", "3")


def test_an_unknown_key_in_a_file_is_refused(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("inner:\n  wdth: 8\n")
    with pytest.raises(ConfigError, match="'inner' does not accept option 'wdth'"):
        parse("--config", str(recipe))


def test_a_value_of_the_wrong_type_is_refused():
    with pytest.raises(ConfigError, match=r'"inner\.width".*int.*wide'):
        parse("--inner.width", "wide")


def test_a_value_out_of_range_keeps_its_own_words():
    with pytest.raises(ConfigError, match="width is 0; it must be at least 1"):
        parse("--inner.width", "0")


def test_a_missing_recipe_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        parse("--config", "nowhere.yaml")


def test_the_help_text_holds_the_words_beside_each_field():
    text = build_parser(Settings, command).format_help()
    assert "Do something worth a help text" in text
    assert "How wide." in text and "default: 4" in text
