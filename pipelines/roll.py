"""python -m pipelines.roll: a recipe, trained and tested anew in each of some windows of time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idbert.errors import ConfigError, suggestion
from idbert.evaluation.baselines import BaselineSettings
from idbert.run_dir import RunDir
from idbert.training.item_trainer import METRICS
from pipelines.ablation_plan import Variant, leaves, merged, read_recipe, settings_class
from pipelines.ablation_runs import Run, is_made, make
from pipelines.cli import import_plugins, logger, run_command, settings_from
from pipelines.corridor import STAGES, open_prepared
from pipelines.reporting import evaluate_runs, write_report
from pipelines.rolling_report import rows_of, write_table, write_windows

OF_THE_WINDOWS = ("split.name", "split.time")
PIPELINES = ("rec_pretrain", "rec_finetune")


@dataclass(frozen=True)
class RollSettings:
    """Windows of time, and the recipe that is tested in each."""

    run: str = "runs/rolled"
    """The folder of all windows: made if absent, resumed if unfinished. Each is a run in it."""
    pipeline: str = "rec_finetune"
    """The command that is run: rec_pretrain or rec_finetune."""
    recipe: str | None = None
    """A YAML file of that command's settings."""
    base: dict[str, Any] = field(default_factory=dict)
    """Settings over those of the recipe; nested, or with dots: {training.learning_rate: 0.001}."""
    windows: int = 4
    """Stretches of equally many events, each tested by a model that was trained before it."""
    begin: float = 0.6
    """Share of the events, in the order of time, before the first window."""
    validation: float = 0.5
    """How long the stretch before a window is that chooses the best epoch, in windows. The model
    reads it as history, but is not trained on it. With split.train_until=test in the recipe there
    is none, and the model is trained on all that comes before the window."""
    metric: str = "ndcg@10"
    """What the chart shows; the table has recall@10 too."""
    filter_seen: bool | None = None
    """Whether items of a user's history are left out of the ranking. Default: as the recipe
    says."""
    baselines: BaselineSettings = field(default_factory=BaselineSettings)
    """How the baselines are fitted, in every window anew."""
    plugins: tuple[str, ...] = ()
    """Modules to import first, because they register parts; every run imports them too."""

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise ConfigError(f"windows is {self.windows}; it must be at least 1.")
        if not 0 < self.begin < 1:
            raise ConfigError(f"begin is {self.begin}; it must be above 0 and below 1.")
        if self.validation <= 0:
            raise ConfigError(f"validation is {self.validation}; it must be above 0.")
        if self.begin <= self.validation * self.width:
            raise ConfigError(
                f"begin={self.begin} leaves nothing to train on: the {self.windows} windows are "
                f"{self.width:.3g} of the events wide, and {self.validation:g} of that before the "
                "first is for validation. Raise begin or windows, or lower validation."
            )
        if self.metric not in METRICS:
            raise ConfigError(
                f"The metric '{self.metric}' is not measured.{suggestion(self.metric, METRICS)} "
                f"Choose from: {', '.join(METRICS)}."
            )
        if self.pipeline not in PIPELINES:
            raise ConfigError(
                f"{self.pipeline} cannot be tested in windows of time. Choose from: "
                f"{', '.join(PIPELINES)}."
            )

    @property
    def width(self) -> float:
        """Share of the events in a window."""
        return (1 - self.begin) / self.windows

    def cuts(self, window: int) -> dict[str, float]:
        """Return the cuts of a window, counted from 0, as settings of a time split."""
        test_from = self.begin + window * self.width
        cuts = {
            "validation_from": test_from - self.validation * self.width,
            "test_from": test_from,
            "test_until": min(1.0, test_from + self.width),
        }
        return {name: round(share, 6) for name, share in cuts.items()}


def main(config: RollSettings) -> None:
    """Train a recipe before each window of time and test it in the window, beside the baselines.

    Every window is a run of its own with a global time split: trained on all events before its
    validation stretch, which lies before the window (see --validation). Windows that are trained
    already are not trained again: give another --run where the log has grown. The folder receives
    windows.csv after every window, and in the end windows.md and windows.html: each window's
    figures, and mean and deviation over them.
    """
    folder = Path(config.run)
    runs = windows_of(config)  # all settings are checked now, not after some hours
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, run in enumerate(runs, 1):
        if not is_made(run):
            logger.info(
                "window %d of %d: %s, reports to %s", number, len(runs), run.folder, run.log
            )
            make(config.pipeline, run)
        made = RunDir.open(run.folder, STAGES)
        evaluated = evaluate_runs(
            [made], "test", filter_seen=config.filter_seen, baselines=config.baselines
        )
        write_report(made, evaluated)
        rows += rows_of(number, evaluated)
        write_table(folder, rows)
    write_windows(folder, rows, config.metric, _about(config, runs[0].variant.settings))
    print(folder / "windows.md")


def _about(config: RollSettings, settings: Mapping[str, Any]) -> str:
    stretch = f"'s validation part, {config.validation * config.width:.1%} of the events"
    before = "" if settings["split"].get("train_until") == "test" else stretch
    what = f"{config.pipeline}, from {config.recipe}" if config.recipe else config.pipeline
    return (
        f"{what}; {config.windows} windows of {config.width:.1%} of the events each, from "
        f"{config.begin:.1%} on. The model is trained on what came before the window{before}; the "
        "baselines are fitted on all that came before the window. Items that first occur later can "
        "be recommended too."
    )


def windows_of(config: RollSettings) -> list[Run]:
    """Return the runs of the windows, the earliest first.

    Raises:
        ConfigError: there is no such recipe, it says itself how the log is cut, or the command
            refuses a setting.
    """
    config_class = settings_class(config.pipeline)
    base = read_recipe(config.recipe, config.base, config.plugins)
    for path, _ in leaves(base):
        if path.startswith(OF_THE_WINDOWS):
            raise ConfigError(f"The recipe sets {path}, which each window has its own of.")
    if dict(leaves(base)).get("split.train_until") == "end":
        raise ConfigError(
            "The recipe sets split.train_until=end, which trains on the windows themselves. Leave "
            "it out, or say test."
        )
    import_plugins(base.get("plugins", ()))
    runs = []
    for window in range(config.windows):
        split = {"split": {"name": "global_time", "time": config.cuts(window)}}
        settings = merged(base, split)
        try:
            checked = settings_from(config_class, dict(settings))
        except ConfigError as error:
            raise ConfigError(f"window {window + 1}: {error}") from None
        if not checked.split.has_validation and config.validation != RollSettings.validation:
            raise ConfigError(
                f"validation={config.validation:g} cannot act with split.train_until=test, which "
                "trains on all that comes before a window. Leave one of them out."
            )
        if getattr(checked, "pretrained", None) is not None:
            raise ConfigError(
                "The recipe sets pretrained, and each window would need a pretraining of its own, "
                "which has not seen what comes after. Leave it out."
            )
        if window == 0 and open_prepared(checked.data) is not None:
            raise ConfigError(
                f"{checked.data.source} was prepared with a split of its own. Name the log that it "
                "was made of."
            )
        name = f"window-{window + 1}"
        variant = Variant(name, {}, settings)
        runs.append(Run(variant, checked.training.seed, Path(config.run) / name))
    return runs


if __name__ == "__main__":
    run_command(main, RollSettings)
