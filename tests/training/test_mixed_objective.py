"""One model trained on masked items and on next items: its batches, and what it computes."""

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError
from idbert.inputs.batch_plan import BatchPlan, BatchSettings, PlannedBatch
from idbert.inputs.item_batches import MaskedItemData, NextItemData
from idbert.inputs.masking import IGNORED, MaskingSettings
from idbert.inputs.mixed_batches import MixedItemData, MixedSettings
from idbert.inputs.planned_loader import train_loader
from idbert.inputs.sequences import Sequences
from idbert.nn.blocks import BlockSettings
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import (
    MaskedItemModel,
    MixedItemModel,
    NextItemModel,
    load_item_model,
)
from idbert.training.memory import workload_of
from idbert.training.trainer import TrainingSettings, training_data
from tests.training.small import build as build_trainer
from tests.training.small import build_model

V = 40
MASKING = MaskingSettings(last_probability=0.5)
IDS = torch.tensor([[4, 5, 6, 7, 8], [9, 5, 19, 12, 0]])
SHAPES = [{}, {"kind": "nezha", "max_length": None}, {"residual_scores": "sum"}, {"norm": "pre"}]


def build(model_class, is_causal=None, **changes):
    torch.manual_seed(0)
    settings = {"hidden_size": 8, "num_layers": 2, "max_length": 6, "head_transform": True}
    model = model_class.build(
        EncoderSettings(**settings | changes), vocab_size=V, is_causal=is_causal
    )
    torch.nn.init.normal_(model.head.bias)
    return model.eval()


def mixed_data(sequences, share=0.5, seed=0):
    masked = MaskedItemData(sequences, MASKING, vocab_size=V, seed=seed)
    return MixedItemData(masked, NextItemData(sequences), share, seed=seed)


def many(num_users=300):
    lengths = np.random.default_rng(0).integers(1, 12, num_users)
    return Sequences.from_histories([np.arange(length) % 30 + 4 for length in lengths])


@pytest.mark.parametrize("used_causally", [False, True])
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_each_batch_is_computed_as_by_the_model_of_its_objective_alone(used_causally, changes):
    mixed = build(MixedItemModel, used_causally, **changes)
    inputs = {"attention_mask": (IDS != 0).long(), "labels": IDS.where(IDS % 2 == 1, IGNORED)}
    for alone, is_causal in ((MaskedItemModel, False), (NextItemModel, True)):
        model = build(alone, **changes)
        model.load_state_dict(mixed.state_dict())
        expected = model(IDS, **inputs).loss
        actual = mixed(IDS, **inputs, is_causal=torch.tensor(is_causal)).loss
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        if is_causal is used_causally:
            assert mixed.objective == model.objective
            torch.testing.assert_close(mixed(IDS).logits, model(IDS).logits, rtol=0, atol=0)
        else:
            assert not torch.allclose(mixed(IDS).logits, model(IDS).logits)


def test_a_batch_is_that_of_its_objective_and_says_which():
    data = mixed_data(many())
    seen = {True: 0, False: 0}
    for number in range(40):
        planned = PlannedBatch(2, np.arange(20, 40), 12, number=number)
        batch = data.__getitems__(planned)
        is_causal = bool(batch.pop("is_causal"))
        seen[is_causal] += 1
        if is_causal:
            lengths = data.following.input_lengths[20:40]
            longer = PlannedBatch(2, np.arange(20, 40)[lengths > 0], 12)
            expected = data.following.__getitems__(longer)
        else:
            expected = data.masked.__getitems__(planned)
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in batch)
    assert min(seen.values()) > 5


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_the_share_of_next_item_batches_is_that_of_the_settings(share):
    data = mixed_data(many(), share)
    planned = [PlannedBatch(0, np.arange(20, 24), number=number) for number in range(3000)]
    drawn = [bool(data.__getitems__(batch)["is_causal"]) for batch in planned]
    assert np.mean(drawn) == pytest.approx(share, abs=0.03)


