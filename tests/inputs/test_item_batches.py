import accelerate
import numpy as np
import pyarrow as pa
import pytest
import torch

from idbert.errors import DataError
from idbert.inputs.batch_plan import BatchPlan, BatchSettings, PlannedBatch
from idbert.inputs.item_batches import (
    ItemData,
    MaskedItemData,
    NextItemData,
    history_batches,
)
from idbert.inputs.masking import IGNORED, MaskingSettings
from idbert.inputs.planned_loader import PlannedLoader, train_loader
from idbert.inputs.sequences import Sequences
from idbert.rows import FIRST_ITEM, MASK, PAD, UNK

VOCAB_SIZE = 104
SETTINGS = BatchSettings(token_budget=400)
THREE = Sequences.from_histories([[10, 11, 12], [20], [30, 31]])
ALL_THREE = PlannedBatch(0, np.array([0, 1, 2]))


def random_sequences(num_users: int = 200, longest: int = 40, extras: bool = True) -> Sequences:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, longest + 1, num_users)
    total = int(lengths.sum())
    return Sequences(
        pa.array(np.arange(num_users)),
        rng.integers(FIRST_ITEM, VOCAB_SIZE, total).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        behaviours=rng.integers(0, 3, total).astype(np.int32) if extras else None,
        weights=rng.uniform(0.5, 1.5, total).astype(np.float32) if extras else None,
    )


def masked_data(sequences: Sequences, probability: float = 0.2) -> MaskedItemData:
    masking = MaskingSettings(probability=probability)
    return MaskedItemData(sequences, masking, vocab_size=VOCAB_SIZE, seed=0)


def loader(num_workers: int = 0) -> PlannedLoader:
    data = masked_data(random_sequences())
    return train_loader(data, BatchPlan(data.input_lengths, SETTINGS, seed=0), num_workers)


def equal(one: list[dict], two: list[dict]) -> bool:
    return len(one) == len(two) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(one, two, strict=True)
    )


