"""Tiny worlds whose right answer is known."""

import numpy as np
import pandas as pd


def cycle_world(
    num_users: int = 64,
    num_items: int = 12,
    min_length: int = 6,
    max_length: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Everybody walks round the same circle of items: after item i comes item i + 1.

    Items are named "item 00", "item 01", ...; users are integers; times are real seconds.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(min_length, max_length + 1, size=num_users)
    starts = rng.integers(0, num_items, size=num_users)
    users = np.repeat(np.arange(num_users), lengths)
    steps = np.concatenate([np.arange(length) for length in lengths])
    delays = np.repeat(rng.integers(0, 3600, num_users), lengths)
    items = (np.repeat(starts, lengths) + steps) % num_items
    return pd.DataFrame(
        {
            "user_id": users,
            "item_id": [f"item {item:02d}" for item in items],
            "timestamp": 1_600_000_000 + steps * 3600 + delays,
        }
    )


def next_in_cycle(item: str, num_items: int = 12) -> str:
    """Return the item that follows `item` in the circle."""
    return f"item {(int(item.split()[1]) + 1) % num_items:02d}"
