"""A trainer for any model whose batches are planned."""

import json
import math

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from idbert.errors import ConfigError, TrainingError
from idbert.training.adversarial import AdversarialSettings
from idbert.training.callbacks import EarlyStopping
from idbert.training.metric import is_smaller_better
from tests.training.small import Gradients
from tests.training.small_rows import NUM_ROWS, RowData, RowModel, build_rows, row_model

EVERY_STEP = {"warmup": 0, "clip_norm": None, "log_every_steps": 1}


def evaluation(**values):
    """Return an evaluation whose values come one after the other."""
    rest = {name: iter(series) for name, series in values.items()}
    return lambda: {name: next(series) for name, series in rest.items()}


@pytest.mark.parametrize("attack", ["none", "fgm"])
@pytest.mark.parametrize("kind", ["single", "multi", "number"])
def test_accumulated_batches_equal_one_large_batch_whatever_the_labels(kind, attack, tmp_path):
    settings = EVERY_STEP | {"adversarial": AdversarialSettings(attack)}
    one, many = Gradients(), Gradients()
    trainer = build_rows(tmp_path / "one", kind, token_budget=999, callbacks=[one], **settings)
    assert len(trainer.get_train_dataloader()) == 1
    trainer.train_or_resume()
    trainer = build_rows(tmp_path / "many", kind, accumulation=4, callbacks=[many], **settings)
    assert len(trainer.get_train_dataloader()) == 4
    trainer.train_or_resume()
    assert many.losses == pytest.approx(one.losses, rel=1e-5)
    torch.testing.assert_close(many.of_steps, one.of_steps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "number"),
    [
        (torch.tensor([1, -100, 2]), 2),
        (torch.tensor([[1, -100], [-100, -100]]), 1),
        (torch.ones(3, 5), 3),
        (torch.tensor([0.5, -100.0, 1.0]), 3),
        (torch.tensor([-100, -100]), 1),  # nothing to divide by
        (None, 7),
    ],
)
def test_labels_are_counted_one_by_one_but_rows_of_floats_once(labels, number, tmp_path):
    batch = {"input_ids": torch.zeros(7, 2)} | ({} if labels is None else {"labels": labels})
    trainer = build_rows(tmp_path)
    _, counted = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
    assert counted == number
    _, counted = trainer.get_batch_samples(iter([batch, batch]), 2, trainer.args.device)
    assert counted == 2 * number or number == 1


class PairData(RowData):
    def __getitems__(self, planned):
        batch = super().__getitems__(planned)
        return batch | {"pair_labels": batch["labels"]}


class PairModel(RowModel):
    counted_labels = {"pair_labels": "num_pairs"}

    def forward(
        self, input_ids, attention_mask, labels, pair_labels, num_pairs, num_items_in_batch
    ):
        self.pairs.append((len(pair_labels), int(num_pairs)))
        return super().forward(input_ids, attention_mask, labels, num_items_in_batch)


def test_further_labels_are_counted_over_the_whole_step(tmp_path):
    model = row_model(PairModel)
    model.pairs = []
    build_rows(tmp_path, model=model, data=PairData("single"), accumulation=4).train_or_resume()
    assert len(model.pairs) == 4 and sum(rows for rows, _ in model.pairs) == NUM_ROWS
    assert {total for _, total in model.pairs} == {NUM_ROWS}


def test_a_model_that_does_not_divide_by_the_targets_of_the_step_is_refused(tmp_path):
    tiny = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="BertForSequenceClassification.forward has no argument"):
        build_rows(tmp_path, model=BertForSequenceClassification(tiny))


def test_gradients_are_clipped_together_not_each_parameter_alone(tmp_path):
    free, clipped = Gradients(), Gradients()
    settings = EVERY_STEP | {"max_steps": 1}
    build_rows(tmp_path / "free", callbacks=[free], **settings).train_or_resume()
    settings["clip_norm"] = 1e-3
    build_rows(tmp_path / "clipped", callbacks=[clipped], **settings).train_or_resume()

    def flat(gradients):
        return torch.cat([gradient.flatten() for gradient in gradients.of_steps[0]])

    assert flat(clipped).norm() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(
        flat(clipped) * (flat(free).norm() / flat(clipped).norm()), flat(free), rtol=1e-3, atol=1e-6
    )


