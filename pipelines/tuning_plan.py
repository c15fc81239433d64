"""What a search tries: a recipe, and the ranges of some of its settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from idbert.errors import ConfigError, MissingExtraError, suggestion
from pipelines.ablation_plan import (
    SEED,
    check_has_validation,
    leaves,
    merged,
    read_recipe,
    settings_class,
)
from pipelines.cli import import_plugins, settings_from

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

METRIC, EVERY = "training.metric", "training.evaluate_every"
OF_THE_SEARCH = ("run", "plugins", SEED, METRIC, EVERY)
"""Settings that are the same in all trials, since they are compared by them."""

LOW, HIGH, LOG, STEP = "low", "high", "log", "step"
_DIGITS = 12
CHOICES, ALTERNATIVES = "choices", "alternatives"
Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class SearchSettings:
    """A search: a recipe, and the ranges in which better settings are looked for."""

    run: str = "runs/search"
    """The search's folder: made if absent, resumed if unfinished. Each trial is a folder in it."""
    pipeline: str = "rec_pretrain"
    """The command that is run: rec_pretrain, rec_finetune, nlp_cls, ..."""
    recipe: str | None = None
    """A YAML file of that command's settings, from which all trials start."""
    base: dict[str, Any] = field(default_factory=dict)
    """Settings over those of the recipe; nested, or with dots: {training.learning_rate: 0.001}."""
    ranges: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the name of a setting, what is tried: {low: 1e-4, high: 1e-2, log: true}, with `step` for
    a grid; or {choices: [2000, 4000]}. Under any name, settings that go together, each group by a
    name: {alternatives: {plain: {}, gated: {model.fusion.name: gate}}}."""
    trials: int = 30
    """How many settings are tried, the base's own among them; more can be added later."""
    metric: str = "ndcg@10"
    """What is compared, by its name in the training curves: on the validation part."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How settings are proposed. tpe: near those that were good, once `startup` trials have been
    drawn at random (Bergstra et al. 2011); random: drawn at random all along."""
    pruning: Literal["median", "none"] = "median"
    """median: a trial ends early where its best value so far is worse than the median of the
    earlier trials' values after as many evaluations."""
    startup: int = 8
    """Trials before any is ended early, and before tpe begins."""
    pruning_start: int = 1
    """Evaluations of a trial before it may be ended early."""
    seed: int = 0
    """Of the proposals. The trainings have training.seed of the base."""
    try_base: bool = True
    """The first trial has the base's own settings, if they lie within the ranges."""
    plugins: tuple[str, ...] = ()
    """Modules to import first, because they register parts; every trial imports them too."""

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("startup", 1), ("pruning_start", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if not self.ranges:
            raise ConfigError(
                "There is nothing to search: name settings under ranges, such as "
                "{training.learning_rate: {low: 1e-4, high: 1e-2, log: true}}."
            )
        for name, given in self.ranges.items():
            _check_form(name, given)
        paths = [path for name in self.ranges for path in _paths_of(name, self.ranges[name])]
        for path in paths:
            if path in OF_THE_SEARCH:
                raise ConfigError(
                    f"ranges sets {path}, which must be the same in all trials. Give it under base."
                )
            if paths.count(path) > 1:
                raise ConfigError(f"ranges sets {path} twice. Make one range of them.")


@dataclass(frozen=True)
class Search:
    """What is searched, checked.

    Attributes:
        base: settings of the command that all trials start from.
        spaces: by name, the distribution that optuna draws from.
        first: the base's own values by name, to try first; None: it has none within the ranges.
        ranges: as given.
    """

    base: Mapping[str, Any]
    spaces: Mapping[str, "BaseDistribution"]
    first: Mapping[str, Value] | None
    ranges: Mapping[str, Mapping[str, Any]]

    def settings(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """Return the settings of a trial.

        Args:
            values: by the names of the ranges.
        """
        settings = merged(self.base, {})
        for name, value in values.items():
            alternatives = self.ranges[name].get(ALTERNATIVES)
            if isinstance(value, float) and STEP in self.ranges[name]:
                value = round(value, _DIGITS)  # three steps of 0.1 are 0.30000000000000004
            overrides = {name: value} if alternatives is None else alternatives[value]
            settings = merged(settings, overrides)
        return settings


def plan_search(given: SearchSettings) -> Search:
    """Check a search before any trial.

    Raises:
        ConfigError: there is no such recipe or setting, or the command refuses an end of a range.
        MissingExtraError: optuna is not installed.
    """
    config_class = settings_class(given.pipeline)
    base = read_recipe(given.recipe, given.base, given.plugins)
    import_plugins(base.get("plugins", ()))
    base = merged(base, {METRIC: given.metric})
    defaults = _settings(config_class, base, "the base")
    check_has_validation(defaults, "the base")
    folds = getattr(getattr(defaults, "data", None), "folds", 1)
    if folds > 1 and given.pruning != "none":
        raise ConfigError(
            f"data.folds={folds} trains {folds} models one after the other, whose trials cannot be "
            "ended early. Give pruning=none, or search without folds."
        )
    spaces = {name: _space(name, one, config_class) for name, one in given.ranges.items()}
    search = Search(base, spaces, None, given.ranges)
    for name, one in given.ranges.items():
        for value in _ends(one):
            where = f"{name}={value}"
            config = _settings(config_class, search.settings({name: value}), where)
            check_has_validation(config, f"the range of {name}")
    first = _first(search, defaults) if given.try_base else None
    return Search(base, spaces, first, given.ranges)


def _settings(config_class: type[Any], values: Mapping[str, Any], where: str) -> Any:
    try:
        return settings_from(config_class, dict(values))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_form(name: str, given: Mapping[str, Any]) -> None:
    keys = set(given)
    if keys in ({CHOICES}, {ALTERNATIVES}):
        (values,) = given.values()
        expected = list if keys == {CHOICES} else dict
        if not isinstance(values, expected) or len(values) < 2:
            raise ConfigError(f"{name}: give at least two {next(iter(keys))}.")
        return
    if not {LOW, HIGH} <= keys <= {LOW, HIGH, LOG, STEP}:
        raise ConfigError(
            f"{name} is {dict(given)}. A range has low and high, perhaps log or step; or choices "
            "alone, or alternatives alone."
        )
    low, high = given[LOW], given[HIGH]
    if not all(_is_number(value) for value in (low, high)) or not low < high:
        raise ConfigError(
            f"{name} reaches from {low!r} to {high!r}; give two numbers, the smaller one as low. "
            "(YAML reads 1e-4 as a word: write 1.0e-4.)"
        )
    if given.get(LOG) and (low <= 0 or STEP in given):
        raise ConfigError(f"{name}: log=true needs low above 0, and no step.")
    if STEP in given and not (_is_number(given[STEP]) and 0 < given[STEP] <= high - low):
        raise ConfigError(f"{name}: step is {given[STEP]!r}; it must be above 0 and fit in once.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _paths_of(name: str, given: Mapping[str, Any]) -> list[str]:
    """Return the settings that a range sets."""
    if ALTERNATIVES not in given:
        return [name]
    overrides = given[ALTERNATIVES].values()
    return sorted({path for one in overrides for path, _ in leaves(one or {})})


def _ends(given: Mapping[str, Any]) -> list[Any]:
    """Return the values that must be right if all are."""
    if CHOICES in given:
        return list(given[CHOICES])
    if ALTERNATIVES in given:
        return list(given[ALTERNATIVES])
    return [given[LOW], given[HIGH]]


def _space(name: str, given: Mapping[str, Any], config_class: type[Any]) -> "BaseDistribution":
    """Return the distribution of a range; of whole numbers where the setting takes no others."""
    try:
        from optuna import distributions
    except ImportError:
        raise MissingExtraError("A search needs optuna. Run pip install 'idbert[tune]'.") from None

    if CHOICES in given or ALTERNATIVES in given:
        return distributions.CategoricalDistribution([*_ends(given)])
    low, high, step = given[LOW], given[HIGH], given.get(STEP)
    numbers = [value for value in (low, high, step) if value is not None]
    is_whole = all(isinstance(value, int) for value in numbers)
    if is_whole and float not in _types_of(name, config_class):
        return distributions.IntDistribution(low, high, bool(given.get(LOG)), step or 1)
    return distributions.FloatDistribution(low, high, bool(given.get(LOG)), step)


def _types_of(path: str, config_class: type[Any]) -> set[Any]:
    """Return the types that a setting may have; none where it lies in a part's options.

    Raises:
        ConfigError: there is no such setting.
    """
    found: Any = config_class
    for place, name in enumerate(path.split(".")):
        owner = next((one for one in _alternatives(found) if is_dataclass(one)), None)
        if owner is None:
            return set()
        known = [one.name for one in fields(owner)]
        if name not in known:
            group = ".".join(path.split(".")[:place])
            raise ConfigError(
                f"ranges: there is no setting '{path}'.{suggestion(name, known)} "
                f"{group or 'The command'} has: {', '.join(known)}."
            )
        found = get_type_hints(owner)[name]
    return set(_alternatives(found))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _first(search: Search, defaults: Any) -> dict[str, Value] | None:
    """Return the base's own values, if all lie within the ranges."""
    first: dict[str, Value] = {}
    for name, given in search.ranges.items():
        if ALTERNATIVES in given:
            unchanged = [key for key, overrides in given[ALTERNATIVES].items() if not overrides]
            if not unchanged:
                return None
            first[name] = unchanged[0]
            continue
        value = defaults
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
        if not _is_within(value, given):
            return None
        first[name] = value
    return first


def _is_within(value: Any, given: Mapping[str, Any]) -> bool:
    if CHOICES in given:
        return value in given[CHOICES]
    if not _is_number(value) or not given[LOW] <= value <= given[HIGH]:
        return False
    steps = (value - given[LOW]) / given.get(STEP, 1)
    return STEP not in given or abs(steps - round(steps)) < 1e-8
