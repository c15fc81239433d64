"""The one metric that decides which weights are best."""

from collections.abc import Collection, Sequence
from math import inf, isnan

from idbert.errors import ConfigError, suggestion
from idbert.training.arguments import TrainingSettings

SMALLER_IS_BETTER = ("loss", "mse", "rmse", "mae", "perplexity")
"""Last words of the names of metrics whose smallest value is best."""


def is_smaller_better(metric: str) -> bool:
    """Say whether a metric measures errors: "loss", "mse", "dev_loss", ..."""
    return metric.rpartition("_")[2] in SMALLER_IS_BETTER


def choose_metric(settings: TrainingSettings, reported: Collection[str]) -> str:
    """Return the metric that decides, checked where it is known what the evaluation reports.

    Args:
        settings: Those of the training.
        reported: Names of metrics, the usual one first; empty: unknown before the evaluation.

    Raises:
        ConfigError: the evaluation does not report it, or none is named anywhere.
    """
    metric = settings.metric or next(iter(reported), None)
    if metric is None:
        raise ConfigError("No metric is named: give one, or the names that the evaluation reports.")
    if reported:
        check_metric(metric, reported)
    return metric


def check_metric(metric: str, reported: Collection[str]) -> None:
    """Check that the evaluation reports a metric.

    Raises:
        ConfigError: it does not.
    """
    if metric not in reported:
        raise ConfigError(
            f"There is no metric '{metric}'.{suggestion(metric, reported)} "
            f"Choose from: {', '.join(reported)}."
        )


def evaluations_since_best(values: Sequence[float], metric: str) -> int:
    """Return how many evaluations followed the first best one; a value that is no number is none.

    Args:
        values: Of the metric, at least one.
        metric: Its name.
    """
    sign = -1 if is_smaller_better(metric) else 1
    comparable = [-inf if isnan(value) else sign * value for value in values]
    return len(values) - 1 - comparable.index(max(comparable))
