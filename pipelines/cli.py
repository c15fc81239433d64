"""What every command shares: settings from YAML and the command line, logging, exit codes."""

import contextlib
import importlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from idbert.errors import ConfigError, IdbertError, UnknownPartError, suggestion
from idbert.run_dir import RunDir

Config = TypeVar("Config")

USAGE_ERROR, FAILURE, INTERRUPTED, UNFINISHED = 2, 1, 130, 143

PLUGINS = "plugins"
PLUGINS_HELP = "Modules to import first, because they register parts: '[my_package.my_block]'."

SPEAKERS = ("idbert", "nlp_tasks")
"""The packages whose progress is shown."""

logger = logging.getLogger("idbert")
"""Of the commands too: what they say is shown beside what the library says."""


def run_command(main: Callable[[Config], None], config_class: type[Config]) -> NoReturn:
    """Parse the settings, run `main`, and turn every foreseen failure into one clear message.

    Exit status: 0 done, 1 a failure that the message explains, 2 a setting is wrong, 130
    interrupted, 143 stopped by SIGTERM with a checkpoint to resume from.

    Args:
        main: The command's body; its docstring is the help text.
        config_class: A frozen dataclass of settings.
    """
    _log_to_stderr()
    try:
        main(parse_settings(config_class, main, sys.argv[1:]))
        sys.stdout.flush()
    except Unfinished as stopped:
        sys.exit(_say(str(stopped), UNFINISHED))
    except ConfigError as error:
        sys.exit(_say(f"ConfigError: {error}", USAGE_ERROR))
    except IdbertError as error:
        sys.exit(_say(f"{type(error).__name__}: {error}", FAILURE))
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise
        what = f"{error.filename}: {error.strerror}. Name another place, or mend this one."
        sys.exit(_say(f"{type(error).__name__}: {what}", FAILURE))
    except KeyboardInterrupt:
        advice = "A training goes on from its last checkpoint when the same command is given again."
        sys.exit(_say(f"Interrupted. {advice}", INTERRUPTED))
    sys.exit(0)


class Unfinished(Exception):
    """Training was asked to stop before its end; what is needed to resume has been saved."""


def parse_settings(
    config_class: type[Config], main: Callable[..., Any], arguments: list[str]
) -> Config:
    """Build the settings of a command from `--config FILE` and overrides, later ones winning.

    Raises:
        ConfigError: An option is unknown, has the wrong type, or is out of range.
    """
    parser = build_parser(config_class, main)
    try:
        parsed = parser.parse_args(arguments)
    except ArgumentError as error:
        raise ConfigError(_explain(str(error), parser)) from None
    import_plugins(parsed[PLUGINS])
    try:
        return _instance(config_class, parser, parsed)
    except ArgumentError as error:
        raise ConfigError(_explain(str(error), parser)) from None


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules that register parts of their own: a fusion, a block, a loss.

    Raises:
        ConfigError: there is no such module.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--plugins names '{module}', and there is no module '{error.name}'. Install it, "
                "or start the command in the folder where it lies."
            ) from None


@contextlib.contextmanager
def naming_plugins_of(run: RunDir) -> Iterator[None]:
    """Where a part of a run is unknown inside the block, say which plugins it was trained with."""
    try:
        yield
    except IdbertError as error:
        plugins = [name for name in run.read_config().get(PLUGINS) or () if name not in sys.modules]
        if not plugins or not _is_of_unknown_part(error):
            raise
        raise type(error)(
            f"{error} {run.path} was trained with --{PLUGINS}=[{', '.join(plugins)}]; give it here "
            "too."
        ) from error


def _is_of_unknown_part(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, UnknownPartError):
        error = error.__cause__
    return error is not None


def settings_from(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Build settings from nested plain values, such as those of a run's config.yaml.

    Raises:
        ConfigError: a name is unknown, or a value has the wrong type or is out of range.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config_class, None)
    try:
        return _instance(config_class, parser, parser.parse_object(values))
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from None


def build_parser(config_class: type, main: Callable[..., Any]) -> ArgumentParser:
    """Return the parser whose options are the fields of `config_class`, nested ones with a dot."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    command = sys.modules[main.__module__].__spec__
    parser = ArgumentParser(
        prog=f"python -m {command.name if command else main.__module__}",
        description=main.__doc__,
        usage="%(prog)s [--config FILE] [--SETTING VALUE ...]",
        exit_on_error=False,
        default_env=False,
    )
    parser.add_argument("--config", action="config", help="A YAML file of the settings below.")
    parser.add_class_arguments(config_class, None)
    if PLUGINS not in {field.name for field in fields(config_class)}:
        parser.add_argument(f"--{PLUGINS}", type=tuple[str, ...], default=(), help=PLUGINS_HELP)
    return parser


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Log how long a stage of the corridor took."""
    start = time.monotonic()
    yield
    logger.info("%s: %.1f s", name, time.monotonic() - start)


def _instance(config_class: type[Config], parser: ArgumentParser, parsed: Namespace) -> Config:
    values = parser.instantiate(parsed)
    names = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    return config_class(**{name: values[name] for name in names})


def _explain(message: str, parser: ArgumentParser) -> str:
    """Add what to do to jsonargparse's message.

    The nearest option; how a list is written; or what a group of settings holds.
    """
    message = " ".join(message.split())
    unknown = message.partition("nrecognized arguments: --")[2].split("=")[0].split(" ")[0]
    known = [action.dest for action in parser._actions]
    settings = [name for name in known if not any(one.startswith(f"{name}.") for one in known)]
    hint = suggestion(unknown, settings) if unknown else ""
    if "<class 'tuple'>" in message:
        hint = " Write a list in brackets: '[a, b]'."
    group = re.match(r"Parser key \"(\S+)\": Unable to load config '(.*?)' -", message)
    if group:
        inner = ", ".join(f"--{name}" for name in settings if name.startswith(f"{group[1]}."))
        message = f"--{group[1]} is no setting, but a group of them, and '{group[2]}' no YAML file"
        hint = f" Give a file of these settings, or one of them: {inner}."
    return f"{message}.{hint} `{parser.prog} --help` lists all settings."


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    for name in SPEAKERS:
        logging.getLogger(name).setLevel(logging.INFO)


def _say(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
