"""What every command shares: settings from YAML and the command line, logging, exit codes."""

import contextlib
import importlib
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields
from types import FrameType
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from idbert import processes
from idbert.errors import BusyError, ConfigError, IdbertError, UnknownPartError, suggestion
from idbert.run_dir import RunDir
from idbert.run_lock import release_all

Config = TypeVar("Config")

USAGE_ERROR, FAILURE, INTERRUPTED, UNFINISHED = 2, 1, 130, 143

RESUME = "A training goes on from its last checkpoint when the same command is given again."
LOST = "One of the processes was killed or has failed, and the others cannot go on without it."

PLUGINS = "plugins"
PLUGINS_HELP = "Modules to import first, because they register parts: '[my_package.my_block]'."

LONGEST_MESSAGE = 1_000
"""Characters of a message of jsonargparse's; it quotes the whole of what it cannot read."""

SPEAKERS = ("idbert", "nlp_tasks")
"""The packages whose progress is shown."""

logger = logging.getLogger("idbert")
"""Of the commands too: what they say is shown beside what the library says."""


def run_command(
    main: Callable[[Config], None], config_class: type[Config], *, in_processes: bool = False
) -> NoReturn:
    """Parse the settings, run `main`, and turn every foreseen failure into one clear message.

    In the processes of torchrun a message is said once, by the first that has it.

    Exit status: 0 done, 1 a failure that the message explains, 2 a setting is wrong, 130
    interrupted, 143 stopped by SIGTERM with a checkpoint to resume from, or another process is at
    work in the run's folder.

    Args:
        main: The command's body; its docstring is the help text.
        config_class: A frozen dataclass of settings.
        in_processes: Whether torchrun may start it; all other commands are refused there.
    """
    _log_to_stderr()
    try:
        if processes.num_processes() > 1:
            _meet(main, in_processes)
        config = parse_settings(config_class, main, sys.argv[1:])
        processes.check_agreement(_flat_words(config))
        main(config)
        sys.stdout.flush()
        processes.leave()
    except Unfinished as stopped:
        sys.exit(_say(str(stopped), UNFINISHED))
    except BusyError as error:
        sys.exit(_say(f"BusyError: {error}", UNFINISHED))
    except ConfigError as error:
        sys.exit(_say(f"ConfigError: {error}", USAGE_ERROR))
    except IdbertError as error:
        sys.exit(_say(f"{type(error).__name__}: {error}", FAILURE))
    except RuntimeError as error:
        if not processes.is_loss_of_process(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun is about to send one
        sys.exit(_say_unless_said(f"ProcessError: {LOST} {RESUME}", FAILURE))
    except _Terminated:
        sys.exit(_say_unless_said(f"Stopped by SIGTERM. {RESUME}", UNFINISHED))
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise
        what = f"{error.filename}: {error.strerror}. Name another place, or mend this one."
        sys.exit(_say(f"{type(error).__name__}: {what}", FAILURE))
    except KeyboardInterrupt:
        sys.exit(_say(f"Interrupted. {RESUME}", INTERRUPTED))
    finally:
        release_all()
    sys.exit(0)


class Unfinished(Exception):
    """Training was asked to stop before its end; what is needed to resume has been saved."""


class _Terminated(BaseException):
    """torchrun ends this process: another one has failed, or torchrun itself is to stop."""


def _meet(main: Callable[..., Any], in_processes: bool) -> None:
    """Join the other processes of torchrun.

    Raises:
        ConfigError: the command cannot be divided among processes.
    """
    if not in_processes:
        raise ConfigError(
            f"{_name_of(main)} runs in one process, and torchrun started "
            f"{processes.num_processes()}. Start it with: python -m {_name_of(main)}. What runs in "
            "several: rec_pretrain and rec_finetune."
        )

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    processes.join()


def _flat_words(config: Any) -> dict[str, str]:
    """Return settings by dotted names, as words to be compared."""
    words: dict[str, str] = {}

    def add(prefix: str, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, dict) and value:
                add(f"{prefix}{name}.", value)
            else:
                words[f"--{prefix}{name}"] = repr(value)

    if processes.num_processes() > 1:
        add("", asdict(config))
    return words


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
    parser = ArgumentParser(
        prog=f"python -m {_name_of(main)}",
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


def _name_of(main: Callable[..., Any]) -> str:
    command = sys.modules[main.__module__].__spec__
    return command.name if command else main.__module__


def _instance(config_class: type[Config], parser: ArgumentParser, parsed: Namespace) -> Config:
    values = parser.instantiate(parsed)
    names = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    return config_class(**{name: values[name] for name in names})


def _explain(message: str, parser: ArgumentParser) -> str:
    """Add what to do to jsonargparse's message.

    The nearest option; how a list is written; or what a group of settings holds.
    """
    message = " ".join(message.split())
    if message.startswith("Unexpected config: "):
        return (
            "--config must name a YAML file of settings, and what was given is none: "
            f"{_shortened(message.partition(': ')[2])} `{parser.prog} --help` lists all settings."
        )
    message = _shortened(message)
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


def _shortened(text: str) -> str:
    """Leave out the middle of what would fill the screen: a whole file, for one."""
    half = LONGEST_MESSAGE // 2
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:half]} ... {text[-half:]}"


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    for name in SPEAKERS:
        level = logging.INFO if processes.is_writer() else logging.ERROR
        logging.getLogger(name).setLevel(level)


def _say(message: str, status: int) -> int:
    if processes.is_first_to_say(message):
        print(message, file=sys.stderr, flush=True)
    return status


def _say_unless_said(message: str, status: int) -> int:
    """Say why this process ends, unless the one that began it has said so."""
    return status if processes.has_anybody_spoken() else _say(message, status)
