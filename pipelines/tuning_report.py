"""The result of a search: the best settings as a recipe, and all that was tried."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from idbert.evaluation.charts import ACCENT, INK, QUIET, STYLE, WIDTH_IN, svg
from idbert.evaluation.page import PageContent, render_page
from idbert.files import written_aside
from idbert.training.metric import is_smaller_better
from pipelines.ablation_report import markdown_table
from pipelines.ablation_runs import write_csv
from pipelines.tuning_plan import CHOICES, LOG, Search, SearchSettings

if TYPE_CHECKING:
    from optuna import Study

TABLE, BEST, PAGE = "trials.csv", "best.yaml", "search.html"
TEMPLATE = "pipelines/search.html"
STATES = {"COMPLETE": "finished", "PRUNED": "ended early", "FAIL": "failed", "RUNNING": "running"}
PANELS_A_ROW = 3
FEWEST = 8
"""Finished trials that it takes to say which setting matters."""
SHOWN = 15
"""Best trials in the page; all are in trials.csv."""
NOTE = (
    "All figures are of the validation part, which chose the settings: the best one is better here "
    "than it will be elsewhere. Train best.yaml with several seeds, and read the test part once."
)


def write_progress(given: SearchSettings, search: Search, study: "Study") -> None:
    """Write trials.csv, and the best trial's settings as best.yaml."""
    folder = Path(given.run)
    write_csv(table_of(given, search, study), folder / TABLE)
    best = best_number(study)
    if best is None:
        return
    trial = study.trials[best]
    head = (
        f"# The best of {len(study.trials)} trials of {folder.name}: trial {best}, {given.metric} "
        f"{trial.value:.4f} on the validation part.\n#\n"
        f"#   python -m pipelines.{given.pipeline} --config {folder / BEST} --run RUN\n"
    )
    settings = yaml.safe_dump(search.settings(trial.params), sort_keys=False, allow_unicode=True)
    with written_aside(folder / BEST) as aside:
        aside.write_text(head + settings, encoding="utf-8")


def table_of(given: SearchSettings, search: Search, study: "Study") -> pd.DataFrame:
    """Return one row a trial: trial, state, the metric, each setting, evaluations, seconds."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        seconds = trial.duration.total_seconds() if trial.duration else np.nan
        row = {"trial": trial.number, "state": STATES.get(trial.state.name, "waiting")}
        row |= {given.metric: np.nan if trial.value is None else trial.value}
        row |= {name: trial.params.get(name) for name in search.spaces}
        rows.append(row | {"evaluations": len(trial.intermediate_values), "seconds": seconds})
    table = pd.DataFrame(rows)
    for name in search.spaces:  # with null among them numbers would become floats, and null NaN
        table[name] = pd.Series([row[name] for row in rows], dtype=object)
    return table


def best_number(study: "Study") -> int | None:
    """Return the number of the best finished trial; None: none is finished."""
    finished = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    return study.best_trial.number if finished else None


def write_page(given: SearchSettings, search: Search, study: "Study") -> None:
    """Write search.html: the best settings, the trials by order and by setting, their curves."""
    table = table_of(given, search, study)
    best = best_number(study)
    finished = table[table["state"] == "finished"].sort_values(
        given.metric, ascending=is_smaller_better(given.metric), kind="stable"
    )
    page = render_page(
        TEMPLATE,
        PageContent(Path(given.run).name),
        about=_about(given, table),
        best=_best(given, search, study, best),
        note=NOTE,
        metric=given.metric,
        history_svg=history_chart(table, given.metric),
        settings_svg=settings_chart(table, search.ranges, given.metric),
        curves_svg=curves_chart(study, best, given.metric),
        weights=_shown_weights(study),
        trials=_shown(finished.head(SHOWN)),
        num_finished=len(finished),
    )
    with written_aside(Path(given.run) / PAGE) as aside:
        aside.write_text(page, encoding="utf-8")


def weights_of(study: "Study") -> dict[str, float] | None:
    """Return each setting's share in what makes the finished trials differ; None: too few.

    Source: fANOVA, Hutter et al. 2014, by optuna.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    values = {t.value for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"}
    if len(values) < FEWEST or len(study.trials[0].params) < 2:
        return None
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def history_chart(table: pd.DataFrame, metric: str) -> Markup:
    """Draw the value of every trial, and the best so far.

    Args:
        table: what `table_of` returns.
        metric: its name.
    """
    finished = table[table["state"] == "finished"]
    values = finished[metric]
    so_far = values.cummin() if is_smaller_better(metric) else values.cummax()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
        axes = figure.subplots()
        axes.step(finished["trial"], so_far, where="post", color=ACCENT, label="best so far")
        axes.plot(finished["trial"], values, "o", color=INK, markersize=4, label="finished")
        ended = table[table["state"] == "ended early"]
        axes.plot(
            ended["trial"], ended[metric], "x", color=QUIET, markersize=5, label="ended early"
        )
        axes.set_xlabel("trial")
        axes.set_ylabel(metric)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        axes.tick_params(length=0)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8.5)
        return svg(figure)


