"""Traps of BERT fine-tuning code, each of which has been met in the wild: training.

Every check is a law that sound code obeys; beside it stands faulty code that breaks it, so that the
check itself is known to bite.
"""

import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from transformers import TrainerCallback, get_linear_schedule_with_warmup
from transformers.trainer import safe_globals

from idbert.nn.blocks import BlockSettings
from idbert.nn.fusion import FusionSettings
from idbert.nn.pooling import PoolingSettings
from idbert.nn.structure import StructureSettings
from idbert.training.parameters import parameter_groups
from idbert.training.planned_trainer import PlannedTrainer
from nlp_tasks.cls.labels import LabelMap
from nlp_tasks.cls.metrics import Predictions, classification_metrics
from nlp_tasks.cls.model import TextClassifier
from tests.nlp_tasks.text_world import bert_folder
from tests.training.small import AtStep, Killed, die, weights_sha256
from tests.training.small_rows import NUM_ROWS, build_rows, row_model


class Rates(TrainerCallback):
    """Keeps the share of the full learning rate that every step is taken with."""

    def __init__(self) -> None:
        self.of_steps: list[float] = []

    def on_pre_optimizer_step(self, args, state, control, optimizer, **_):
        group = optimizer.param_groups[0]
        self.of_steps.append(group["lr"] / group["initial_lr"])


# 10. Steps counted from rows, as if every batch held one


def check_rate_rises_and_falls_within_the_training(rates: list[float], warmup: float) -> None:
    assert np.argmax(rates) == round(warmup * len(rates)) and max(rates) == pytest.approx(1)
    assert rates[-1] < 1.5 / (len(rates) * (1 - warmup))  # the last step before 0


def test_warm_up_and_decay_are_over_when_the_training_is(tmp_path):
    rates = Rates()
    trainer = build_rows(tmp_path, accumulation=2, epochs=10, warmup=0.2, callbacks=[rates])
    batches = len(trainer.get_train_dataloader())
    trainer.train_or_resume()
    assert trainer.state.global_step == len(rates.of_steps) == 10 * batches / 2
    check_rate_rises_and_falls_within_the_training(rates.of_steps, 0.2)

    total = NUM_ROWS // 2 * 10  # rows, and not batches, by accumulation
    optimizer = torch.optim.SGD([torch.ones(1)], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.2 * total), total)
    faulty = [schedule.lr_lambdas[0](step) for step in range(len(rates.of_steps))]
    with pytest.raises(AssertionError):
        check_rate_rises_and_falls_within_the_training(faulty, 0.2)


# 11. Groups of parameters by parts of their names; vectors that decay; clipping one by one


Groups = list[dict[str, object]]


def check_groups(model: nn.Module, groups: Groups) -> None:
    """The encoder has its rate and the rest another; all are there once; only matrices decay."""
    encoder = {id(parameter) for parameter in model.backbone.encoder.parameters()}
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
    for group in groups:
        for parameter in group["params"]:
            assert (group["lr"] == 0.1) == (id(parameter) in encoder)
            assert (group["weight_decay"] > 0) == (parameter.ndim >= 2)


def by_name(model: nn.Module) -> Groups:
    """Return groups of which a head whose name holds "bert" has the encoder's rate."""
    return [
        {
            "params": [parameter],
            "lr": 0.1 if "bert" in name or "encoder" in name else 0.7,
            "weight_decay": 0.01 if parameter.ndim >= 2 else 0.0,
        }
        for name, parameter in model.named_parameters()
    ]


def all_decay(model: nn.Module) -> Groups:
    encoder = list(model.backbone.encoder.parameters())
    head = [p for p in model.parameters() if all(p is not other for other in encoder)]
    return [
        {"params": parameters, "lr": rate, "weight_decay": 0.5}
        for parameters, rate in ((encoder, 0.1), (head, 0.7))
    ]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "tiny")


def test_rates_and_decay_follow_what_a_parameter_is_and_not_its_name(bert):
    classifier = TextClassifier.build(
        bert,
        kind="single",
        num_outputs=3,
        structure=StructureSettings(FusionSettings("weights"), BlockSettings("bilstm")),
        pooling=PoolingSettings("mix"),
    )
    for model, faulty in ((row_model(), by_name), (classifier, all_decay)):
        encoder = model.backbone.encoder
        rates = {"learning_rate": 0.1, "head_learning_rate": 0.7}
        check_groups(model, parameter_groups(model, 0.01, encoder=encoder, **rates))
        with pytest.raises(AssertionError):
            check_groups(model, faulty(model))


def test_weight_decay_is_the_one_that_was_asked_for(tmp_path):
    trainer = build_rows(tmp_path, weight_decay=0.05)
    decays = {group["weight_decay"] for group in trainer.create_optimizer().param_groups}
    assert decays == {0.05, 0.0}


