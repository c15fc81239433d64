"""The training curve: loss and metrics over time, of a finished training or of one that runs."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from idbert.training.checkpoints import newest_checkpoint

STATE = "trainer_state.json"
"""Of a checkpoint: where the trainer stood, and all that it has logged."""


VALIDATION_LOSS = "validation_loss"
"""Its name in a curve, where "loss" is that of the training."""


def name_in_curve(metric: str) -> str:
    """Return what a metric of the validation part is called in a curve."""
    return VALIDATION_LOSS if metric == "loss" else metric


def curve_of(log_history: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return loss and metrics over time, one row a step at which anything was reported.

    Rows hold "epoch" and "step", "loss" and "learning_rate" where the loss was reported (its mean
    since the row before), and the metrics where the model was evaluated; a loss among them is
    "validation_loss".

    Args:
        log_history: What the trainer has logged.
    """
    rows: dict[int, dict[str, float]] = {}
    for entry in log_history:
        values = {
            VALIDATION_LOSS if name == "eval_loss" else name.removeprefix("eval_"): value
            for name, value in entry.items()
            if name in ("loss", "learning_rate") or name.startswith("eval_")
        }
        if values:
            row = rows.setdefault(int(entry["step"]), {})
            # What came first stays: the best weights may be evaluated again at the end.
            row.update({"epoch": entry["epoch"], "step": entry["step"]} | values | row)
    return [rows[step] for step in sorted(rows)]


def curve_so_far(checkpoints: Path) -> list[dict[str, float]]:
    """Return the curve up to the newest checkpoint; empty where there is none.

    Another process may be writing and deleting checkpoints meanwhile.

    Args:
        checkpoints: The folder that holds them.
    """
    try:
        newest = newest_checkpoint(checkpoints)
        if newest is None:
            return []
        state = json.loads((newest / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:  # deleted in between, because there is a newer one
        return []
    return curve_of(state["log_history"])
