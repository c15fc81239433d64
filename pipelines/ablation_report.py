"""The result of a study: tables and charts as markdown, csv and one html page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from idbert.evaluation.page import PageContent, render_page
from idbert.files import written_aside
from idbert.training.metric import is_smaller_better
from pipelines.ablation_charts import curve_panels, difference_chart
from pipelines.ablation_plan import BASE, WINNERS, Changes, StudySettings, Variant
from pipelines.ablation_runs import write_csv

TEMPLATE = "pipelines/study.html"
LEVEL = 0.95
INTERVAL_NOTE = (
    "Differences to the base are paired: the same seed in both. Their 95% intervals (Student's t) "
    "say what other seeds would change, not what other data would; with one seed there are none."
)


def summary(curves: pd.DataFrame, variants: Sequence[Variant]) -> pd.DataFrame:
    """Return one row a variant: its metric over the seeds, and the difference to the base.

    Args:
        curves: what `make_runs` returns; the last evaluation of each run counts.
        variants: the base first.

    Returns:
        variant, seeds, mean, variance, deviation, difference, low, high, better (seeds).
    """
    values = final_values(curves)
    rows = []
    for variant in variants:
        ours = values[variant.name]
        row = {"variant": variant.name, "seeds": len(ours), "mean": ours.mean()}
        row |= {"variance": ours.var(), "deviation": ours.std()}
        differences = (ours - values[BASE]).to_numpy()
        better = int((differences * _sign(curves) > 0).sum())
        rows.append(row | _estimate(differences) | {"better": better})
    return pd.DataFrame(rows)


def effects(curves: pd.DataFrame, variants: Sequence[Variant]) -> pd.DataFrame:
    """Return one row an alternative: what it changes, all else being equal.

    Every run with the alternative is paired with the run that differs in nothing else: it has the
    base's own alternative of this choice, and the same seed.

    Returns:
        choice, alternative, pairs, difference, low, high.
    """
    values = final_values(curves)
    named = {_key(variant.changes): variant.name for variant in variants}
    differences: dict[tuple[str, str], list[np.ndarray]] = {}
    for variant in variants:
        if variant.name == WINNERS:
            continue
        for choice, alternative in variant.changes.items():
            rest = {name: value for name, value in variant.changes.items() if name != choice}
            pairs = values[variant.name] - values[named[_key(rest)]]
            differences.setdefault((choice, alternative), []).append(pairs.to_numpy())
    return pd.DataFrame(
        [
            {"choice": choice, "alternative": alternative, "pairs": sum(map(len, found))}
            | _estimate(np.concatenate(found))
            for (choice, alternative), found in differences.items()
        ],
        columns=["choice", "alternative", "pairs", "difference", "low", "high"],
    )


def winners_of(curves: pd.DataFrame, variants: Sequence[Variant]) -> dict[str, str]:
    """Return the best alternative of each choice, where it is better than the base in the mean."""
    table = effects(curves, variants)
    table["gain"] = table["difference"] * _sign(curves)
    best = table.sort_values("gain", ascending=False, kind="stable").groupby("choice", sort=False)
    gains = best.first().query("gain > 0")["alternative"].to_dict()
    return {choice: gains[choice] for choice in dict.fromkeys(table["choice"]) if choice in gains}


def final_values(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the last value of each run: a row a seed, a column a variant."""
    last = curves.sort_values("epoch", kind="stable").groupby(["seed", "variant"]).last()
    values: pd.DataFrame = last["value"].unstack("variant")
    return values


def by_epoch(curves: pd.DataFrame, variants: Sequence[Variant]) -> pd.DataFrame:
    """Return the mean of the metric over the seeds: a row a variant, a column an epoch."""
    epochs = curves.assign(epoch=curves["epoch"].round(2))
    table = epochs.pivot_table(index="variant", columns="epoch", values="value", aggfunc="mean")
    return table.reindex([variant.name for variant in variants])


def write_results(
    folder: Path,
    study: StudySettings,
    variants: Sequence[Variant],
    curves: pd.DataFrame,
    winners: Changes,
) -> None:
    """Write study.csv, study.md and study.html.

    Args:
        folder: of the study.
        study: its settings.
        variants: the base first; the winners together last, where they were run.
        curves: what `make_runs` returns.
        winners: what `winners_of` returns.
    """
    table = summary(curves, variants)
    changed = {
        choice: [variant.changes.get(choice, study.base_name(choice)) for variant in variants]
        for choice in study.alternatives
    }
    at = {name: position for position, name in enumerate(changed, 1)}
    with_choices = table.copy()
    for name, column in changed.items():
        with_choices.insert(at[name], name, column)
    write_csv(with_choices, folder / "study.csv")
    metric = str(curves["metric"].iloc[0])
    shown = {
        "about": _about(study, curves, metric),
        "winners": _winners(study, winners, table),
        "variants": _shown_summary(table, metric),
        "effects": _shown_effects(effects(curves, variants)) if study.crossed else None,
        "epochs": _shown_epochs(by_epoch(curves, variants)),
    }
    with written_aside(folder / "study.md") as aside:
        aside.write_text(_markdown(folder.name, shown), encoding="utf-8")
    page = render_page(
        TEMPLATE,
        PageContent(folder.name),
        **shown,
        note=INTERVAL_NOTE,
        metric=metric,
        curve_svg=curve_panels(curves, panels_of(study, variants), metric),
        difference_svg=difference_chart(table, metric) if len(table) > 1 else "",
    )
    with written_aside(folder / "study.html") as aside:
        aside.write_text(page, encoding="utf-8")


