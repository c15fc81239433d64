"""Rows of pairs that are doubtful: counted, named, and kept, left out or refused as is wished."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int64, Shaped

from idbert.errors import DataError
from nlp_tasks.tables import TextTable

logger = logging.getLogger(__name__)


def pair_keys(
    firsts: Sequence[str], seconds: Sequence[str], *, ordered: bool = False
) -> Int64[np.ndarray, "N"]:
    """Return one number a pair, the same for the same pair of texts.

    Args:
        firsts: N texts.
        seconds: N texts.
        ordered: whether (a, b) and (b, a) are two pairs.
    """
    codes, texts = pd.factorize(np.array([*firsts, *seconds], dtype=object))
    first_N, second_N = np.split(codes.astype(np.int64), 2)
    if not ordered:
        first_N, second_N = np.minimum(first_N, second_N), np.maximum(first_N, second_N)
    return first_N * len(texts) + second_N


def contradictory_rows(
    firsts: Sequence[str],
    seconds: Sequence[str],
    targets: Shaped[np.ndarray, "N"],
    *,
    ordered: bool,
) -> list[int]:
    """Return the rows of those pairs that stand there with more than one label."""
    keys = pd.Series(targets).groupby(pair_keys(firsts, seconds, ordered=ordered))
    return np.flatnonzero(keys.transform("nunique").to_numpy() > 1).tolist()


def warn_or_refuse(
    table: TextTable,
    rows: Sequence[int],
    what: str,
    setting: str,
    choice: Literal["keep", "leave_out", "refuse"],
) -> list[int]:
    """Log or refuse doubtful rows, and return those to leave out.

    Args:
        table: whose rows they are.
        rows: from 0.
        what: is the matter with them: "<n> of <m> rows <what>".
        setting: that decides about them, for the message.
        choice: of that setting.

    Raises:
        DataError: there are such rows, and they are to be refused.
    """
    if not rows:
        return []
    counted = f"{table.source}: {len(rows):,} of {len(table):,} rows {what} ({table.where(rows)})"
    if choice == "refuse":
        raise DataError(f"{counted}. Mend them, or set {setting} to keep or leave_out.")
    if choice == "keep":
        logger.warning("%s. They are kept; %s decides.", counted, setting)
        return []
    logger.warning("%s. They are left out; %s decides.", counted, setting)
    return list(rows)
