"""Training from Python: a DataFrame in, a Recommender out."""

from pathlib import Path

import pandas as pd
import pytest

from idbert.errors import ConfigError
from idbert.nn.item_models import MaskedItemModel
from idbert.retrieval.recommender import Recommender
from pipelines.library import train
from tests.worlds import cycle_world

SETTINGS = {
    "model": {"hidden_size": 32},
    "batches.token_budget": 200,
    "training": {"learning_rate": 0.01, "evaluate_every": 5, "epochs": 10},
}


def test_a_frame_becomes_a_recommender_and_a_folder(tmp_path: Path) -> None:
    events = cycle_world()
    last = events.groupby("user_id").tail(1)
    recommender = train(events, tmp_path / "run", SETTINGS)
    best = recommender.recommend(events.drop(last.index), k=1)
    assert best["item_id"].tolist() == last["item_id"].tolist()
    assert (tmp_path / "run/report.html").exists()
    opened = Recommender.load(tmp_path / "run").recommend(events.drop(last.index), k=1)
    pd.testing.assert_frame_equal(opened, best)
    again = train(events, tmp_path / "run", SETTINGS)  # opened, not trained
    pd.testing.assert_frame_equal(again.recommend(events.drop(last.index), k=1), best)
    with pytest.raises(ConfigError, match="is of another log than this"):
        train(events.iloc[:-1], tmp_path / "run", SETTINGS)
    assert pd.read_parquet(tmp_path / "run-interactions.parquet").equals(events)
    assert not (tmp_path / "run/.lock").exists()
    (tmp_path / "run-interactions.parquet").unlink()
    train(events, tmp_path / "run", SETTINGS)  # the same log, written again


def test_columns_may_be_named_and_items_masked(tmp_path: Path) -> None:
    events = cycle_world().rename(columns={"user_id": "customer"})
    tiny = {"model.hidden_size": 8, "training.max_steps": 2, "data.user_column": "customer"}
    assert isinstance(train(events, tmp_path / "run", tiny, pretrain=True).model, MaskedItemModel)
    with pytest.raises(ConfigError, match="token_bugdet"):
        train(events, tmp_path / "other", {"batches.token_bugdet": 200})
