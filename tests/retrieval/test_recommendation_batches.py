"""Recommendations made in batches are those made at once, and a file receives them whole."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from idbert.errors import ConfigError, DataError
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.item_models import NextItemModel
from idbert.retrieval.exact import ExactIndex, best_of_rows
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.index_settings import SearchSettings
from idbert.retrieval.recommender import Recommender
from idbert.rows import FIRST_ITEM
from idbert.run_dir import RunDir

KEYS = ["user_id", "rank", "item_id"]


@pytest.fixture(scope="module")
def asked(log: pd.DataFrame) -> pd.DataFrame:
    """The log, and users of whom nothing is known."""
    strange = pd.DataFrame(
        {"user_id": [7000, 7001], "item_id": ["new", "newer"], "timestamp": [1, 2]}
    )
    return pd.concat([log, strange])


@pytest.mark.parametrize("users_at_once", [1, 7, 1000])
def test_batches_hold_what_recommend_returns_in_the_same_order(
    recommender: Recommender, asked: pd.DataFrame, users_at_once: int
) -> None:
    whole = recommender.recommend(asked, k=5, deny=["item 04"])
    batches = recommender.recommend_batches(
        asked, k=5, deny=["item 04"], users_at_once=users_at_once
    )
    users = asked["user_id"].nunique()
    assert len(batches) == len(list(batches)) == -(-users // users_at_once)
    joined = pa.Table.from_batches(list(batches), batches.schema).to_pandas()
    pd.testing.assert_frame_equal(joined[KEYS], whole[KEYS], check_dtype=True)
    np.testing.assert_allclose(joined["score"], whole["score"], rtol=1e-4)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_holds_all_batches_and_as_many_row_groups(
    recommender: Recommender, asked: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"best{suffix}"
    batches = recommender.recommend_batches(asked, k=3, users_at_once=20)
    count = batches.write(path)
    table = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
    whole = recommender.recommend(asked, k=3)
    assert count == len(whole)
    pd.testing.assert_frame_equal(table[KEYS], whole[KEYS], check_dtype=False)
    if suffix == ".parquet":
        assert pq.ParquetFile(path).num_row_groups == len(batches) == 4
        assert pq.read_schema(path).equals(batches.schema)


def test_ids_with_commas_and_quotes_survive_a_csv_file(
    model: NextItemModel, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    odd = [f'a, "{item}"' for item in vocabulary.ids.to_pylist()]
    recommender = Recommender(model, Vocabulary(pa.array(odd), vocabulary.counts_V))
    recommender.recommend_batches([[odd[0]]], k=3).write(tmp_path / "best.csv")
    assert set(pd.read_csv(tmp_path / "best.csv")["item_id"]) < set(odd)


def test_a_file_that_is_not_finished_leaves_nothing_behind(
    recommender: Recommender, asked: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = recommender.recommend_batches(asked, users_at_once=20)
    right, made = recommender._exact.search, []

    def dying(*args: object, **settings: object) -> object:
        made.append(args)
        if len(made) == 3:
            raise RuntimeError("killed")
        return right(*args, **settings)

    monkeypatch.setattr(recommender._exact, "search", dying)
    with pytest.raises(RuntimeError, match="killed"):
        batches.write(tmp_path / "best.parquet")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_refused_before_the_first_batch(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="k is 13, but there are only 12 items"):
        recommender.recommend_batches([["item 01"]], k=13)
    with pytest.raises(ConfigError, match="users_at_once is 0; it must be at least 1"):
        recommender.recommend_batches([["item 01"]], users_at_once=0)
    with pytest.raises(ConfigError, match="behaviour='buy' cannot act"):
        recommender.recommend_batches([["item 01"]], behaviour="buy")
    with pytest.raises(ConfigError, match=r"best\.xls must end in \.csv or \.parquet"):
        recommender.recommend_batches([["item 01"]]).write("best.xls")


def test_settings_of_an_index_act_or_are_refused(run: RunDir) -> None:
    for settings in ({"mapped": True}, {"index_device": "cuda"}):
        with pytest.raises(ConfigError, match="searched without an index, so that mapped and"):
            Recommender.load(run.path, index=False, **settings)
    with pytest.raises(ConfigError, match="search says how an index is searched, and there is no"):
        Recommender.load(run.path, index=False, search=SearchSettings(nprobe=2))
    wrong = Recommender.load(run.path, search=SearchSettings(nprobe=2))
    with pytest.raises(ConfigError, match="nprobe cannot act on an index 'Flat'"):
        wrong.recommend([["item 01"]], k=2)


def test_a_more_thorough_search_is_handed_to_the_index(
    model: NextItemModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = model.item_vectors()[FIRST_ITEM:].numpy()
    index = VectorIndex.build(vectors, vocabulary.ids, factory="IVF4,Flat")
    # Who got too few is searched for exactly, which would hide how thoroughly the index was.
    monkeypatch.setattr(Recommender, "_complete", lambda *_: None)
    history = [["item 03", "item 04"]]
    found = [
        len(Recommender(model, vocabulary, index=index, search=s).recommend(history, k=10))
        for s in (SearchSettings(nprobe=1), SearchSettings(nprobe=4))
    ]
    assert found[0] < found[1] == 10


@pytest.mark.parametrize(("rows", "k"), [(100, 10), (1281, 10), (6400, 3), (6463, 50)])
def test_the_best_of_rows_are_those_of_a_sort(rows: int, k: int) -> None:
    scores = torch.randn(5, rows, generator=torch.Generator().manual_seed(0))
    scores[0, -k:] += 9  # behind the last whole block too
    scores[1] = -torch.inf
    scores[1, 70] = 1
    values, places = best_of_rows(scores, k)
    torch.testing.assert_close(values, scores.sort(dim=1, descending=True).values[:, :k])
    torch.testing.assert_close(scores.gather(1, places), values)


def test_a_rounded_table_finds_nearly_the_same_and_scores_by_what_it_keeps() -> None:
    rng = np.random.default_rng(0)
    many, queries = rng.standard_normal((2000, 16)), rng.standard_normal((50, 16))
    vectors, queries = torch.from_numpy(many).float(), queries.astype(np.float32)
    offsets = np.arange(51) * 3
    excluded = (np.tile(np.arange(3), 50), offsets)
    rounded = ExactIndex(vectors, "bfloat16")
    right = ExactIndex(vectors).search(queries, 10, excluded=excluded)[1]
    scores, rows = rounded.search(queries, 10, excluded=excluded)
    found = np.mean([np.isin(a, b).mean() for a, b in zip(rows, right, strict=True)])
    assert 0.95 < found < 1 and (rows >= 3).all()
    kept = vectors.bfloat16().float().numpy()
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, kept[rows]), rtol=1e-4)
    few = rounded.search(queries[:1], 10, allowed_N=np.arange(2000) < 4)[1]
    assert set(few[0]) == {0, 1, 2, 3, -1}
    with pytest.raises(ConfigError, match="table_precision is 'int8'.*build an index with factory"):
        ExactIndex.__init__.__wrapped__(rounded, vectors, "int8")
