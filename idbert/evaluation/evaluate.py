"""One model's evaluation over all users and all items, and several side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64, Integer
from scipy import sparse

from idbert.errors import ConfigError, DataError, suggestion
from idbert.evaluation.bootstrap import (
    RESAMPLES,
    Interval,
    PairedDifference,
    all_paired,
    intervals,
)
from idbert.evaluation.lists import LIST_LENGTH, coverage, diversity, novelty, serendipity
from idbert.evaluation.metrics import CUTOFFS, check_users, per_target_metrics, user_means
from idbert.evaluation.ranks import Score, target_ranks
from idbert.rows import FIRST_ITEM

Histories = tuple[Integer[np.ndarray, "T"], Integer[np.ndarray, "Q+1"]]
"""Whole histories, one a target: vocabulary rows end to end, and where each begins."""

HEADLINE = ("ndcg@10", "recall@10")
"""The metrics that a comparison shows."""


@dataclass(frozen=True)
class Protocol:
    """How an evaluation was made: two evaluations compare only if their protocols are equal.

    Attributes:
        split: which events were held out, such as "leave-last-out, test".
        filter_seen: items of the user's history were not recommended.
        users: users evaluated.
        targets: events ranked, one a user or more.
        items: items ranked for each target, the whole catalogue.
        seen_targets: targets that were also in their filtered history (they stayed rankable).
        resamples: bootstrap samples of users behind the intervals.
        seed: seed of these samples.
    """

    split: str
    filter_seen: bool
    users: int
    targets: int
    items: int
    seen_targets: int
    resamples: int
    seed: int

    def __str__(self) -> str:
        """Return the protocol as one line for the head of a table."""
        seen = "filtered" if self.filter_seen else "not filtered"
        if self.seen_targets:
            seen += f" ({self.seen_targets:,} targets among them stay)"
        users = f"{self.users:,} users"
        if self.targets != self.users:
            users += (
                f" with {self.targets:,} targets, earlier ones in the history, metrics are means "
                "over users of means over targets"
            )
        return (
            f"{self.split}; {users}, full ranking of {self.items:,} items; seen items "
            f"{seen}; ties get their mean rank; 95% intervals by bootstrap over users "
            f"({self.resamples:,} samples, seed {self.seed})"
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The metrics of one model, with what is needed to compare it with another.

    Attributes:
        protocol: how it was made.
        metrics: recall@k, ndcg@k, mrr@k (means over users, 0 to 1), coverage@10 (share of the
            catalogue that is in somebody's top 10), novelty@10 (bits), and where `evaluate` got
            what they need diversity@10 and serendipity@10 (see `lists`).
        intervals: 95% bootstrap intervals of all that are means over users: not of coverage.
        per_user: each user's value of every metric that has an interval, means over the user's
            targets.
        targets_Q: the held-out items' vocabulary rows.
        ranks_Q: their ranks, from 1.
    """

    protocol: Protocol
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    per_user: dict[str, Float64[np.ndarray, "U"]]
    targets_Q: Integer[np.ndarray, "Q"]
    ranks_Q: Float64[np.ndarray, "Q"]

    def compare(self, other: "Evaluation") -> dict[str, PairedDifference]:
        """Return this model's metrics minus the other's, with paired 95% intervals over users.

        Raises:
            DataError: the two were not made by the same protocol on the same targets.
        """
        self.check_comparable(other)
        shared = self.per_user.keys() & other.per_user.keys()
        return all_paired(
            {
                name: (values_U, other.per_user[name])
                for name, values_U in self.per_user.items()
                if name in shared
            },
            resamples=self.protocol.resamples,
            seed=self.protocol.seed,
        )

    def check_comparable(self, other: "Evaluation") -> None:
        """Check that another evaluation asked the same.

        Raises:
            DataError: the two were not made by the same protocol on the same targets.
        """
        if self.protocol != other.protocol or not np.array_equal(self.targets_Q, other.targets_Q):
            raise DataError(
                "These two evaluations cannot be compared: they differ in protocol or "
                f"targets.\n  one:   {self.protocol}\n  other: {other.protocol}\nEvaluate both on "
                "the same held-out users with the same settings."
            )

    def to_json(self) -> dict[str, Any]:
        """Return protocol, metrics and intervals as plain values for a JSON file."""
        return {
            "protocol": asdict(self.protocol),
            "metrics": dict(self.metrics),
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
        }