def check_is_as_before_at_norm_one(clip: Callable[[Iterable[nn.Parameter]], object]) -> None:
    large, small = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(2))
    large.grad, small.grad = torch.full((4,), 50.0), torch.tensor([0.0, 2.0])
    before = torch.cat([large.grad, small.grad])
    clip([large, small])
    after = torch.cat([large.grad, small.grad])
    torch.testing.assert_close(after, before / before.norm())


def test_gradients_are_clipped_by_their_common_norm(tmp_path):
    trainer = build_rows(tmp_path)
    clip = trainer.accelerator.clip_grad_norm_
    check_is_as_before_at_norm_one(lambda parameters: clip(parameters, trainer.args.max_grad_norm))

    def one_by_one(parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            nn.utils.clip_grad_norm_([parameter], 1.0)

    with pytest.raises(AssertionError):
        check_is_as_before_at_norm_one(one_by_one)


# 12. Evaluations that crash, figures that are all the accuracy, checkpoints that do not resume


def test_every_epoch_is_evaluated(tmp_path):
    values = iter([0.2, 0.5, 0.3])
    trainer = build_rows(tmp_path, epochs=3, evaluate=lambda: {"f1": next(values)}, metric="f1")
    trainer.train_or_resume()
    curve = [row["f1"] for row in trainer.curve() if "f1" in row]
    assert curve == [0.2, 0.5, 0.3]


def check_a_class_that_is_never_found_costs(f1: Callable[[np.ndarray, np.ndarray], float]) -> None:
    targets = np.repeat([0, 1], [9, 1])
    assert f1(targets, np.zeros_like(targets)) < 0.5


def test_macro_f1_is_not_the_accuracy_again():
    def ours(targets: np.ndarray, decisions: np.ndarray) -> float:
        labels = LabelMap("single", ("often", "rare"))
        predictions = Predictions(labels, targets, decisions, np.eye(2)[decisions])
        return classification_metrics(predictions)["macro_f1"]

    check_a_class_that_is_never_found_costs(ours)
    with pytest.raises(AssertionError):
        check_a_class_that_is_never_found_costs(
            lambda targets, decisions: f1_score(targets, decisions, average="micro")
        )


def check_nothing_needs_unpickling(folder: Path) -> None:
    """Tensors, numbers and the state of numpy's generator are read; an object never is."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl")]
    assert paths
    for path in paths:
        with safe_globals():
            torch.load(path, weights_only=True)


def finished(folder: Path, **settings: object) -> PlannedTrainer:
    trainer = build_rows(folder, epochs=2, checkpoint_every_steps=3, **settings)
    trainer.train_or_resume()
    return trainer


def test_a_stopped_training_resumes_with_its_optimizer_and_schedule(tmp_path):
    def check_ends_as_if_never_stopped(trainer: PlannedTrainer) -> None:
        assert weights_sha256(trainer.model) == weights_sha256(whole.model)

    whole = finished(tmp_path / "whole")
    check_ends_as_if_never_stopped(finished(tmp_path / "again"))  # the seed decides everything
    with pytest.raises(Killed):
        finished(tmp_path / "stopped", callbacks=[AtStep(4, die)])
    check_nothing_needs_unpickling(tmp_path / "stopped")
    check_ends_as_if_never_stopped(finished(tmp_path / "stopped", model=row_model(seed=9)))

    faulty = row_model()
    weights = min((tmp_path / "whole").glob("checkpoint-*"))
    faulty.load_state_dict(type(faulty).from_pretrained(weights).state_dict())
    with pytest.raises(AssertionError):  # weights alone, under a new optimizer
        check_ends_as_if_never_stopped(finished(tmp_path / "weights alone", model=faulty))


def test_a_pickled_model_would_be_found(tmp_path):
    torch.save(row_model(), tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError):
        check_nothing_needs_unpickling(tmp_path)


Loss = Callable[[dict[str, Tensor], int], Tensor]


def check_parts_add_up_to_the_whole(loss: Loss) -> None:
    ids = torch.tensor([[2, 5, 3], [2, 6, 3], [2, 7, 3], [2, 8, 3], [2, 9, 3]])
    batch = {"input_ids": ids, "labels": torch.tensor([0, 1, 2, 0, 1])}
    parts = [{name: tensor[:4] for name, tensor in batch.items()}]
    parts += [{name: tensor[4:] for name, tensor in batch.items()}]
    torch.testing.assert_close(sum(loss(part, 5) for part in parts), loss(batch, 5))


def test_accumulated_batches_of_unequal_size_weigh_as_one(bert):
    torch.manual_seed(0)
    model = TextClassifier.build(bert, kind="single", num_outputs=3).eval()
    check_parts_add_up_to_the_whole(
        lambda batch, rows: model(**batch, num_items_in_batch=rows).loss
    )
    with pytest.raises(AssertionError):  # a mean of means
        check_parts_add_up_to_the_whole(
            lambda batch, rows: model(**batch).loss / (1 if len(batch["labels"]) == rows else 2)
        )
