"""The users whom a report shows: what they did, and what is recommended to them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from idbert.evaluation.report import UserExample
from idbert.inputs.item_times import MICROSECONDS
from idbert.inputs.sequences import Sequences
from idbert.inputs.vocabulary import Vocabulary
from idbert.retrieval.recommender import Recommender
from idbert.tables import BEHAVIOUR, ITEM, SCORE, TIME, USER, Interactions
from idbert.training.validation import Validation
from pipelines.corridor import WHOLE, LogSettings
from pipelines.split_log import read_split_log

EXAMPLES = 5
"""Users whose history and recommendations the report shows."""

SHOWN_EVENTS = 10
"""Newest events of such a history, and recommendations to it."""


@dataclass(frozen=True, eq=False)
class Shown:
    """The users whom a report shows.

    Attributes:
        histories: of each of them, whole.
        targets_n: the rows of what came next; None where that is not known.
        times_n: when that was, or the newest event, in microseconds since 1970-01-01 UTC; None
            where it is not known.
    """

    histories: Sequences
    targets_n: Int64[np.ndarray, "n"] | None = None
    times_n: Int64[np.ndarray, "n"] | None = None


def first_asked(users: Validation) -> Shown:
    """Return the first users of a part, each with the first target."""
    first = users.first_targets()[:EXAMPLES]
    times_Q = users.query_times_Q
    return Shown(
        _of_places(users.histories, first),
        users.targets_Q[first],
        None if times_Q is None else times_Q[first],
    )


def first_histories(settings: LogSettings, vocabulary: Vocabulary) -> Shown:
    """Return the first users of a log that was trained on as a whole."""
    events = read_split_log(settings, vocabulary).train(WHOLE)
    first = _of_places(events, np.arange(min(EXAMPLES, len(events))))
    newest = None if first.times is None else first.times[first.stops - 1]
    return Shown(first, times_n=newest)


def _of_places(events: Sequences, places: Int64[np.ndarray, "n"]) -> Sequences:
    """Return some sequences, in memory of their own."""
    return events.replaced(
        users=events.users.take(pa.array(places)),
        starts=events.starts[places],
        stops=events.stops[places],
    ).packed()


def examples_of(
    recommender: Recommender, shown: Shown, titles: dict[Any, str], *, filter_seen: bool
) -> list[UserExample]:
    """Return users' histories and recommendations in words."""
    ids_of = recommender.vocabulary.ids_of
    bounds = zip(shown.histories.starts, shown.histories.stops, strict=True)
    histories = [ids_of(shown.histories.items[start:end]) for start, end in bounds]
    k = min(SHOWN_EVENTS, recommender.vocabulary.num_items)
    reads = recommender.model.config.reads_times
    at = None
    if reads == "queries" and shown.times_n is not None:
        at = shown.times_n / MICROSECONDS
    needs_table = reads != "none" or bool(recommender.vocabulary.behaviours)
    asked = _as_table(shown.histories, recommender) if needs_table else histories
    lists = recommender.recommend(asked, k, filter_seen=filter_seen, at=at)

    def in_words(items: Iterable[Any]) -> list[str]:
        return [titles.get(item, str(item)) for item in items]

    targets: Sequence[str | None] = [None] * len(histories)
    if shown.targets_n is not None:
        targets = in_words(ids_of(shown.targets_n))
    return [
        UserExample(
            user=str(user),
            history=in_words(history[-SHOWN_EVENTS:]),
            recommendations=list(zip(in_words(best[ITEM]), best[SCORE].tolist(), strict=True)),
            target=target,
        )
        for user, history, target, best in zip(
            shown.histories.users.to_pylist(),
            histories,
            targets,
            (lists[lists[lists.columns[0]] == number] for number in range(len(histories))),
            strict=True,
        )
    ]


def _as_table(histories: Sequences, recommender: Recommender) -> Interactions:
    """Return packed histories with times and behaviours; the users are numbered."""
    vocabulary, times = recommender.vocabulary, histories.times
    columns = {
        USER: np.repeat(np.arange(len(histories)), histories.lengths),
        ITEM: pa.array(vocabulary.ids_of(histories.items)),
        TIME: np.arange(len(histories.items)) if times is None else times,
    }
    if histories.behaviours is not None:
        columns[BEHAVIOUR] = pa.array(vocabulary.behaviours).take(pa.array(histories.behaviours))
    return Interactions(pa.table(columns), times_are_real=times is not None)
