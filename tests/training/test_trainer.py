"""A training from build_trainer to its end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from idbert.errors import ConfigError, DataError
from idbert.inputs.batch_plan import BatchSettings
from idbert.inputs.masking import MaskingSettings
from idbert.inputs.sequences import Sequences
from idbert.nn.config import EncoderSettings
from idbert.nn.fusion import FusionSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel, load_item_model
from idbert.training.arguments import TrainingSettings
from idbert.training.callbacks import EarlyStopping
from idbert.training.parameters import parameter_groups
from idbert.training.trainer import build_trainer, training_data
from idbert.training.validation import Validation, validation_metrics
from tests.training.small import (
    BATCHES,
    Gradients,
    build,
    build_model,
    checkpoint_steps,
    validation,
    weights_sha256,
)


def test_training_on_the_circle_finds_the_next_item(tmp_path):
    trainer = build(tmp_path, epochs=15, learning_rate=0.02)
    trainer.train_or_resume()
    assert trainer.finished
    assert trainer.evaluate()["eval_recall@1"] == 1.0


def gradients_of(folder, model_class, weighted, **settings):
    seen = Gradients()
    trainer = build(
        folder,
        model=build_model(model_class, hidden_dropout=0.0),
        model_class=model_class,
        with_validation=False,
        weighted=weighted,
        epochs=1,
        warmup=0,
        clip_norm=None,
        log_every_steps=1,
        callbacks=[seen],
        **settings,
    )
    trainer.train_or_resume()
    return trainer, seen


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])
def test_accumulated_batches_give_loss_and_gradients_of_one_large_batch(
    model_class, weighted, tmp_path
):
    large = {"token_budget": 10_000, "max_padding": 0.9}
    trainer, one = gradients_of(tmp_path / "one", model_class, weighted, **large)
    assert len(trainer.get_train_dataloader()) == 1
    trainer, many = gradients_of(tmp_path / "many", model_class, weighted, accumulation=BATCHES)
    assert len(trainer.get_train_dataloader()) == BATCHES
    assert len(one.of_steps) == len(many.of_steps) == 1
    assert many.losses == pytest.approx(one.losses, rel=1e-5)
    torch.testing.assert_close(many.of_steps[0], one.of_steps[0], rtol=1e-4, atol=1e-6)


def test_the_last_step_of_an_epoch_weighs_its_fewer_batches_as_any_step(tmp_path, monkeypatch):
    # With a rate of nearly nothing the weights stay, so that steps can be compared.
    still = {"learning_rate": 1e-12, "weight_decay": 0.0}
    _, single = gradients_of(tmp_path / "single", NextItemModel, False, **still)
    trainer, fours = gradients_of(tmp_path / "4", NextItemModel, False, accumulation=4, **still)
    assert len(fours.of_steps) == 2 and BATCHES == 6
    counts = torch.tensor(
        [int((batch["labels"] != -100).sum()) for batch in trainer.get_train_dataloader()]
    )
    for step, part in enumerate((slice(0, 4), slice(4, 6))):
        shares = counts[part] / counts[part].sum()
        losses = torch.tensor(single.losses[part])
        assert fours.losses[step] == pytest.approx(float((shares * losses).sum()), rel=1e-3)
        for place, gradient in enumerate(fours.of_steps[step]):
            expected = sum(
                share * of_step[place]
                for share, of_step in zip(shares, single.of_steps[part], strict=True)
            )
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_weights_of_events_reach_the_loss(tmp_path):
    _, plain = gradients_of(tmp_path / "plain", NextItemModel, False)
    _, weighted = gradients_of(tmp_path / "weighted", NextItemModel, True)
    assert plain.losses[0] != weighted.losses[0]


@pytest.mark.parametrize(("model_class", "events"), [(MaskedItemModel, 5), (NextItemModel, 6)])
def test_of_sequences_longer_than_the_model_the_newest_part_is_trained_on(
    model_class, events, caplog
):
    caplog.set_level("INFO", logger="idbert")
    torch.manual_seed(0)
    encoder = EncoderSettings(hidden_size=16, num_layers=1, max_length=5)
    model = model_class.build(encoder, vocab_size=16)
    masking = MaskingSettings() if model_class is MaskedItemModel else None
    sequences = Sequences.from_histories([list(range(4, 12)), [4, 5]])
    data = training_data(model, sequences, masking, BatchSettings(), seed=0)
    assert data.sequences.packed().items.tolist() == [*range(12 - events, 12), 4, 5]
    assert data.input_lengths.max() == 5
    assert f"{8 - events} events left out: they are older than the newest {events}" in caplog.text


def test_a_validation_history_above_the_token_budget_is_read():
    torch.manual_seed(0)
    encoder = EncoderSettings(kind="nezha", hidden_size=16, num_layers=1)
    model = NextItemModel.build(encoder, vocab_size=16)
    usual, small = (
        validation_metrics(model, validation(), BatchSettings(token_budget=budget))
        for budget in (2000, 3)
    )
    assert small == pytest.approx(usual)


def test_the_last_step_of_an_epoch_accumulates_what_is_left(tmp_path):
    trainer = build(tmp_path, accumulation=4, epochs=2)
    trainer.train_or_resume()
    assert [(row["step"], row["epoch"]) for row in trainer.curve()] == [(2, 1.0), (4, 2.0)]


def test_max_steps_ends_training_within_an_epoch_with_an_evaluation(tmp_path):
    trainer = build(tmp_path, max_steps=BATCHES + 2)
    trainer.train_or_resume()
    assert trainer.state.global_step == BATCHES + 2
    assert [row["step"] for row in trainer.curve() if "ndcg@10" in row] == [BATCHES, BATCHES + 2]
    assert checkpoint_steps(tmp_path) == [BATCHES, BATCHES + 2]


def test_the_curve_holds_loss_and_metrics_of_every_epoch(tmp_path):
    trainer = build(tmp_path, epochs=3, metric="recall@10")
    trainer.train_or_resume()
    curve = trainer.curve()
    named = [name for name in curve[0] if "@" in name]
    assert named[0] == "recall@10" and named.count("recall@10") == 1, "what decides comes first"
    assert [row["epoch"] for row in curve] == [1.0, 2.0, 3.0]
    assert [row["step"] for row in curve] == [BATCHES, 2 * BATCHES, 3 * BATCHES]
    assert all(
        {"loss", "learning_rate", "ndcg@10", "recall@10", "mrr@20"} <= set(row) for row in curve
    )
    assert curve[2]["loss"] < curve[1]["loss"] < curve[0]["loss"]


def test_an_evaluation_after_training_leaves_the_curve_as_it_was(tmp_path):
    trainer = build(tmp_path, metric="recall@20")  # best from the first evaluation on
    trainer.train_or_resume()
    curve = trainer.curve()
    assert trainer.evaluate()["eval_ndcg@10"] == curve[0]["ndcg@10"] != curve[1]["ndcg@10"]
    assert trainer.curve() == curve


def test_without_a_validation_part_the_last_weights_are_kept(tmp_path):
    trainer = build(tmp_path, with_validation=False)
    trainer.train_or_resume()
    last = load_item_model(tmp_path / f"checkpoint-{2 * BATCHES}")
    assert weights_sha256(last) == weights_sha256(trainer.model)
    assert all("ndcg@10" not in row for row in trainer.curve())


class WorseEachTime(TrainerCallback):
    """Makes every evaluation worse than the one before."""

    def __init__(self, monkeypatch):
        self.calls = 0
        monkeypatch.setattr("idbert.training.item_trainer.validation_metrics", self.metrics)

    def metrics(self, *_):
        self.calls += 1
        return {"ndcg@10": 1 / self.calls}


def test_gradient_checkpointing_recomputes_layers_and_learns_the_same(tmp_path):
    calls, digests = {False: 0, True: 0}, set()
    for is_on in calls:
        model = build_model()

        def count(*_, is_on=is_on):
            calls[is_on] += 1

        model.backbone.encoder.encoder.layer[0].intermediate.register_forward_hook(count)
        trainer = build(
            tmp_path / str(is_on), model=model, with_validation=False, gradient_checkpointing=is_on
        )
        trainer.train_or_resume()
        digests.add(weights_sha256(model))
    assert calls[True] == 2 * calls[False]
    assert len(digests) == 1


def test_training_stops_early_and_ends_with_the_best_weights(tmp_path, monkeypatch):
    WorseEachTime(monkeypatch)
    trainer = build(tmp_path, epochs=10, patience=2)
    trainer.train_or_resume()
    assert trainer.finished
    assert trainer.state.global_step == 3 * BATCHES
    best = load_item_model(tmp_path / f"checkpoint-{BATCHES}")
    assert weights_sha256(best) == weights_sha256(trainer.model)


def test_the_newest_checkpoints_and_the_best_one_stay_on_disk(tmp_path, monkeypatch):
    WorseEachTime(monkeypatch)
    build(tmp_path, epochs=5, keep_checkpoints=2).train_or_resume()
    assert checkpoint_steps(tmp_path) == [BATCHES, 4 * BATCHES, 5 * BATCHES]


@pytest.mark.parametrize(
    ("values", "patience", "exhausted"),
    [
        ([], 1, False),
        ([0.1], 1, False),
        ([0.1, 0.2], 1, False),
        ([0.2, 0.1], 1, True),
        ([0.2, 0.2], 1, True),
        ([0.2, 0.1, 0.1], 3, False),
        ([0.2, 0.1, 0.3], 1, False),
    ],
)
def test_patience_counts_the_evaluations_since_the_first_best(values, patience, exhausted):
    log = [{"loss": 1.0}, *({"eval_ndcg@10": value} for value in values)]
    assert EarlyStopping("ndcg@10", patience).is_exhausted(log) is exhausted


def test_a_users_own_callback_is_called(tmp_path):
    steps = []

    class Mine(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            steps.append(state.global_step)

    build(tmp_path, callbacks=[Mine()]).train_or_resume()
    assert steps == list(range(1, 2 * BATCHES + 1))


def test_matrices_decay_and_biases_norms_and_layer_weights_do_not():
    model = build_model(MaskedItemModel, fusion=FusionSettings("softmax"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, others = parameter_groups(model, weight_decay=0.1)
    assert decaying["weight_decay"] == 0.1 and others["weight_decay"] == 0.0
    decaying_names = {names[id(parameter)] for parameter in decaying["params"]}
    other_names = {names[id(parameter)] for parameter in others["params"]}
    assert decaying_names | other_names == set(names.values())
    assert all(name.endswith(".weight") for name in decaying_names)
    assert not any("LayerNorm" in name for name in decaying_names)
    assert any("word_embeddings" in name for name in decaying_names)
    assert any("fusion" in name for name in other_names)


def test_frozen_parameters_are_left_out_of_the_optimizer():
    model = build_model()
    model.backbone.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.1)
    assert [len(group["params"]) for group in groups] == [0, 1]


def test_validation_ranks_as_the_scores_do():
    model, part = build_model().eval(), validation()
    metrics = validation_metrics(model, part, BatchSettings())
    hits = []
    for user in range(len(part.histories)):
        walk = part.histories.items[part.histories.offsets[user] : part.histories.offsets[user + 1]]
        scores_V = model(torch.from_numpy(walk[None].astype(np.int64))).logits[0, -1]
        scores_V[:4] = -torch.inf
        hits.append(int(part.targets_Q[user]) in scores_V.topk(5).indices.tolist())
    assert metrics["recall@5"] == pytest.approx(np.mean(hits))


def test_validation_metrics_of_several_targets_are_means_over_users_of_means():
    model, part = build_model().eval(), validation(targets=3)
    uneven = np.concatenate([np.zeros(190, np.int64), [1, 2]])
    grouped = replace(part, users_Q=uneven)
    each = [
        validation_metrics(model, _one(part, place), BatchSettings())["ndcg@10"]
        for place in range(len(part))
    ]
    found = validation_metrics(model, grouped, BatchSettings())["ndcg@10"]
    assert found == pytest.approx(np.mean([np.mean(each[:190]), each[190], each[191]]))
    assert validation_metrics(model, part, BatchSettings())["ndcg@10"] == pytest.approx(
        np.mean(each)
    )
    assert part.first_targets().tolist() == list(range(0, 192, 3))
    assert replace(part, users_Q=None).first_targets().tolist() == list(range(192))


def _one(part: Validation, place: int) -> Validation:
    start, stop = part.histories.offsets[place : place + 2]
    history = Sequences.from_histories([part.histories.items[start:stop]])
    return Validation(history, part.targets_Q[place : place + 1], filter_seen=False)


def test_validation_filters_seen_items_when_told_to():
    model, part = build_model(), validation()
    filtered = Validation(part.histories, part.targets_Q, filter_seen=True)
    assert (
        validation_metrics(model, filtered, BatchSettings())["recall@10"]
        > validation_metrics(model, part, BatchSettings())["recall@10"]
    )


def test_a_validation_part_of_unequal_lengths_is_refused():
    with pytest.raises(DataError, match="64 histories and 63 targets"):
        Validation(validation().histories, validation().targets_Q[1:])
    with pytest.raises(DataError, match="numbered from 0, and each of them has a target"):
        replace(validation(), users_Q=np.arange(64) * 2)


def test_a_metric_that_is_not_reported_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="no metric 'ndgc@10'. Did you mean 'ndcg@10'?"):
        build(tmp_path, metric="ndgc@10")
    assert build(tmp_path, metric=None).args.metric_for_best_model == "ndcg@1"


def test_masking_is_needed_by_one_model_and_refused_by_the_other(tmp_path):
    walks = Sequences.from_histories([[4, 5, 6]])
    rest = (BatchSettings(), TrainingSettings())
    with pytest.raises(ConfigError, match="needs masking settings"):
        build_trainer(build_model(MaskedItemModel), walks, None, *rest, output_dir=tmp_path)
    with pytest.raises(ConfigError, match="Masking cannot act on a next-item model"):
        build_trainer(build_model(), walks, MaskingSettings(), *rest, output_dir=tmp_path)


def test_what_needs_a_validation_part_is_refused_without_one(tmp_path):
    with pytest.raises(ConfigError, match="patience=3 cannot act without a validation part"):
        build(tmp_path, with_validation=False, patience=3)
    with pytest.raises(ConfigError, match="without a validation part to evaluate on"):
        build(tmp_path, with_validation=False).evaluate()
