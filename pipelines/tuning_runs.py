"""How a search proposes settings, tries them, ends the bad ones early, and goes on after a stop."""

import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idbert.errors import ConfigError, DataError
from idbert.run_dir import RunDir
from idbert.run_lock import hold
from idbert.training.curve import curve_so_far, name_in_curve
from idbert.training.metric import is_smaller_better
from pipelines.ablation_plan import Variant
from pipelines.ablation_runs import Run, is_made, make, read_curve
from pipelines.cli import Unfinished, logger
from pipelines.tuning_plan import Search, SearchSettings

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

JOURNAL = "trials.jsonl"
"""Every proposal and every value, in the form of optuna's journal: `optuna-dashboard` reads it."""
STUDY = "search"
"""Its name in the journal."""
PLAN = "plan"
"""Attribute of the study: what may not change when it goes on."""
ONLY_MODEL = "model"
"""Folder of the checkpoints where there may be several models of folds, and there is one."""
MOST_FAILURES = 3
"""Failed trials before any good one, after which the search ends."""


def open_study(given: SearchSettings, search: Search) -> "Study":
    """Return the study in the search's folder; a new one where there is none.

    Raises:
        ConfigError: the search there has other settings.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(given.run)
    folder.mkdir(parents=True, exist_ok=True)
    _drop_torn_line(folder / JOURNAL)
    pruner = optuna.pruners.NopPruner()
    if given.pruning == "median":
        pruner = optuna.pruners.MedianPruner(given.startup, given.pruning_start + 1)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    study = optuna.create_study(
        storage=storage,
        study_name=STUDY,
        pruner=pruner,
        direction="minimize" if is_smaller_better(given.metric) else "maximize",
        load_if_exists=True,
    )
    plan = _plan_of(given, search)
    known = study.user_attrs.get(PLAN)
    if known is None:
        study.set_user_attr(PLAN, plan)
        if search.first is not None:
            study.enqueue_trial(dict(search.first))
    elif known != plan and _is_all_failed(study):
        for trial in study.get_trials(deepcopy=False):
            shutil.rmtree(folder_of(given, trial.number), ignore_errors=True)
        optuna.delete_study(study_name=STUDY, storage=storage)
        return open_study(given, search)
    elif known != plan:
        changed = [name for name in plan if known.get(name) != plan[name]]
        raise ConfigError(
            f"{folder} holds a search with another {' and '.join(changed)}, and its trials cannot "
            "be compared with new ones. Name another --run. (More trials can be added by --trials.)"
        )
    return study


def _is_all_failed(study: "Study") -> bool:
    """Say whether nothing is lost if the search begins anew, with its settings mended."""
    from optuna.trial import TrialState

    return all(trial.state == TrialState.FAIL for trial in study.get_trials(deepcopy=False))


def _drop_torn_line(journal: Path) -> None:
    """Drop what a killed process has begun to write: the next line would be added to it."""
    if not journal.is_file():
        return
    written = journal.read_bytes()
    if not written.endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(written.rfind(b"\n") + 1)


def search_on(
    given: SearchSettings, search: Search, study: "Study", tell: Callable[[], None]
) -> None:
    """Try settings until there are as many trials as asked for.

    Args:
        given: the settings.
        search: what is searched.
        study: what has been tried; goes on.
        tell: called after every trial.

    Raises:
        ConfigError: a trial's settings are refused.
        DataError: the first trials fail, one after the other.
        Unfinished: SIGTERM came; what was running has saved a checkpoint.
    """
    while (trial := _next_trial(given, search, study)) is not None:
        _try(given, search, study, trial)
        tell()


def folder_of(given: SearchSettings, number: int) -> Path:
    """Return the run folder of a trial."""
    return Path(given.run) / f"trial-{number:03d}"


def _next_trial(given: SearchSettings, search: Search, study: "Study") -> "Trial | None":
    """Return the trial that a stop has interrupted, or a new one; None: there are enough."""
    import optuna

    begun = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    for trial in begun:
        if set(trial.params) == set(search.spaces):
            return optuna.trial.Trial(study, trial._trial_id)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # stopped while proposing
    ended = study.get_trials(deepcopy=False, states=_ended())
    if len(ended) >= given.trials:
        return None
    # A sampler's numbers depend on the trial alone, so that a search that goes on proposes what
    # one without a stop would.
    number = len(study.get_trials(deepcopy=False))
    seed = zlib.crc32(f"{given.seed} {number}".encode())
    if given.sampler == "tpe":
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=given.startup, seed=seed)
    else:
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    return study.ask(dict(search.spaces))


def _try(given: SearchSettings, search: Search, study: "Study", trial: "Trial") -> None:
    """Train one trial and tell its value, that it was ended early, or that it failed."""
    from optuna.trial import TrialState

    settings = search.settings(trial.params)
    folder = folder_of(given, trial.number)
    seed = int(settings.get("training", {}).get("seed", 0))
    run = Run(Variant(folder.name, {}, settings), seed, folder)
    shown = ", ".join(f"{name} {_shown(value)}" for name, value in trial.params.items())
    logger.info("trial %d of %d: %s; reports to %s", trial.number + 1, given.trials, shown, run.log)
    watch = _Watch(trial, given.metric, folder)
    try:
        if not is_made(run):
            make(given.pipeline, run, watch)
    except Unfinished:
        if not watch.has_ended_it:
            raise
        hold(folder)  # or what a search that was killed has left at work would lose them
        shutil.rmtree(RunDir(folder).checkpoints, ignore_errors=True)
        study.tell(trial, state=TrialState.PRUNED)
        logger.info("ended early: %s", watch.last)
        return
    except ConfigError:
        study.tell(trial, state=TrialState.FAIL)
        raise
    except DataError as error:
        study.tell(trial, state=TrialState.FAIL)
        _check_failures(study, given.trials, error)
        logger.warning("%s It counts as failed, and the search goes on.", error)
        return
    curve = read_curve(run, given.metric)["value"].tolist()
    watch.report_all(curve)
    is_best_kept = RunDir(folder).read_config()["training"].get("load_best", True)
    best = min if is_smaller_better(given.metric) else max
    value = best(curve) if is_best_kept else curve[-1]
    study.tell(trial, value)
    logger.info("%s %.4f; the best is %.4f", given.metric, value, study.best_value)


def _check_failures(study: "Study", num_trials: int, error: DataError) -> None:
    from optuna.trial import TrialState

    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    if TrialState.COMPLETE not in states and states.count(TrialState.FAIL) >= min(
        MOST_FAILURES, num_trials
    ):
        raise error


class _Watch:
    """Looks at a training while it runs, and says when to end it.

    Attributes:
        has_ended_it: whether it has said so.
        last: what it saw last, in words.
    """

    def __init__(self, trial: "Trial", metric: str, folder: Path) -> None:
        self._trial, self._metric = trial, name_in_curve(metric)
        self._checkpoints = RunDir(folder).checkpoints
        known: FrozenTrial = trial.study.trials[trial.number]
        self._num_reported = len(known.intermediate_values)
        self.has_ended_it, self.last = False, ""

    def __call__(self) -> bool:
        """Report new values; say whether the training is to end."""
        # of texts to be classified there are checkpoints of each fold's model
        curve = curve_so_far(self._checkpoints) or curve_so_far(self._checkpoints / ONLY_MODEL)
        self.has_ended_it = self.report([p[self._metric] for p in curve if self._metric in p])
        return self.has_ended_it

    def report(self, values: list[float]) -> bool:
        """Report those of a curve's values that are new; say whether they are too bad."""
        return any(self._trial.should_prune() for _ in self._reported(values))

    def report_all(self, values: list[float]) -> None:
        """Report those of a finished curve's values that are new."""
        for _ in self._reported(values):
            pass

    def _reported(self, values: list[float]) -> Iterator[None]:
        for place in range(self._num_reported, len(values)):
            self._trial.report(values[place], place + 1)
            self._num_reported = place + 1
            self.last = f"{self._metric} {values[place]:.4f} after {place + 1} evaluations"
            yield


def _ended() -> tuple[Any, ...]:
    from optuna.trial import TrialState

    return (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def _plan_of(given: SearchSettings, search: Search) -> dict[str, Any]:
    """Return what must stay, in the types of JSON."""
    return {
        "pipeline": given.pipeline,
        "metric": given.metric,
        "seed": given.seed,
        "recipe or base": _plain(search.base),
        "ranges": _plain(search.ranges),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
