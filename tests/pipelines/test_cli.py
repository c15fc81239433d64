"""Settings from files and the command line, and what is said when one is wrong."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from idbert.errors import CheckpointError, ConfigError, DataError
from pipelines import cli
from pipelines.cli import Unfinished, build_parser, parse_settings, run_command
from pipelines.rec_index import RecIndexSettings
from pipelines.rec_index import main as rec_index
from pipelines.rec_pretrain import RecPretrainSettings
from pipelines.rec_pretrain import main as rec_pretrain


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


def test_the_nearest_option_is_never_a_group_of_settings():
    with pytest.raises(ConfigError, match="unrecognized arguments: --inner2 3") as refused:
        parse("--inner2", "3")
    assert "Did you mean 'inner'" not in str(refused.value)


def test_a_group_of_settings_given_as_one_is_answered_with_the_settings_in_it():
    with pytest.raises(
        ConfigError,
        match=r"--inner is no setting, but a group of them, and 'wide' no YAML file\. Give a file "
        r"of these settings, or one of them: --inner\.width\. `.*--help`",
    ):
        parse("--inner", "wide")


def test_a_config_that_is_no_yaml_is_not_printed_whole(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\n" + "1,2,3\n" * 10_000)
    with pytest.raises(ConfigError, match="--config must name a YAML file of settings") as refused:
        parse("--config", str(log))
    assert len(str(refused.value)) < 1_300


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


@pytest.fixture
def status_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command that ends with an exception, and return the exit status."""

    def run(ending: BaseException) -> int:
        def body(config: Settings) -> None:
            raise ending

        with pytest.raises(SystemExit) as stopped:
            run_command(body, Settings)
        return int(stopped.value.code or 0)

    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(cli, "_log_to_stderr", lambda: None)
    return run


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        (ConfigError("rate is 0."), 2, "ConfigError: rate is 0.\n"),
        (DataError("log.csv is empty."), 1, "DataError: log.csv is empty.\n"),
        (CheckpointError("no run at a."), 1, "CheckpointError: no run at a.\n"),
        (
            PermissionError(13, "Permission denied", "a/b"),
            1,
            "PermissionError: a/b: Permission denied. Name another place, or mend this one.\n",
        ),
        (Unfinished("Stopped by SIGTERM."), 143, "Stopped by SIGTERM.\n"),
        (KeyboardInterrupt(), 130, "Interrupted. A training goes on from its last checkpoint"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_expected_end_is_one_message_and_a_status(status_of, capsys, ending, status, said):
    assert status_of(ending) == status
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("bug", [ValueError("odd"), OSError("odd")], ids=["ValueError", "OSError"])
def test_a_defect_of_ours_keeps_its_traceback(status_of, bug):
    with pytest.raises(type(bug), match="odd"):
        status_of(bug)


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(cli, "_log_to_stderr", lambda: None)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe, pytest.raises(SystemExit) as stopped:
        monkeypatch.setattr(sys, "stdout", pipe)
        run_command(lambda config: print("much"), Settings)
    assert stopped.value.code == 0


# Parts from outside the package

PLUGIN = """
from torch import Tensor

from idbert.nn.fusion import FUSIONS, LayerFusion


@FUSIONS.register("loudest")
class Loudest(LayerFusion):
    def forward(self, hidden_KBLD: tuple[Tensor, ...]) -> Tensor:
        return max(self._chosen(hidden_KBLD), key=lambda hidden_BLD: float(hidden_BLD.norm()))
"""


def test_a_plugin_is_imported_before_the_settings_name_its_part(tmp_path, monkeypatch):
    (tmp_path / "my_fusion.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["--model.fusion.name=loudest"]
    with pytest.raises(ConfigError, match="no fusion 'loudest'"):
        parse_settings(RecPretrainSettings, rec_pretrain, arguments)
    config = parse_settings(
        RecPretrainSettings, rec_pretrain, ["--plugins=[my_fusion]", *arguments]
    )
    assert config.model.fusion.name == "loudest" and config.plugins == ("my_fusion",)


def test_a_plugin_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="no module 'my_fusoin'"):
        parse_settings(RecPretrainSettings, rec_pretrain, ["--plugins=[my_fusoin]"])


def test_a_command_without_a_run_folder_of_its_own_takes_plugins_too():
    parse_settings(RecIndexSettings, rec_index, ["--run=runs/x", "--plugins=[json]"])
