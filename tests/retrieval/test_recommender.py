"""Recommendations in the caller's ids: right, filtered, and honest about what was done."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.interactions import InteractionSettings, read_interactions
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import ItemModel, MaskedItemModel, NextItemModel
from idbert.retrieval import recommender as module
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.recommender import Recommender
from idbert.rows import FIRST_ITEM
from idbert.run_dir import RunDir
from tests.retrieval.conftest import finished_run
from tests.worlds import cycle_world, next_in_cycle


def untrained(
    model_class: type[ItemModel] = MaskedItemModel, kind: str = "bert", ids: str = "string"
) -> Recommender:
    """A model of 60 items whose scores, bias included, are drawn at random."""
    log = cycle_world(num_users=40, num_items=60, max_length=30)
    if ids == "integer":
        log["item_id"] = log["item_id"].str[5:].astype(int) + 2**53
    vocabulary = Vocabulary.from_interactions(read_interactions(log))
    torch.manual_seed(0)
    settings = EncoderSettings(kind=kind, hidden_size=8, num_heads=2, initializer_range=0.5)
    model = model_class.build(settings, vocab_size=len(vocabulary))
    torch.nn.init.normal_(model.head.bias)
    return Recommender(model, vocabulary)


def flat_indexed(recommender: Recommender) -> Recommender:
    vectors = recommender.model.item_vectors()[FIRST_ITEM:].numpy()
    index = VectorIndex.build(vectors, recommender.vocabulary.ids)
    return Recommender(recommender.model, recommender.vocabulary, index=index)


def drawn_histories(recommender: Recommender, users: int = 50) -> list[list]:
    rng = np.random.default_rng(0)
    ids = recommender.vocabulary.ids.to_pylist()
    return [
        [ids[item] for item in rng.integers(0, len(ids), rng.integers(1, 40))] for _ in range(users)
    ]


def test_the_next_item_of_the_circle_comes_first(recommender: Recommender) -> None:
    histories = [[f"item {(start + step) % 12:02d}" for step in range(4)] for start in range(12)]
    best = recommender.recommend(histories, k=1)
    assert best["item_id"].tolist() == [next_in_cycle(history[-1]) for history in histories]
    assert best["history"].tolist() == list(range(12))
    assert best["rank"].tolist() == [1] * 12


def test_a_table_gives_the_same_as_lists_under_its_user_ids(recommender: Recommender) -> None:
    new = cycle_world(num_users=5, seed=9).assign(user_id=lambda t: "new " + t["user_id"].map(str))
    from_table = recommender.recommend(new.sample(frac=1, random_state=0), k=4)
    lists = new.sort_values(["user_id", "timestamp"]).groupby("user_id")["item_id"].agg(list)
    from_lists = recommender.recommend(lists.tolist(), k=4)
    assert list(from_table.columns) == ["user_id", "rank", "item_id", "score"]
    assert from_table["user_id"].unique().tolist() == lists.index.tolist()
    pd.testing.assert_frame_equal(
        from_table.drop(columns="user_id"), from_lists.drop(columns="history")
    )


@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
@pytest.mark.parametrize("kind", ["bert", "nezha"])
def test_recommendations_are_the_models_scores_sorted(
    model_class: type[ItemModel], kind: str
) -> None:
    recommender = untrained(model_class, kind)
    histories = drawn_histories(recommender)
    scores = recommender.score(histories)
    right = np.argsort(-scores.to_numpy(), axis=1, kind="stable")[:, :10]
    found = recommender.recommend(histories, k=10, filter_seen=False)
    assert found["item_id"].tolist() == scores.columns[right.ravel()].tolist()
    np.testing.assert_allclose(
        found["score"], np.take_along_axis(scores.to_numpy(), right, 1).ravel(), rtol=1e-5
    )
    # and the scores are those of the model's own forward
    model, vocabulary = recommender.model, recommender.vocabulary
    rows = vocabulary.rows(histories[0]).tolist() + [1] * (model.objective == "masked")
    logits = model(torch.tensor([rows])).logits[0, -1, FIRST_ITEM:]
    np.testing.assert_allclose(scores.to_numpy()[0], logits.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("filter_seen", [True, False])
def test_a_flat_index_and_the_models_scores_agree_in_every_top_10(filter_seen: bool) -> None:
    recommender = untrained()
    histories = drawn_histories(recommender, users=200)
    by_scores, by_index = (
        each.recommend(histories, k=10, filter_seen=filter_seen)
        for each in (recommender, flat_indexed(recommender))
    )
    pd.testing.assert_frame_equal(by_scores, by_index, rtol=1e-5)


@pytest.mark.parametrize("with_index", [False, True])
def test_no_filter_lets_through_what_it_forbids(with_index: bool) -> None:
    recommender = untrained()
    recommender = flat_indexed(recommender) if with_index else recommender
    histories = [*drawn_histories(recommender), []]
    ids = recommender.vocabulary.ids.to_pylist()
    allow, deny = ids[::2], ids[::3]
    for filters in ({}, {"allow": allow}, {"deny": deny}, {"allow": allow, "deny": deny}):
        found = recommender.recommend(histories, k=20, **filters)
        assert found["item_id"].isin(filters.get("allow", ids)).all()
        assert not found["item_id"].isin(filters.get("deny", [])).any()
        for user, items in found.groupby("history")["item_id"]:
            assert not set(items) & set(histories[user])
            assert items.is_unique
        assert (
            found.groupby("history")["rank"]
            .agg(list)
            .map(lambda ranks: ranks == list(range(1, len(ranks) + 1)))
            .all()
        )


def test_a_user_gets_fewer_items_if_the_filters_leave_fewer(recommender: Recommender) -> None:
    found = recommender.recommend([["item 01"], []], k=5, allow=["item 01", "item 02"])
    assert found["history"].tolist() == [0, 1, 1]
    assert recommender.recommend([], k=5).empty


@pytest.mark.parametrize("filter_seen", [True, False])
def test_whom_an_index_gives_too_few_items_gets_the_exact_best(filter_seen: bool) -> None:
    recommender = untrained()
    histories = [*drawn_histories(recommender), []]
    vectors = recommender.model.item_vectors()[FIRST_ITEM:].numpy()
    ids = recommender.vocabulary.ids
    index = VectorIndex.build(vectors, ids, factory="IVF30,Flat")  # one cell of about two items
    assert (index.search(vectors, 15)[1] < 0).any(1).all()
    indexed = Recommender(recommender.model, recommender.vocabulary, index=index)
    filters = {"filter_seen": filter_seen, "deny": ids.to_pylist()[:3]}
    found, right = (each.recommend(histories, 15, **filters) for each in (indexed, recommender))
    pd.testing.assert_frame_equal(found, right, rtol=1e-5)


def test_a_history_without_a_known_item_gets_the_popular_ones_and_says_so(
    recommender: Recommender, vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = recommender.recommend([[], ["item 03"], ["new"]], k=3, deny=vocabulary.ids[:1])
    popular = vocabulary.ids.to_pylist()[1:4]
    assert found.attrs == {"skipped_items": 1, "popularity_histories": [0, 2]}
    assert found["item_id"].tolist()[:3] == popular
    assert found["item_id"].tolist()[6:] == popular
    assert (
        found["score"].tolist()[:3] == vocabulary.counts_V[FIRST_ITEM + 1 : FIRST_ITEM + 4].tolist()
    )
    assert "2 of 3 histories hold no known item and got the most popular ones" in caplog.text
    assert json.dumps(found.attrs)
    scores = recommender.score([[], ["item 03"]])
    assert scores.iloc[0].tolist() == vocabulary.counts_V[FIRST_ITEM:].tolist()
    assert scores.attrs["popularity_histories"] == [0]


def test_unknown_items_change_nothing_but_the_count(recommender: Recommender) -> None:
    with_unknown = recommender.recommend([["item 03", "new", "item 04"]])
    without = recommender.recommend([["item 03", "item 04"]])
    assert with_unknown.attrs.pop("skipped_items") == 1
    assert without.attrs.pop("skipped_items") == 0
    pd.testing.assert_frame_equal(with_unknown, without)


def test_ids_come_back_exactly_as_given() -> None:
    recommender = untrained(ids="integer")
    found = recommender.recommend(
        pd.DataFrame({"user_id": ["007", "7"], "item_id": [2**53 + 1, 2**53 + 2]}), k=3
    )
    assert found["user_id"].tolist() == ["007"] * 3 + ["7"] * 3
    assert found["item_id"].dtype == "int64"
    assert set(found["item_id"]) <= set(range(2**53, 2**53 + 60))
    scores = recommender.score([[2**53 + 1]])
    assert scores.columns.tolist() == recommender.vocabulary.ids.to_pylist()
    assert scores.columns.name == "item_id"


def test_only_the_newest_events_are_read_but_all_are_filtered(
    model: NextItemModel, vocabulary: Vocabulary
) -> None:
    short = Recommender(model, vocabulary, max_length=2)
    history = ["item 09", "item 02", "item 03"]
    np.testing.assert_array_equal(short.score([history]), short.score([history[1:]]))
    assert "item 09" not in short.recommend([history], k=10)["item_id"].tolist()


def test_a_history_longer_than_a_batch_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = untrained(kind="nezha")
    histories = drawn_histories(recommender, users=3)
    right = recommender.score(histories)
    monkeypatch.setattr(module, "TOKEN_BUDGET", {"cpu": 8})
    np.testing.assert_allclose(recommender.score(histories), right, rtol=1e-4, atol=1e-5)


def test_the_behaviour_asked_for_changes_the_recommendations() -> None:
    log = cycle_world(num_users=20)
    log["behaviour"] = np.where(np.arange(len(log)) % 3 == 0, "buy", "view")
    settings = InteractionSettings(behaviour_column="behaviour")
    vocabulary = Vocabulary.from_interactions(read_interactions(log, settings))
    torch.manual_seed(0)
    encoder = EncoderSettings(hidden_size=8, num_heads=2, initializer_range=0.5)
    model = MaskedItemModel.build(encoder, vocab_size=len(vocabulary), num_behaviours=2)
    recommender = Recommender(model, vocabulary)
    history = [["item 01", "item 02"]]
    default, view, buy = (recommender.score(history, behaviour=b) for b in (None, "view", "buy"))
    pd.testing.assert_frame_equal(default, view)
    assert not np.allclose(view, buy)
    with pytest.raises(DataError, match="'bye'.*known: view, buy.* Did you mean 'buy'"):
        recommender.recommend(history, behaviour="bye")


def test_a_behaviour_that_cannot_act_is_refused(
    recommender: Recommender, vocabulary: Vocabulary
) -> None:
    knowing = Vocabulary(vocabulary.ids, vocabulary.counts_V, ("view", "buy"))
    with pytest.raises(ConfigError, match="behaviour='buy' cannot act on a next-item model"):
        Recommender(recommender.model, knowing).recommend([["item 01"]], behaviour="buy")
    with pytest.raises(ConfigError, match="behaviour='buy' cannot act on a log without any"):
        recommender.recommend([["item 01"]], behaviour="buy")


def test_neighbours_on_the_circle_are_similar_in_every_layer(recommender: Recommender) -> None:
    for layer in (None, 0, 1, -1, "fused"):
        found = recommender.similar_items(["item 03", "item 08"], k=11, layer=layer)
        assert list(found.columns) == ["item_id", "rank", "similar_item_id", "score"]
        assert found["item_id"].tolist() == ["item 03"] * 11 + ["item 08"] * 11
        assert (found["item_id"] != found["similar_item_id"]).all()
        assert found["similar_item_id"].nunique() == 12
        assert found.groupby("item_id")["score"].is_monotonic_decreasing.all()
        assert found["score"].between(-1.0001, 1.0001).all()
    none, last = (recommender.similar_items(["item 03"], k=11, layer=x) for x in (None, -1))
    assert not np.allclose(none["score"], last["score"])


def test_similar_items_are_those_that_are_allowed(recommender: Recommender) -> None:
    ids = recommender.vocabulary.ids.to_pylist()
    whole = recommender.similar_items(["item 03", "item 08"], k=11)
    allow, deny = ["item 03", "item 04", "item 08", "item 09"], ["item 09"]
    for given, kept in (({"allow": allow}, set(allow)), ({"deny": deny}, set(ids) - set(deny))):
        few = recommender.similar_items(["item 03", "item 08"], k=len(kept & set(allow)), **given)
        expected = whole[whole["similar_item_id"].isin(kept)].groupby("item_id")
        for item, found in few.groupby("item_id"):
            best = expected.get_group(item)["similar_item_id"].tolist()
            assert found["similar_item_id"].tolist() == best[: len(found)]
            assert found["rank"].tolist() == list(range(1, len(found) + 1))
    # Each of the two is one of the four.
    assert len(recommender.similar_items(["item 03", "item 08"], k=4, allow=allow)) == 6
    with pytest.raises(DataError, match="k is 5, but there are only 4 items"):
        recommender.similar_items(["item 03"], k=5, allow=allow)


def test_a_run_recommends_as_its_model_does(run: RunDir, recommender: Recommender) -> None:
    histories = [["item 03", "item 04"], ["item 11"]]
    right = recommender.recommend(histories)
    for index in (None, True, False):
        loaded = Recommender.load(run.path, index=index)
        assert (loaded.index is not None) == (index is not False)
        pd.testing.assert_frame_equal(loaded.recommend(histories), right, rtol=1e-5)


def test_a_run_that_was_trained_with_repeats_recommends_them(
    run: RunDir, model: NextItemModel, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    history = [["item 03", "item 04"]]
    assert set(history[0]).isdisjoint(Recommender.load(run.path).recommend(history)["item_id"])
    finished_run(tmp_path / "repeating", model, vocabulary, filter_seen=False)
    repeating = Recommender.load(tmp_path / "repeating")
    assert set(history[0]) <= set(repeating.recommend(history, k=12)["item_id"])
    told = repeating.recommend(history, filter_seen=True)
    assert set(history[0]).isdisjoint(told["item_id"])


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(run: RunDir, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{device}', which cannot be used here"):
        Recommender.load(run.path, device=device)


def test_without_an_index_a_run_recommends_too_but_not_by_it(run: RunDir) -> None:
    shutil.rmtree(run.index)
    assert Recommender.load(run.path).index is None
    with pytest.raises(CheckpointError, match=r"holds no index.*Build one with rec_index"):
        Recommender.load(run.path, index=True)


def test_an_index_of_another_model_is_refused(run: RunDir) -> None:
    manifest = json.loads((run.index / "manifest.json").read_text())
    manifest["model_sha256"] = "0" * 64
    (run.index / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="is the index of another model"):
        Recommender.load(run.path)


def test_parts_that_do_not_belong_together_are_refused(
    model: NextItemModel, vocabulary: Vocabulary
) -> None:
    with pytest.raises(CheckpointError, match="the model has 16 rows and the vocabulary 17"):
        Recommender(model, vocabulary.extend(["new"]))
    vectors = model.item_vectors()[FIRST_ITEM:].numpy()
    index = VectorIndex.build(vectors, vocabulary.ids[::-1])
    with pytest.raises(
        CheckpointError, match="does not hold the vocabulary's items in their order"
    ):
        Recommender(model, vocabulary, index=index)


def test_a_k_that_cannot_be_is_refused(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="k is 13, but there are only 12 items.*catalogue has 12"):
        recommender.recommend([["item 01"]], k=13)
    with pytest.raises(DataError, match="k is 12, but there are only 11 items"):
        recommender.similar_items(["item 01"], k=12)
    with pytest.raises(ConfigError, match="k is 0; it must be at least 1"):
        recommender.recommend([["item 01"]], k=0)


def test_lists_of_items_that_are_not_there_are_refused_or_told(
    recommender: Recommender, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match="none of the 2 allowed items is in the catalogue"):
        recommender.recommend([["item 01"]], allow=["a", "b"])
    with pytest.raises(DataError, match="2 of 3 ids are not in the catalogue: 'a', 'b'"):
        recommender.similar_items(["a", "item 01", "b"])
    with caplog.at_level(logging.WARNING):
        recommender.recommend([["item 01"]], k=1, allow=["a", "item 02"])
    every = recommender.vocabulary.ids.to_pylist()
    with pytest.raises(DataError, match="all the catalogue's items are denied"):
        recommender.recommend([["item 01"]], k=1, deny=every)
    with pytest.raises(DataError, match="all the allowed items are denied"):
        recommender.recommend([["item 01"]], k=1, allow=["item 02"], deny=["item 02"])
    assert "1 of 2 allowed items are not in the catalogue" in caplog.text