def test_the_model_is_evaluated_in_evaluation_mode_without_gradients(tmp_path):
    seen = []

    def evaluate():
        seen.append((trainer.model.training, torch.is_grad_enabled()))
        return {"accuracy": torch.tensor(0.5)}

    trainer = build_rows(tmp_path, evaluate=evaluate, metric="accuracy")
    trainer.train_or_resume()
    assert seen == [(False, False)]
    assert trainer.curve()[-1]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("accuracy", [0.1, 0.3, 0.2], 2),
        ("loss", [3.0, 1.0, 2.0], 2),
        ("mse", [3.0, 2.0, 1.0], 3),
        ("pearson", [math.nan, 0.1, math.nan], 2),
    ],
)
def test_errors_are_best_when_small_and_other_metrics_when_large(metric, values, best, tmp_path):
    trainer = build_rows(
        tmp_path,
        evaluate=evaluation(**{metric: values}),
        metrics=[metric],
        metric=metric,
        epochs=3,
        token_budget=999,
    )
    trainer.train_or_resume()
    assert trainer.state.best_global_step == best
    name = "validation_loss" if metric == "loss" else metric
    assert [row[name] for row in trainer.curve()] == pytest.approx(values, nan_ok=True)
    assert all(row["loss"] != row.get("validation_loss") for row in trainer.curve())


@pytest.mark.parametrize(
    ("values", "patience", "exhausted"),
    [([2.0, 1.0], 1, False), ([1.0, 2.0], 1, True), ([math.nan, 1.0], 1, False)],
)
def test_patience_on_a_loss_waits_for_a_smaller_one(values, patience, exhausted):
    log = [{"eval_loss": value} for value in values]
    assert EarlyStopping("loss", patience).is_exhausted(log) is exhausted


def test_the_last_word_of_a_metrics_name_says_whether_it_measures_errors():
    smaller = [name for name in ("dev_loss", "mae", "rmse", "perplexity", "glossary", "macro_f1")
               if is_smaller_better(name)]  # fmt: skip
    assert smaller == ["dev_loss", "mae", "rmse", "perplexity"]


def test_training_stops_early_on_a_loss(tmp_path):
    trainer = build_rows(
        tmp_path,
        evaluate=evaluation(loss=[3.0, 2.0, 4.0, 5.0]),
        metrics=["loss"],
        metric="loss",
        patience=2,
        epochs=9,
        token_budget=999,
    )
    trainer.train_or_resume()
    assert trainer.finished and trainer.state.global_step == 4


def test_a_metric_is_chosen_or_refused_before_training(tmp_path):
    options = {"evaluate": evaluation(macro_f1=[0.5]), "metrics": ["macro_f1", "accuracy"]}
    trainer = build_rows(tmp_path, metric=None, **options)
    assert trainer.args.metric_for_best_model == "macro_f1"
    with pytest.raises(ConfigError, match="no metric 'makro_f1'. Did you mean 'macro_f1'"):
        build_rows(tmp_path, metric="makro_f1", **options)
    with pytest.raises(ConfigError, match="No metric is named"):
        build_rows(tmp_path, metric=None, evaluate=evaluation(macro_f1=[0.5]))


def test_a_metric_that_the_evaluation_does_not_report_after_all_is_one_clear_error(tmp_path):
    trainer = build_rows(tmp_path, evaluate=evaluation(macro_f1=[0.5]), metric="accuracy")
    with pytest.raises(ConfigError, match="no metric 'accuracy'. Choose from: macro_f1"):
        trainer.train_or_resume()


def test_patience_needs_an_evaluation(tmp_path):
    with pytest.raises(ConfigError, match="patience=3 cannot act without a validation part"):
        build_rows(tmp_path, patience=3)


def test_a_moved_checkpoint_of_rows_resumes_with_its_origin_told(tmp_path):
    build_rows(tmp_path, layer_decay=0.5).train_or_resume()
    (manifest,) = tmp_path.glob("checkpoint-*/checkpoint.json")
    origin = json.loads(manifest.read_text())["origin"]
    assert origin["layer_decay"] == 0.5 and origin["averaging"] == "none"


def test_a_training_that_diverges_ends_before_such_weights_are_saved(tmp_path):
    trainer = build_rows(tmp_path, "number", learning_rate=1e30, epochs=4, **EVERY_STEP)
    with pytest.raises(TrainingError, match=r"up to step \d+ its loss became (nan|inf)\. Begin"):
        trainer.train_or_resume()
    assert not list(tmp_path.glob("checkpoint-*")) and not trainer.finished
