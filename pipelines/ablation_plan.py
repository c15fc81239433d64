"""What a study runs: the base recipe, and what each alternative changes about it."""

import importlib
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from idbert.errors import ConfigError, suggestion
from idbert.inputs.cuts import SplitSettings
from pipelines.cli import import_plugins, settings_from

BASE, WINNERS = "base", "winners"
"""The variant, or alternative, that changes nothing; the variant of all winners together."""

Overrides = Mapping[str, Any]
Changes = Mapping[str, str]
"""By choice, the alternative that is not the base's own."""

OPTIONS, NAME = "options", "name"
"""Of a part: its options belong to its name, and are replaced as a whole."""

SEED, EPOCHS, PATIENCE = "training.seed", "training.epochs", "training.patience"
OF_THE_STUDY = ("run", "plugins", SEED, EPOCHS)
"""Settings that the study itself gives to each run."""


@dataclass(frozen=True)
class StudySettings:
    """A study: a base recipe, and choices to compare with it."""

    run: str = "runs/study"
    """The study's folder: made if absent, resumed if unfinished. Each run is a folder in it."""
    pipeline: str = "rec_pretrain"
    """The command that is run: rec_pretrain, rec_finetune, nlp_cls, ..."""
    recipe: str | None = None
    """A YAML file of that command's settings, from which all runs start."""
    base: dict[str, Any] = field(default_factory=dict)
    """Settings over those of the recipe; nested, or with dots: {training.learning_rate: 0.001}."""
    choices: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """By the name of the choice, its alternatives; by the name of the alternative, its settings
    over the base. One without settings ({}) gives the base's own value a name."""
    crossed: bool = False
    """false: one choice at a time is changed. true: every combination is run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each run is repeated with each of these as training.seed."""
    epochs: int | None = None
    """Epochs of every run, after which they are compared. Default: those of the base."""
    metric: str | None = None
    """What is compared, by its name in the training curves. Default: the command's own."""
    winners: bool = True
    """At the end the winners of all choices are put together and run, if that is a new run."""
    plugins: tuple[str, ...] = ()
    """Modules to import first, because they register parts; every run imports them too."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds is {list(self.seeds)}; give at least one, each once.")
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"epochs is {self.epochs}; it must be at least 1.")
        if self.crossed and len(self.choices) < 2:
            raise ConfigError(
                f"crossed=true cannot act on {len(self.choices)} choice(s). Give a second one, or "
                "leave it out."
            )
        for choice, alternatives in self.alternatives.items():
            self._check(choice, alternatives)
        for (one, ours), (other, theirs) in itertools.combinations(self._paths().items(), 2):
            shared = {a for a in ours for b in theirs if a in _up_to(b) or b in _up_to(a)}
            if shared:
                raise ConfigError(
                    f"The choices '{one}' and '{other}' both set {', '.join(sorted(shared))}. Make "
                    "one choice of them, so that their winners can be put together."
                )

    @property
    def alternatives(self) -> dict[str, dict[str, Overrides]]:
        """The choices; names that YAML reads as numbers are words again."""
        return {
            str(choice): {str(name): overrides for name, overrides in alternatives.items()}
            for choice, alternatives in self.choices.items()
        }

    def base_name(self, choice: str) -> str:
        """Return how the base's own alternative of a choice is called."""
        named = [name for name, overrides in self.alternatives[choice].items() if not overrides]
        return named[0] if named else BASE

    def _check(self, choice: str, alternatives: Mapping[str, Overrides]) -> None:
        unchanged = [name for name, overrides in alternatives.items() if not overrides]
        if len(alternatives) == len(unchanged):
            raise ConfigError(f"The choice '{choice}' has no alternative that changes anything.")
        if len(unchanged) > 1:
            raise ConfigError(
                f"The alternatives {' and '.join(unchanged)} of the choice '{choice}' change "
                "nothing; only one of them can name the base."
            )
        for name in (choice, *alternatives):
            if not re.fullmatch(r"\w[\w.+-]*", name):
                raise ConfigError(
                    f"'{name}' cannot be part of a folder's name. Use letters, digits and . _ + -"
                )
        if alternatives.get(BASE):
            raise ConfigError(
                f"An alternative of the choice '{choice}' is called '{BASE}' and changes the base. "
                "Give it another name."
            )
        for name, overrides in alternatives.items():
            for path, _ in leaves(overrides):
                if path in OF_THE_STUDY:
                    raise ConfigError(
                        f"'{name}' of the choice '{choice}' sets {path}, which is the study's: all "
                        "its runs are compared with the same seeds after the same epochs."
                    )

    def _paths(self) -> dict[str, set[str]]:
        """Return, by choice, the settings that its alternatives set; a part is its name."""
        return {
            choice: {
                f"{path.removesuffix(OPTIONS)}{NAME}" if path.endswith(f".{OPTIONS}") else path
                for overrides in alternatives.values()
                for path, _ in leaves(overrides)
            }
            for choice, alternatives in self.alternatives.items()
        }


@dataclass(frozen=True)
class Variant:
    """One combination of alternatives; run once a seed.

    Attributes:
        name: in the tables.
        changes: what is not as in the base.
        settings: of the command, but for the folder and the seed.
    """

    name: str
    changes: Changes
    settings: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Start of its folders' names; winners may be others when the study has grown."""
        if self.name != WINNERS:
            return self.name
        return f"{WINNERS}-{zlib.crc32(_shown(self.changes).encode()):08x}"