def panels_of(study: StudySettings, variants: Sequence[Variant]) -> dict[str, list[str]]:
    """Return which variants one chart shows beside the base: those of one choice, or all."""
    others = [variant for variant in variants if variant.name not in (BASE, WINNERS)]
    if study.crossed:
        panels = {"all combinations": [variant.name for variant in others]}
    else:
        panels = {
            choice: [variant.name for variant in others if choice in variant.changes]
            for choice in study.alternatives
        }
    if len(others) < len(variants) - 1:
        panels["the winners together"] = [WINNERS]
    return panels


def _about(study: StudySettings, curves: pd.DataFrame, metric: str) -> str:
    what = f"{study.pipeline}, from {study.recipe}" if study.recipe else study.pipeline
    seeds = ", ".join(map(str, study.seeds))
    small = "; smaller is better" if is_smaller_better(metric) else ""
    return f"{what}; seeds {seeds}; {metric} after {curves['epoch'].max():g} epochs{small}."


def _winners(study: StudySettings, winners: Changes, table: pd.DataFrame) -> str:
    if not study.alternatives:
        return "There was nothing to choose from."
    if not winners:
        return "No alternative is better than the base in the mean."
    text = ", ".join(f"{choice}={name}" for choice, name in winners.items())
    together = table[table["variant"] == WINNERS]
    if together.empty:
        return f"Better than the base in the mean: {text}."
    difference = together["difference"].iloc[0]
    return f"Better than the base in the mean: {text}. Together {difference:+.4f}."


def _shown_summary(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "variant": table["variant"],
            f"{metric}, mean": table["mean"].map("{:.4f}".format),
            "variance": table["variance"].map(_small),
            "deviation": table["deviation"].map(_number),
            "difference": _differences(table).where(table["variant"] != BASE, ""),
            "better": [
                "" if name == BASE else f"{better} of {seeds}"
                for name, better, seeds in zip(
                    table["variant"], table["better"], table["seeds"], strict=True
                )
            ],
        }
    )


def _shown_effects(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "alternative": table["choice"] + "=" + table["alternative"],
            "pairs": table["pairs"].map(str),
            "difference": _differences(table),
        }
    )


def _shown_epochs(table: pd.DataFrame) -> pd.DataFrame:
    shown = table.map(_number)
    shown.columns = [f"{epoch:g}" for epoch in table.columns]
    return shown.reset_index(names="variant")


def _differences(table: pd.DataFrame) -> pd.Series:
    rows = zip(table["difference"], table["low"], table["high"], strict=True)
    shown = [
        f"{value:+.4f}" + ("" if np.isnan(low) else f" [{low:+.4f}, {high:+.4f}]")
        for value, low, high in rows
    ]
    return pd.Series(shown, index=table.index, dtype=object)


def _markdown(title: str, shown: Mapping[str, str | pd.DataFrame | None]) -> str:
    parts = [f"# {title}", shown["about"], shown["winners"], shown["variants"], INTERVAL_NOTE]
    if shown["effects"] is not None:
        parts += ["## Each choice, all else being equal", shown["effects"]]
    parts += ["## By epoch, mean over the seeds", shown["epochs"]]
    texts = [markdown_table(one) if isinstance(one, pd.DataFrame) else str(one) for one in parts]
    return "\n\n".join(texts) + "\n"


def markdown_table(table: pd.DataFrame) -> str:
    """Return a table of words as markdown."""
    head = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in table.to_numpy().tolist())])


def _estimate(differences: np.ndarray) -> dict[str, float]:
    """Return the mean of paired differences and its interval by Student's t."""
    count, mean = len(differences), float(differences.mean())
    if count < 2:
        return {"difference": mean, "low": np.nan, "high": np.nan}
    error = float(differences.std(ddof=1)) / count**0.5
    reach = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    return {"difference": mean, "low": mean - reach, "high": mean + reach}


def _sign(curves: pd.DataFrame) -> int:
    return -1 if is_smaller_better(str(curves["metric"].iloc[0])) else 1


def _key(changes: Changes) -> frozenset[tuple[str, str]]:
    return frozenset(changes.items())


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"


def _small(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2g}"
