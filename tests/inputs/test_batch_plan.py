from dataclasses import replace

import numpy as np
import pytest

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import BatchPlan, BatchSettings

SETTINGS = BatchSettings(token_budget=1600)


def movie_lengths(num_users: int = 2000, longest: int = 200, seed: int = 0) -> np.ndarray:
    """Lengths as in MovieLens-1M: 16 and more, median about 95, a quarter cut off at 200."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.lognormal(np.log(95), 1.0, num_users), 16, longest).astype(np.int64)


def sequences_of(plan: BatchPlan) -> list[list[int]]:
    return [batch.sequences.tolist() for batch in plan]


def slots_of(plan: BatchPlan, lengths: np.ndarray) -> np.ndarray:
    return np.array([len(batch.sequences) * lengths[batch.sequences].max() for batch in plan])


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_sequence_comes_once_an_epoch_over_all_ranks(world_size: int, seed: int):
    lengths = movie_lengths(seed=seed)
    seen: list[int] = []
    for rank in range(world_size):
        plan = BatchPlan(lengths, SETTINGS, seed=seed, rank=rank, world_size=world_size)
        for batch in plan:
            seen += [] if batch.is_spare else batch.sequences.tolist()
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize("world_size", [2, 5])
def test_all_ranks_together_have_the_batches_of_one_process_in_even_shares(world_size: int):
    def plan(rank: int, world_size: int) -> BatchPlan:
        plan = BatchPlan(movie_lengths(), SETTINGS, seed=3, rank=rank, world_size=world_size)
        plan.set_epoch(2)
        return plan

    shares = zip(*(plan(rank, world_size) for rank in range(world_size)), strict=True)
    for batch, of_ranks in zip(plan(0, 1), shares, strict=True):
        own = [share.sequences.tolist() for share in of_ranks if not share.is_spare]
        assert sum(own, []) == batch.sequences.tolist()
        assert max(map(len, own)) - min(map(len, own)) <= 1


def test_a_rank_without_a_share_gets_a_spare_sequence_that_is_marked():
    lengths, settings = np.array([5, 5, 5]), BatchSettings(token_budget=10)
    of_ranks = [
        list(BatchPlan(lengths, settings, seed=0, rank=rank, world_size=3)) for rank in range(3)
    ]
    for batches in of_ranks:
        assert [len(batch.sequences) for batch in batches] == [1, 1]
    assert [sum(batch.is_spare for batch in batches) for batches in of_ranks] == [0, 1, 2]


@pytest.mark.parametrize("token_budget", [200, 1600])
def test_the_largest_batch_is_known_beforehand(token_budget: int):
    lengths = movie_lengths()
    plan = BatchPlan(lengths, BatchSettings(token_budget=token_budget), seed=0)
    assert slots_of(plan, lengths).max() <= plan.largest <= token_budget


def test_all_batches_of_a_bucket_are_padded_to_its_longest():
    lengths = movie_lengths()
    of_ranks = [BatchPlan(lengths, SETTINGS, seed=0, rank=rank, world_size=2) for rank in (0, 1)]
    shapes: set[tuple[int, int]] = set()
    for epoch in range(5):
        for plan in of_ranks:
            plan.set_epoch(epoch)
        for one, other in zip(*of_ranks, strict=True):
            assert one.width == other.width
            assert one.width >= lengths[one.sequences].max()
            shapes.add((len(one.sequences), one.width))
    widths = {width for _, width in shapes}
    assert widths <= set(lengths.tolist())
    assert len(shapes) <= 2 * len(widths)


def test_where_padding_allows_batches_are_full_but_for_the_longest():
    lengths = movie_lengths()
    sizes: dict[int, set[int]] = {}
    for batch in BatchPlan(lengths, SETTINGS, seed=0):
        sizes.setdefault(batch.width, set()).add(len(batch.sequences))
    longest = max(sizes)
    assert len(sizes) > 3
    assert all(
        found == {SETTINGS.token_budget // width}
        for width, found in sizes.items()
        if width < longest
    )


def test_empty_sequences_are_left_out():
    lengths = np.array([3, 0, 5, 0, 4])
    planned = sequences_of(BatchPlan(lengths, SETTINGS, seed=0))
    assert sorted(sum(planned, [])) == [0, 2, 4]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_all_ranks_and_epochs_have_the_same_number_of_batches(world_size: int):
    counts = set()
    for rank in range(world_size):
        plan = BatchPlan(movie_lengths(), SETTINGS, seed=0, rank=rank, world_size=world_size)
        for epoch in range(4):
            plan.set_epoch(epoch)
            counts |= {len(plan), len(list(plan))}
    assert len(counts) == 1


@pytest.mark.parametrize("token_budget", [200, 333, 1600, 12800])
def test_no_batch_exceeds_the_budget(token_budget: int):
    lengths = movie_lengths()
    plan = BatchPlan(lengths, BatchSettings(token_budget=token_budget), seed=0)
    assert slots_of(plan, lengths).max() <= token_budget


def test_no_batch_holds_more_sequences_than_allowed():
    lengths = movie_lengths()
    settings = BatchSettings(token_budget=12800, max_sequences=32)
    sizes = [len(batch.sequences) for batch in BatchPlan(lengths, settings, seed=0)]
    assert max(sizes) == 32 and np.mean(sizes) > 25


@pytest.mark.parametrize("longest", [200, 5000])
@pytest.mark.parametrize("max_padding", [0.0, 0.02, 0.08, 0.3])
def test_padding_stays_within_its_share(longest: int, max_padding: float):
    lengths = movie_lengths(longest=longest)
    settings = BatchSettings(token_budget=12800, max_padding=max_padding)
    plan = BatchPlan(lengths, settings, seed=0)
    padding = 1 - lengths.sum() / slots_of(plan, lengths).sum()
    assert padding <= plan.padding <= max_padding


def test_the_default_pads_a_tenth_at_most_and_wastes_few_batches_on_it():
    lengths = movie_lengths(6000)
    budget = BatchSettings().token_budget
    plan = BatchPlan(lengths, BatchSettings(), seed=0)
    assert 1 - lengths.sum() / slots_of(plan, lengths).sum() <= 0.1
    assert len(plan) <= 1.25 * lengths.sum() / budget


def test_a_small_data_set_gets_few_batches():
    large = BatchSettings(token_budget=12800)
    lengths = np.random.default_rng(0).integers(6, 11, 64)
    assert len(BatchPlan(lengths, large, seed=0)) <= 3
    assert len(BatchPlan(movie_lengths(900), large, seed=0)) <= 15


def test_sequences_of_one_length_come_in_full_batches():
    plan = BatchPlan(np.full(64, 10), BatchSettings(token_budget=160), seed=0)
    assert [len(batch) for batch in sequences_of(plan)] == [16] * 4


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[list[int]]:
        plan = BatchPlan(movie_lengths(), SETTINGS, seed=seed)
        plan.set_epoch(epoch)
        return sequences_of(plan)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_an_epoch_does_not_depend_on_the_epochs_before():
    fresh = BatchPlan(movie_lengths(), SETTINGS, seed=0)
    fresh.set_epoch(5)
    used = BatchPlan(movie_lengths(), SETTINGS, seed=0)
    for epoch in range(6):
        used.set_epoch(epoch)
        planned = sequences_of(used)
    assert planned == sequences_of(fresh)


def test_batches_come_with_their_epoch():
    plan = BatchPlan(movie_lengths(), SETTINGS, seed=0)
    plan.set_epoch(9)
    assert {batch.epoch for batch in plan} == {9}


def test_long_and_short_batches_are_mixed():
    lengths = movie_lengths()
    plan = BatchPlan(lengths, SETTINGS, seed=0)
    longest = np.array([lengths[batch.sequences].max() for batch in plan])
    half = len(longest) // 2
    assert longest[:half].mean() == pytest.approx(longest[half:].mean(), rel=0.2)


@pytest.mark.parametrize(
    ("name", "value"), [("token_budget", 3200), ("max_padding", 0.02), ("max_sequences", 3)]
)
def test_every_setting_of_the_plan_acts(name: str, value: float):
    usual = BatchPlan(movie_lengths(), SETTINGS, seed=0)
    other = BatchPlan(movie_lengths(), replace(SETTINGS, **{name: value}), seed=0)
    assert sequences_of(usual) != sequences_of(other)


def test_a_sequence_above_the_budget_is_refused():
    with pytest.raises(ConfigError, match="longest sequence needs 201 positions, .* is 200. Raise"):
        BatchPlan(np.array([5, 201]), BatchSettings(token_budget=200), seed=0)


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_data_with_nothing_to_train_on_is_refused(lengths: list[int]):
    with pytest.raises(ConfigError, match=f"none of the {len(lengths)} sequences is long enough"):
        BatchPlan(np.array(lengths, np.int64), BatchSettings(), seed=0)


def test_more_processes_than_sequences_are_refused():
    with pytest.raises(ConfigError, match="3 sequences cannot be shared out among 4 processes"):
        BatchPlan(np.array([5, 5, 5]), BatchSettings(), seed=0, world_size=4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"token_budget": 0}, "token_budget is 0; it must be at least 1"),
        ({"max_padding": 1.0}, "max_padding is 1.0; it must be from 0 to below 1"),
        ({"max_padding": -0.1}, "max_padding is -0.1"),
        ({"max_sequences": 0}, "max_sequences is 0; it must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        BatchSettings(**settings)
