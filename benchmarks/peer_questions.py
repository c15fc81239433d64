"""What a peer is trained on and asked for, in place of its driver's own split of a log.

Read by `peer_start` in the peer's own Python; nothing of idbert is there. The drivers know one
target a user, the last event; here a user may have several targets, each with the events before it,
and what is trained on is a part of its own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRAINED, ASKED, SUMMARY = "trained.parquet", "asked.parquet", "questions.json"
"""One row a trained user: items. One row a target: the items before it, target. And sizes."""


class Rows:
    """The sequences for RecBole's driver, which reads them anew for each of its three files.

    From a sequence s it takes s[:-2] to train on, with s[-3] as what follows; for the test s[:-1],
    with s[-1] as what follows. Its validation file is of the test's sequences, and nothing reads
    it. The other drivers read none of them.

    Args:
        histories: to train on.
        asking: histories, each with its target behind it.
        model: bert4rec or sasrec.
    """

    def __init__(self, histories: list[Any], asking: list[Any], model: str) -> None:
        self._histories, self._asking, self._model = histories, asking, model
        self._readings = 0

    def __iter__(self) -> Any:
        """Return the sequences of the next file."""
        self._readings += 1
        if self._readings > 1:
            return iter(self._asking)
        return training_rows([items.tolist() for items in self._histories], self._model)


class Prefix(list[int]):
    """Events to train on, and what follows them, at the places where the driver looks.

    Args:
        events: to train on.
        following: the next item.
    """

    def __init__(self, events: list[int], following: int) -> None:
        super().__init__([*events, following, following])
        self._following = following

    def __getitem__(self, place: Any) -> Any:
        """Return as a list does, but for the place of the next item."""
        return self._following if place == -3 else super().__getitem__(place)


class Question(list[int]):
    """A history and its target; the driver looks at s[-3] even where it needs no such."""

    def __getitem__(self, place: Any) -> Any:
        """Return as a list does, but for a place before the first."""
        return super().__getitem__(0 if place == -3 and len(self) < 3 else place)


def training_rows(histories: list[list[int]], model: str) -> Iterator[Prefix]:
    """Yield what RecBole trains on: whole histories to mask, or every beginning of one."""
    for items in histories:
        if model == "bert4rec":
            yield Prefix(items, items[-1])
        else:
            yield from (Prefix(items[:place], items[place]) for place in range(1, len(items)))


def read_questions(data: Any, folder: Path, model: str) -> None:
    """Fill a driver's `common.Data`, which has read nothing.

    Args:
        data: to be filled; "users" are the targets.
        folder: that `equal_trials` has written.
        model: bert4rec or sasrec.
    """
    import numpy as np
    import pandas as pd

    summary = json.loads((folder / SUMMARY).read_text())
    trained = pd.read_parquet(folder / TRAINED)["items"].tolist()
    asked = pd.read_parquet(folder / ASKED)
    histories, targets = asked["items"].tolist(), asked["target"].to_numpy()
    data.train = [np.asarray(items, dtype=np.int64) for items in trained]
    data.ctx = [np.asarray(items, dtype=np.int64) for items in histories]
    data.test = targets
    pairs = zip(histories, targets, strict=True)
    asking = [Question([*items, int(target)]) for items, target in pairs]
    data.seqs = Rows(data.train, asking, model)
    data.n_users, data.n_items = len(targets), summary["items"]
    data.users, data.items = np.arange(data.n_users), np.arange(1, data.n_items + 1)
    data.name, data.dropped_users = summary["name"], 0
