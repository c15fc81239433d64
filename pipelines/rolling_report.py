"""The result of windows of time: each one's figures, their mean, and how much they differ."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from idbert.evaluation.charts import ACCENT, INK, QUIET, STYLE, WIDTH_IN, svg
from idbert.evaluation.evaluate import HEADLINE
from idbert.evaluation.page import PageContent, render_page
from idbert.files import written_aside
from idbert.inputs.item_times import MICROSECONDS
from idbert.training.item_trainer import METRICS
from pipelines.ablation_report import markdown_table
from pipelines.ablation_runs import write_csv
from pipelines.reporting import Evaluated

MODEL = "model"
TABLE, PAGE, TEMPLATE = "windows.csv", "windows.html", "pipelines/windows.html"
NOTE = (
    "The deviation is over the windows: how much a figure depends on the time at which it is taken."
)
_DASHES = ("--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def rows_of(window: int, evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return one row for the model and one for each baseline.

    Args:
        window: its number, from 1.
        evaluated: the model first.
    """
    times_Q = evaluated.users.query_times_Q
    assert times_Q is not None  # a split by time has them
    stretch = {name: _date(time) for name, time in (("from", times_Q.min()), ("to", times_Q.max()))}
    rows = []
    for place, (name, evaluation) in enumerate(evaluated.evaluations.items()):
        row = {"window": window} | stretch | {"users": evaluation.protocol.users}
        row |= {"untrained targets": evaluated.untrained_targets}
        row |= {"name": MODEL if place == 0 else name}
        row |= {metric: evaluation.metrics[metric] for metric in METRICS}
        rows.append(row)
    return rows


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write windows.csv."""
    write_csv(pd.DataFrame(rows), folder / TABLE)


def write_windows(folder: Path, rows: Sequence[Mapping[str, Any]], metric: str, about: str) -> None:
    """Write windows.md and windows.html.

    Args:
        folder: of the windows.
        rows: of all windows, by `rows_of`.
        metric: of the chart, and of the table beside ndcg@10 and recall@10.
        about: what was tested how.
    """
    table = pd.DataFrame(rows)
    stretches = table.groupby("window")[["from", "to", "users", "untrained targets"]].first()
    shown = {name: _by_window(table, name) for name in dict.fromkeys((metric, *HEADLINE))}
    text = [f"# {folder.name}", about, markdown_table(stretches.reset_index().astype(str))]
    for name, one in shown.items():
        text += [f"## {name}", markdown_table(one)]
    with written_aside(folder / "windows.md") as aside:
        aside.write_text("\n\n".join([*text, NOTE]) + "\n", encoding="utf-8")
    page = render_page(
        TEMPLATE,
        PageContent(folder.name),
        about=about,
        note=NOTE,
        metric=metric,
        chart_svg=windows_chart(table, metric),
        stretches=stretches.reset_index(),
        tables=shown,
    )
    with written_aside(folder / PAGE) as aside:
        aside.write_text(page, encoding="utf-8")


def windows_chart(table: pd.DataFrame, metric: str) -> Markup:
    """Draw a metric by window, the model's line in colour.

    Args:
        table: what `rows_of` returns, of all windows.
        metric: its name.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.4), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(dict.fromkeys(table["name"])):
            ours = table[table["name"] == name]
            is_model = name == MODEL
            axes.plot(
                ours["window"],
                ours[metric],
                linestyle="-" if is_model else _DASHES[(place - 1) % len(_DASHES)],
                color=ACCENT if is_model else QUIET,
                linewidth=2.0 if is_model else 1.2,
                marker="o",
                markersize=4.5 if is_model else 3,
                label=name,
            )
        axes.set_xlabel("window")
        axes.set_ylabel(metric)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(length=0)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8.5, ncols=2)
        return svg(figure)


def _by_window(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a row a model, the best mean first: each window's figure, mean and deviation."""
    wide = table.pivot_table(index="name", columns="window", values=metric)
    mean, deviation = wide.mean(axis=1), wide.std(axis=1)
    shown = wide.map("{:.4f}".format)
    shown.columns = [str(window) for window in wide.columns]
    shown["mean"] = mean.map("{:.4f}".format)
    shown["deviation"] = deviation.map(lambda value: "–" if pd.isna(value) else f"{value:.4f}")
    order = mean.sort_values(ascending=False, kind="stable").index
    return shown.loc[order].reset_index()


def _date(microseconds: int) -> str:
    return f"{datetime.fromtimestamp(int(microseconds) / MICROSECONDS, UTC):%Y-%m-%d %H:%M}"