def evaluate(
    score: Score,
    targets_Q: Integer[np.ndarray, "Q"],
    histories: Histories,
    *,
    counts_V: Integer[np.ndarray, "V"],
    split: str,
    users_Q: Int64[np.ndarray, "Q"] | None = None,
    cosines_VV: sparse.csr_array | Float32[np.ndarray, "V V"] | None = None,
    popular_ranks_Q: Float64[np.ndarray, "Q"] | None = None,
    filter_seen: bool = True,
    ks: Sequence[int] = CUTOFFS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    memory_mib: int = 512,
) -> Evaluation:
    """Rank the catalogue for every user and return all metrics with their intervals.

    Args:
        score: positions of targets in, one score for every vocabulary row out, given the history.
        targets_Q: the held-out items' vocabulary rows.
        histories: the whole history before each target, not cut to the model's length: what
            `filter_seen` leaves out.
        counts_V: training interactions of each vocabulary row, for novelty.
        split: which events were held out, in words, such as "leave-last-out, test".
        users_Q: whose each target is, users numbered from 0; None: each is another user's. Metrics
            are means over users of the means over their targets, and users are resampled.
        cosines_VV: from `item_cosines`, for diversity; None: it is left out.
        popular_ranks_Q: the ranks that popularity gives the targets, with the same filter, for
            serendipity; None: it is left out.
        filter_seen: do not recommend items of the history; see `target_ranks`.
        ks: lengths at which recall, NDCG and MRR cut the list.
        resamples: bootstrap samples of users.
        seed: seed of these samples; the same for all models that are to be compared.
        memory_mib: for one chunk of scores.

    Raises:
        DataError: a target is not an item, a score is not a number, or users do not fit targets.
        ShapeError: there are no users, or `score` returns another shape.
    """
    items_T, offsets_Q = histories
    if users_Q is not None:
        check_users(users_Q, len(targets_Q))
    vocab_size = len(counts_V)
    ranking = target_ranks(
        score,
        targets_Q,
        items_T,
        offsets_Q,
        vocab_size=vocab_size,
        filter_seen=filter_seen,
        top_k=LIST_LENGTH,
        memory_mib=memory_mib,
    )
    num_items = vocab_size - FIRST_ITEM
    per_target = per_target_metrics(ranking.ranks_U, ks)
    per_target[f"novelty@{LIST_LENGTH}"] = novelty(ranking.top_UK, counts_V)
    if cosines_VV is not None:
        per_target[f"diversity@{LIST_LENGTH}"] = diversity(ranking.top_UK, cosines_VV)
    if popular_ranks_Q is not None:
        per_target[f"serendipity@{LIST_LENGTH}"] = serendipity(ranking.ranks_U, popular_ranks_Q)
    per_user = {name: user_means(value_Q, users_Q) for name, value_Q in per_target.items()}
    bounds = intervals(per_user, resamples=resamples, seed=seed)
    metrics = {name: float(value_U.mean()) for name, value_U in per_user.items()}
    metrics[f"coverage@{LIST_LENGTH}"] = coverage(ranking.top_UK, num_items)
    protocol = Protocol(
        split=split,
        filter_seen=filter_seen,
        users=len(targets_Q) if users_Q is None else int(users_Q.max()) + 1,
        targets=len(targets_Q),
        items=num_items,
        seen_targets=ranking.seen_targets,
        resamples=resamples,
        seed=seed,
    )
    return Evaluation(protocol, metrics, bounds, per_user, targets_Q, ranking.ranks_U)


def comparison_table(
    evaluations: Mapping[str, Evaluation], metrics: Sequence[str] = HEADLINE
) -> pd.DataFrame:
    """Return one row a model: each metric, its interval, and its paired difference to the first.

    Args:
        evaluations: by name, the model in question first, then those it is compared with.
        metrics: names of metrics that are means over users.

    Returns:
        Indexed by name; columns are pairs (metric, one of: value, low, high, difference,
        difference low, difference high). A difference is the row minus the first row, so that a
        negative one is a model behind the first.

    Raises:
        ConfigError: a metric was not evaluated, or has no interval.
        DataError: the evaluations were not made by the same protocol.
    """
    first = next(iter(evaluations.values()))
    for metric in metrics:
        if metric not in first.per_user:
            raise ConfigError(
                f"There is no interval of '{metric}' to compare."
                f"{suggestion(metric, first.per_user)} Known: {', '.join(first.per_user)}."
            )
    for evaluation in evaluations.values():
        evaluation.check_comparable(first)
    differences = all_paired(
        {
            (name, metric): (evaluation.per_user[metric], first.per_user[metric])
            for name, evaluation in evaluations.items()
            for metric in metrics
        },
        resamples=first.protocol.resamples,
        seed=first.protocol.seed,
    )
    rows = {}
    for name, evaluation in evaluations.items():
        rows[name] = {
            (metric, column): value
            for metric in metrics
            for column, value in zip(
                ("value", "low", "high", "difference", "difference low", "difference high"),
                (
                    evaluation.metrics[metric],
                    *evaluation.intervals[metric],
                    *differences[name, metric],
                ),
                strict=True,
            )
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def comparison_text(
    evaluations: Mapping[str, Evaluation], metrics: Sequence[str] = HEADLINE
) -> str:
    """Return the protocol and a Markdown table: metrics [95% interval] and differences.

    The last columns hold each row minus the first row, paired over users.

    Args:
        evaluations: by name, the model in question first.
        metrics: names of metrics that are means over users.
    """
    rows = comparison_table(evaluations, metrics).to_dict("index")
    first = next(iter(evaluations))
    labels = [label(metric) for metric in metrics]
    lines = [["", *labels, *(f"{name} minus {first}" for name in labels)]]
    for name, row in rows.items():
        values = [with_interval(row[m, "value"], row[m, "low"], row[m, "high"]) for m in metrics]
        differences = [
            with_interval(
                row[m, "difference"], row[m, "difference low"], row[m, "difference high"], "+"
            )
            for m in metrics
        ]
        lines.append([str(name), *values, *(differences if name != first else [""] * len(metrics))])
    return f"{evaluations[first].protocol}\n\n{_markdown(lines)}"


def label(metric: str) -> str:
    """Return a metric's name as people write it: "ndcg@10" is "NDCG@10"."""
    name, _, cutoff = metric.partition("@")
    written = name.upper() if name in ("ndcg", "mrr") else name.capitalize()
    return f"{written}@{cutoff}"


def with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    """Return "value [low, high]" with four decimals; sign "+" marks positive numbers."""
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def _markdown(lines: list[list[str]]) -> str:
    """Return a Markdown table with aligned columns; the first line is the header."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in cells]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