def test_a_masked_batch_holds_whole_sequences_padded_on_the_right():
    batch = masked_data(THREE).__getitems__(ALL_THREE)
    shown, labels = batch["input_ids"], batch["labels"]
    restored = torch.where(labels == IGNORED, shown, labels)
    assert restored.tolist() == [[10, 11, 12], [20, PAD, PAD], [30, 31, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_a_next_item_batch_pairs_every_item_with_the_one_after_it():
    batch = NextItemData(THREE).__getitems__(PlannedBatch(0, np.array([0, 2])))
    assert batch["input_ids"].tolist() == [[10, 11], [30, PAD]]
    assert batch["labels"].tolist() == [[11, 12], [31, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("data", [masked_data(THREE), NextItemData(THREE)])
def test_a_batch_is_as_wide_as_planned(data: ItemData):
    places = np.array([0, 2])
    narrow, wide = (data.__getitems__(PlannedBatch(0, places, width)) for width in (0, 5))
    length = narrow["input_ids"].shape[1]
    assert length == data.input_lengths.max()
    for name, padding in (("input_ids", PAD), ("attention_mask", 0), ("labels", IGNORED)):
        assert torch.equal(wide[name][:, :length], narrow[name])
        assert wide[name][:, length:].tolist() == [[padding] * (5 - length)] * 2


def test_an_item_outside_the_catalogue_is_never_a_label():
    sequences = Sequences.from_histories([[10, UNK, 12]])
    planned = PlannedBatch(0, np.array([0]))
    assert NextItemData(sequences).__getitems__(planned)["labels"].tolist() == [[IGNORED, 12]]
    labels = masked_data(sequences, probability=1.0).__getitems__(planned)["labels"]
    assert labels.tolist() == [[10, IGNORED, 12]]


def test_sequences_of_one_event_are_left_out_for_the_next_item_only():
    assert NextItemData(THREE).input_lengths.tolist() == [2, 0, 1]
    assert masked_data(THREE).input_lengths.tolist() == [3, 1, 2]


def test_behaviours_go_with_the_inputs_and_weights_with_the_labels():
    sequences = Sequences(
        pa.array(["a"]),
        np.array([10, 11, 12], np.int32),
        np.array([0, 3]),
        behaviours=np.array([0, 1, 2], np.int32),
        weights=np.array([0.5, 1.0, 1.5], np.float32),
    )
    one = PlannedBatch(0, np.array([0]))
    masked = masked_data(sequences).__getitems__(one)
    assert masked["token_type_ids"].tolist() == [[0, 1, 2]]
    assert masked["weights"].tolist() == [[0.5, 1.0, 1.5]]
    following = NextItemData(sequences).__getitems__(one)
    assert following["token_type_ids"].tolist() == [[0, 1]]
    assert following["weights"].tolist() == [[1.0, 1.5]]


@pytest.mark.parametrize("kind", ["masked", "next"])
def test_all_tensors_of_a_batch_have_the_types_that_a_model_expects(kind: str):
    sequences = random_sequences()
    data = masked_data(sequences) if kind == "masked" else NextItemData(sequences)
    batch = next(iter(train_loader(data, BatchPlan(data.input_lengths, SETTINGS, seed=0))))
    assert {key: value.dtype for key, value in batch.items()} == {
        "input_ids": torch.int64,
        "attention_mask": torch.int64,
        "token_type_ids": torch.int64,
        "labels": torch.int64,
        "weights": torch.float32,
    }
    assert len({value.shape for value in batch.values()}) == 1


def test_an_epoch_holds_every_event_once():
    sequences = random_sequences(extras=False)
    data = masked_data(sequences)
    found: list[int] = []
    for batch in train_loader(data, BatchPlan(data.input_lengths, SETTINGS, seed=0)):
        restored = torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])
        found += restored[batch["attention_mask"] == 1].tolist()
    assert sorted(found) == sorted(sequences.items.tolist())


def test_opened_sequences_give_the_same_batches(tmp_path):
    sequences = random_sequences()
    sequences.save(tmp_path)
    planned = PlannedBatch(3, np.arange(50))
    made = [masked_data(s).__getitems__(planned) for s in (sequences, Sequences.open(tmp_path))]
    assert equal(made[:1], made[1:])


def test_masks_change_from_epoch_to_epoch():
    data = masked_data(random_sequences())
    one, two = (data.__getitems__(PlannedBatch(epoch, np.arange(50))) for epoch in (0, 1))
    assert not torch.equal(one["labels"], two["labels"])


def test_worker_processes_build_the_same_batches():
    alone, helped = loader(), loader(num_workers=1)
    for each in (alone, helped):
        each.set_epoch(2)
    assert equal(list(alone), list(helped))


def test_loading_leaves_the_global_random_numbers_alone():
    before = torch.random.get_rng_state()
    list(loader())
    assert torch.equal(torch.random.get_rng_state(), before)


def run_epoch(train, epoch: int, skip: int = 0) -> list[dict]:
    """Go through an epoch as transformers' Trainer does, after a resume if skip is not 0."""
    if skip:
        train = accelerate.skip_first_batches(train, skip)
    if hasattr(train, "set_epoch"):
        train.set_epoch(epoch)
    inner = getattr(train.batch_sampler, "batch_sampler", None)
    if hasattr(inner, "set_epoch"):
        inner.set_epoch(epoch)
    return list(train)


@pytest.mark.parametrize("prepared", [False, True])
def test_resuming_goes_through_the_remaining_batches(prepared: bool):
    def fresh():
        if prepared:
            return accelerate.data_loader.prepare_data_loader(loader())
        return loader()

    uninterrupted = fresh()
    epochs = [run_epoch(uninterrupted, epoch) for epoch in range(3)]
    assert not equal(epochs[0], epochs[1])
    assert len(fresh()) == len(epochs[2])
    assert equal(run_epoch(fresh(), 2), epochs[2])
    for skip in (1, 7, len(epochs[2]) - 1):
        assert equal(run_epoch(fresh(), 2, skip), epochs[2][skip:])


def test_skipped_batches_are_not_built():
    built = []
    train = loader()
    build = train.dataset.__getitems__
    train.dataset.__getitems__ = lambda planned: built.append(1) or build(planned)
    rest = list(accelerate.skip_first_batches(train, 5))
    assert len(built) == len(rest) == len(train) - 5


def histories_of(sequences: Sequences, **settings) -> dict[int, dict[str, list[int]]]:
    """The real positions of every user's input, by user."""
    found = {}
    for users, batch in history_batches(sequences, **settings):
        for place, user in enumerate(users):
            real = batch["attention_mask"][place] == 1
            found[int(user)] = {key: value[place][real].tolist() for key, value in batch.items()}
    return found


def test_a_masked_query_follows_the_newest_items():
    sequences = Sequences.from_histories([[10, 11, 12, 13], [20], []])
    found = histories_of(sequences, objective="masked", max_length=3)
    inputs = {user: keys["input_ids"] for user, keys in found.items()}
    assert inputs == {0: [12, 13, MASK], 1: [20, MASK], 2: [MASK]}


def test_histories_that_are_all_empty_ask_with_the_mask_alone():
    found = histories_of(Sequences.from_histories([[], []]), objective="masked", max_length=3)
    assert [keys["input_ids"] for keys in found.values()] == [[MASK], [MASK]]


def test_a_next_item_query_is_the_newest_items():
    sequences = Sequences.from_histories([[10, 11, 12, 13], [20]])
    found = histories_of(sequences, objective="next", max_length=3)
    assert {user: keys["input_ids"] for user, keys in found.items()} == {0: [11, 12, 13], 1: [20]}


def test_without_a_limit_the_whole_history_is_read():
    found = histories_of(THREE, objective="masked", max_length=None)
    assert found[0]["input_ids"] == [10, 11, 12, MASK]


@pytest.mark.parametrize("objective", ["masked", "next"])
def test_every_user_is_asked_once_within_the_budget_and_with_little_padding(objective: str):
    sequences = random_sequences()
    seen: list[int] = []
    slots = real = 0
    for users, batch in history_batches(
        sequences, objective=objective, max_length=30, token_budget=400
    ):
        seen += users.tolist()
        assert batch["input_ids"].numel() <= 400
        slots += batch["input_ids"].numel()
        real += int(batch["attention_mask"].sum())
    assert sorted(seen) == list(range(200))
    assert 1 - real / slots < 0.1


def test_the_query_has_the_behaviour_asked_for():
    sequences = random_sequences()
    found = histories_of(sequences, objective="masked", max_length=5, query_behaviour=2)
    user = int(sequences.lengths.argmax())
    newest = sequences.behaviours[: sequences.offsets[user + 1]][-4:].tolist()
    assert found[user]["token_type_ids"] == [*newest, 2]


def test_a_query_is_what_training_with_the_newest_item_masked_shows():
    """Recommending asks the very question that training with last_probability teaches."""
    sequences = random_sequences(extras=False)
    newest_only = MaskingSettings(
        probability=0.0, mask_share=1.0, random_share=0.0, last_probability=1.0
    )
    data = MaskedItemData(sequences, newest_only, vocab_size=VOCAB_SIZE, seed=0)
    shorter = Sequences.from_histories(
        [part[:-1] for part in np.split(sequences.items, sequences.offsets[1:-1])]
    )
    for users, batch in history_batches(shorter, objective="masked", max_length=40):
        trained = data.__getitems__(PlannedBatch(0, users))
        assert all(torch.equal(trained[key], batch[key]) for key in batch)


def test_an_empty_history_is_refused_for_a_next_item_model():
    sequences = Sequences.from_histories([[10], [], []])
    with pytest.raises(DataError, match="2 of 3 histories are empty; a next-item model needs"):
        list(history_batches(sequences, objective="next", max_length=5))


def test_a_history_above_the_budget_comes_alone():
    batches = history_batches(THREE, objective="masked", max_length=None, token_budget=3)
    shapes = {tuple(users): tuple(batch["input_ids"].shape) for users, batch in batches}
    assert shapes == {(0,): (1, 4), (2,): (1, 3), (1,): (1, 2)}