def settings_chart(
    table: pd.DataFrame, ranges: Mapping[str, Mapping[str, Any]], metric: str
) -> Markup:
    """Draw the value of the finished trials over each setting, later ones darker.

    Args:
        table: what `table_of` returns.
        ranges: as the search was given them.
        metric: its name.
    """
    finished = table[table["state"] == "finished"]
    rows = -(-len(ranges) // PANELS_A_ROW)
    columns = min(PANELS_A_ROW, len(ranges))
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(WIDTH_IN * columns / PANELS_A_ROW, 2.6 * rows), layout="constrained"
        )
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes, (name, given) in zip(grid, ranges.items(), strict=False):
            _settings_panel(axes, finished, name, given, metric)
        for axes in grid[::columns]:
            axes.set_ylabel(metric)
        for axes in grid[len(ranges) :]:
            axes.set_visible(False)
        return svg(figure)


def _settings_panel(
    axes: Axes, finished: pd.DataFrame, name: str, given: Mapping[str, Any], metric: str
) -> None:
    places: Any = finished[name].tolist()
    if "low" not in given:
        values = list(given[CHOICES] if CHOICES in given else given["alternatives"])
        places = [values.index(value) for value in finished[name]]
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
    elif given.get(LOG):
        axes.set_xscale("log")
    darkness = np.linspace(0.3, 1, max(1, len(finished)))[: len(finished)]
    axes.scatter(places, finished[metric], s=18, color=ACCENT, alpha=darkness, linewidths=0)
    axes.set_title(name)
    axes.tick_params(length=0, which="both")


def curves_chart(study: "Study", best: int | None, metric: str) -> Markup:
    """Draw the metric of every trial by evaluation; the best one in colour, ended ones dashed.

    Args:
        study: its trials.
        best: the number of the best one.
        metric: its name.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
        axes = figure.subplots()
        for trial in study.get_trials(deepcopy=False):
            points = sorted(trial.intermediate_values.items())
            is_best = trial.number == best
            axes.plot(
                [place for place, _ in points],
                [value for _, value in points],
                "-" if trial.state.name == "COMPLETE" else ":",
                color=ACCENT if is_best else QUIET,
                linewidth=1.8 if is_best else 0.8,
                alpha=1 if is_best else 0.6,
                zorder=3 if is_best else 2,
                label=f"trial {trial.number}, the best" if is_best else None,
            )
        axes.set_xlabel("evaluation")
        axes.set_ylabel(metric)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        axes.tick_params(length=0)
        if best is not None:
            axes.legend(frameon=False, labelcolor=INK, fontsize=8.5)
        return svg(figure)


def _about(given: SearchSettings, table: pd.DataFrame) -> str:
    what = f"{given.pipeline}, from {given.recipe}" if given.recipe else given.pipeline
    counts = table["state"].value_counts()
    states = ", ".join(f"{counts[state]} {state}" for state in STATES.values() if state in counts)
    hours = table["seconds"].sum() / 3600
    small = ", smaller is better" if is_smaller_better(given.metric) else ""
    return f"{what}; {len(table)} trials ({states}) in {hours:.2f} hours; {given.metric}{small}."


def _best(given: SearchSettings, search: Search, study: "Study", best: int | None) -> str:
    if best is None:
        return "No trial is finished."
    trial = study.trials[best]
    shown = ", ".join(f"{name} = {_value(value)}" for name, value in trial.params.items())
    text = f"Trial {best}: {given.metric} {trial.value:.4f} with {shown}."
    if search.first is not None and study.trials[0].value is not None and best != 0:
        text += f" The base has {study.trials[0].value:.4f}."
    return text


def _shown_weights(study: "Study") -> pd.DataFrame | None:
    weights = weights_of(study)
    if weights is None:
        return None
    shares = [f"{weight:.0%}" for weight in weights.values()]
    return pd.DataFrame({"setting": list(weights), "share": shares})


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="state").map(_value)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:.4g}"
    return str(value)


def markdown(given: SearchSettings, search: Search, study: "Study") -> str:
    """Return the ranges, the best settings and all trials, to be kept in a document."""
    table = table_of(given, search, study)
    ranges = pd.DataFrame(
        {"setting": list(given.ranges), "range": [_range(one) for one in given.ranges.values()]}
    )
    parts: Sequence[str] = [
        f"# {Path(given.run).name}",
        _about(given, table),
        _best(given, search, study, best_number(study)),
        NOTE,
        markdown_table(ranges),
        markdown_table(table.map(_value)),
    ]
    return "\n\n".join(parts) + "\n"


def _range(given: Mapping[str, Any]) -> str:
    if "low" not in given:
        values = given[CHOICES] if CHOICES in given else given["alternatives"]
        return ", ".join(map(str, values))
    step = f", in steps of {given['step']}" if "step" in given else ""
    return f"{given['low']} to {given['high']}{', logarithmic' if given.get(LOG) else step}"