def plan(study: StudySettings) -> list[Variant]:
    """Return the variants of a study, the base first.

    Raises:
        ConfigError: there is no such recipe, or a variant's settings are refused by the command.
    """
    base = _base(study)
    choices = {
        choice: [name for name, overrides in alternatives.items() if overrides]
        for choice, alternatives in study.alternatives.items()
    }
    combinations: list[Changes]
    if study.crossed:
        levels = [[(choice, name) for name in (None, *names)] for choice, names in choices.items()]
        combinations = [
            {choice: name for choice, name in chosen if name is not None}
            for chosen in itertools.product(*levels)
        ]
    else:
        alone = [{choice: name} for choice, names in choices.items() for name in names]
        combinations = [{}, *alone]
    variants = [_variant(study, base, changes, _shown(changes) or BASE) for changes in combinations]
    for variant in variants:
        check(study, variant)
    return variants


def compose(study: StudySettings, winners: Changes) -> Variant:
    """Return the variant that makes all these changes at once.

    Raises:
        ConfigError: together they are refused by the command.
    """
    variant = _variant(study, _base(study), winners, WINNERS)
    check(study, variant)
    return variant


def check(study: StudySettings, variant: Variant) -> None:
    """Check a variant's settings before anything is run.

    Raises:
        ConfigError: the command refuses them, or it is none that trains.
    """
    config_class = settings_class(study.pipeline)
    import_plugins(variant.settings.get("plugins", ()))
    try:
        config = settings_from(config_class, dict(variant.settings))
    except ConfigError as error:
        raise ConfigError(f"{variant.name}: {error}") from None
    for name in ("patience", "max_steps"):
        if getattr(config.training, name) is not None:
            raise ConfigError(
                f"{variant.name} sets training.{name}, and a study compares after the same number "
                "of epochs. Leave it out."
            )
    check_has_validation(config, variant.name)


def check_has_validation(config: Any, where: str) -> None:
    """Check that the settings of a command leave a part to choose by.

    Args:
        config: the settings.
        where: what they are, for the message.

    Raises:
        ConfigError: they train on it.
    """
    split = getattr(config, "split", None)
    if isinstance(split, SplitSettings) and not split.has_validation:
        raise ConfigError(
            f"{where} sets split.train_until={split.train_until}, which leaves no validation part "
            "to choose by. Choose with train_until=validation, then train once more with all."
        )


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings with dotted names; options of a part are one value."""
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and path.rpartition(".")[2] != OPTIONS:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def merged(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with others over them.

    Where an override names another part, the options of the one before go with it.
    """
    result: dict[str, Any] = deepcopy(dict(settings))
    for path, value in sorted(leaves(overrides), key=lambda leaf: leaf[0].endswith(OPTIONS)):
        *groups, name = path.split(".")
        inner = result
        for group in groups:
            if not isinstance(inner.get(group), dict):
                inner[group] = {}
            inner = inner[group]
        if name == NAME and inner.get(NAME) != value:
            inner.pop(OPTIONS, None)
        inner[name] = deepcopy(value)
    return result


def read_recipe(
    recipe: str | None, base: Mapping[str, Any], plugins: Sequence[str]
) -> dict[str, Any]:
    """Return the settings of a recipe with others over them, but for the run's folder.

    Args:
        recipe: a YAML file; None: there is none.
        base: the settings over it.
        plugins: modules that are imported beside the recipe's own.

    Raises:
        ConfigError: the recipe cannot be read.
    """
    values: Any = {}
    if recipe is not None:
        try:
            values = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"The recipe {recipe} cannot be read: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"The recipe {recipe} holds no settings.")
    settings = merged(merged({}, values), base)
    settings.pop("run", None)
    if plugins:
        settings["plugins"] = [*settings.get("plugins", ()), *plugins]
    return settings


def _base(study: StudySettings) -> dict[str, Any]:
    base = read_recipe(study.recipe, study.base, study.plugins)
    if "patience" not in base.get("training", {}) and _default_patience(study.pipeline):
        base = merged(base, {PATIENCE: None})
    return merged(base, {} if study.epochs is None else {EPOCHS: study.epochs})


def _default_patience(pipeline: str) -> int | None:
    """Return after how many evaluations a command ends by itself where nothing is said."""
    (training,) = [one for one in fields(settings_class(pipeline)) if one.name == "training"]
    has_factory = training.default_factory is not MISSING
    patience: int | None = (
        training.default_factory() if has_factory else training.default
    ).patience
    return patience


def _variant(study: StudySettings, base: dict[str, Any], changes: Changes, name: str) -> Variant:
    settings = base
    for choice, alternative in changes.items():
        settings = merged(settings, study.alternatives[choice][alternative])
    return Variant(name, changes, settings)


def _shown(changes: Changes) -> str:
    return ",".join(f"{choice}={name}" for choice, name in changes.items())


def _up_to(path: str) -> set[str]:
    """Return a dotted name and the groups that it stands in."""
    return set(itertools.accumulate(path.split("."), lambda group, name: f"{group}.{name}"))


def settings_class(pipeline: str) -> type[Any]:
    """Return the settings of a command that trains.

    Raises:
        ConfigError: there is no such command, or it trains nothing.
    """
    known = sorted(
        path.stem
        for path in Path(__file__).parent.glob("*_*.py")
        if "def main(" in path.read_text(encoding="utf-8")
    )
    if pipeline not in known:
        raise ConfigError(
            f"There is no pipeline '{pipeline}'.{suggestion(pipeline, known)} "
            f"Choose from: {', '.join(known)}."
        )
    module = importlib.import_module(f"pipelines.{pipeline}")
    config_class: type[Any] = get_type_hints(module.main)["config"]
    names = {one.name for one in fields(config_class)}
    if not {"run", "training"} <= names:
        raise ConfigError(f"{pipeline} trains nothing; a study needs a command that does.")
    return config_class
