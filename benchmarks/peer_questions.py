"""What a peer is trained on and asked for, in place of its driver's own split of a log.

Read by `peer_start` in the peer's own Python; nothing of idbert is there. The drivers know one
target a user, the last event; here a user may have several targets, each with the events before it,
and what is trained on is a part of its own.
"""

import json
from pathlib import Path
from typing import Any

TRAINED, ASKED, SUMMARY = "trained.parquet", "asked.parquet", "questions.json"
"""One row a trained user: items. One row a target: the items before it, target. And sizes."""


class Rows:
    """The sequences for RecBole's driver, which reads them anew for each of its three files.

    From a sequence s it takes s[:-2] to train on, with s[-3] as what follows, and s[:-1] to ask
    with, s[-1] as what follows.

    Args:
        training: for the first file.
        asking: for the other two.
    """

    def __init__(self, training: list[Any], asking: list[Any]) -> None:
        self._training, self._asking = training, asking
        self._readings = 0

    def __iter__(self) -> Any:
        """Return the sequences of the next file."""
        self._readings += 1
        return iter(self._training if self._readings == 1 else self._asking)


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


def training_rows(histories: list[list[int]], model: str) -> list[Prefix]:
    """Return what RecBole trains on: whole histories to mask, or every beginning of one."""
    if model == "bert4rec":
        return [Prefix(items, items[-1]) for items in histories]
    return [
        Prefix(items[:place], items[place]) for items in histories for place in range(1, len(items))
    ]


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
    data.seqs = Rows(
        training_rows([items.tolist() for items in data.train], model),
        [[*items.tolist(), int(target)] for items, target in zip(data.ctx, targets, strict=True)],
    )
    data.n_users, data.n_items = len(targets), summary["items"]
    data.users, data.items = np.arange(data.n_users), np.arange(1, data.n_items + 1)
    data.name, data.dropped_users = summary["name"], 0