def test_a_batch_of_histories_of_one_event_is_of_masked_items():
    data = mixed_data(Sequences.from_histories([[5], [6], [7, 8]]), share=0.999)
    assert not data.__getitems__(PlannedBatch(0, np.array([0, 1])))["is_causal"]
    batch = data.__getitems__(PlannedBatch(0, np.array([0, 1, 2])))
    assert batch["is_causal"] and batch["input_ids"].tolist() == [[7]]


def test_all_processes_choose_alike_and_each_epoch_anew():
    def choices(rank, world_size, epoch):
        data = mixed_data(many())
        settings = BatchSettings(token_budget=100)
        plan = BatchPlan(data.input_lengths, settings, seed=0, rank=rank, world_size=world_size)
        loader = train_loader(data, plan)
        loader.set_epoch(epoch)
        return [bool(batch["is_causal"]) for batch in loader]

    # A share of histories of one event alone has no next items, and is of masked ones.
    data_lengths = many().lengths
    assert (data_lengths == 1).sum() > 0
    whole = choices(0, 1, 0)
    for rank in (0, 1):
        differing = sum(a != b for a, b in zip(choices(rank, 2, 0), whole, strict=True))
        assert differing <= 2
    assert choices(0, 1, 1) != whole


def test_histories_are_cut_to_what_each_objective_can_read():
    model = build(MixedItemModel, True)
    data = training_data(
        model,
        Sequences.from_histories([list(range(4, 24))]),
        MASKING,
        BatchSettings(),
        0,
        mixed=MixedSettings(),
    )
    assert isinstance(data, MixedItemData)
    assert data.input_lengths.tolist() == data.following.input_lengths.tolist() == [6]


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_mixed_model_opens_as_what_it_is_used_for(is_causal, tmp_path):
    model = build(MixedItemModel, is_causal)
    model.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert type(opened) is MixedItemModel
    assert opened.objective == ("next" if is_causal else "masked")
    assert torch.equal(opened(IDS).logits, model(IDS).logits)


def test_a_next_item_model_starts_from_a_mixed_one():
    mixed, model = build(MixedItemModel, False), build(NextItemModel)
    model.start_from(mixed)
    assert torch.equal(model(IDS).logits, mixed(IDS, is_causal=torch.tensor(True)).logits)


def test_a_training_with_both_learns_the_circle(tmp_path):
    trainer = build_trainer(
        tmp_path, MixedItemModel, mixed=MixedSettings(), epochs=30, evaluate_every=30
    )
    trainer.train_or_resume()
    assert max(row.get("ndcg@10", 0) for row in trainer.curve()) > 0.75


def test_memory_is_counted_for_the_batches_with_most_targets():
    model = build(MixedItemModel, True)
    sequences = Sequences.from_histories([[4, 5, 6, 7]] * 9)
    sizes = (sequences, MASKING, BatchSettings(), TrainingSettings(), 0)
    assert workload_of(model, *sizes).targets == workload_of(model, *sizes).positions


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ConfigError, match="share is 1.0; it must be above 0 and below 1"):
        MixedSettings(share=1.0)
    with pytest.raises(ConfigError, match="Say with is_causal what the MixedItemModel is used for"):
        build(MixedItemModel)
    with pytest.raises(ConfigError, match="block 'lstm' reads in one direction"):
        build(MixedItemModel, True, block=BlockSettings("lstm"))
    with pytest.raises(ConfigError, match="MaskedItemModel needs is_causal=False"):
        build(MaskedItemModel, True)
    sequences = Sequences.from_histories([[4, 5]])
    usual = (sequences, MASKING, BatchSettings(), 0)
    with pytest.raises(ConfigError, match="mixed model needs settings of masking and of the"):
        training_data(build(MixedItemModel, True), *usual)
    with pytest.raises(ConfigError, match="mixture cannot act on a MaskedItemModel"):
        training_data(build_model(MaskedItemModel), *usual, mixed=MixedSettings())
