"""Training of towers: as sentence-transformers alone does it, but resumable, by our settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sentence_transformer.training_args import (
    SentenceTransformerTrainingArguments,
)
from transformers import TrainerCallback

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.blocks import BlockSettings
from idbert.nn.structure import StructureSettings
from idbert.training.adversarial import AdversarialSettings
from idbert.training.arguments import TrainingSettings
from idbert.training.averaging import AveragingSettings
from nlp_tasks.match.losses import build_loss, find_loss
from nlp_tasks.match.scoring import Question, validation_of
from nlp_tasks.match.settings import MatchBatchSettings, MatchLossSettings, TowerSettings
from nlp_tasks.match.towers import build_towers, save_towers
from nlp_tasks.match.training import MatchTrainer, build_match_trainer
from tests.nlp_tasks.match.match_world import NO_DROPOUT, pairs, with_negatives
from tests.nlp_tasks.text_world import bert_folder

SETTINGS = TrainingSettings(
    epochs=2, learning_rate=1e-3, warmup=0.1, metric=None, device="cpu", seed=3
)
BATCHES, TOWERS, LOSS = MatchBatchSettings(size=8), TowerSettings(), MatchLossSettings()


def trainer_of(
    folder: Path,
    settings: TrainingSettings = SETTINGS,
    *,
    towers: TowerSettings = TOWERS,
    loss: MatchLossSettings = LOSS,
    kind: str = "binary",
    batches: MatchBatchSettings = BATCHES,
    examples=None,
    validated: bool = False,
    callbacks=(),
    **changes: object,
) -> MatchTrainer:
    examples = pairs(36, kind) if examples is None else examples
    bert = folder / "bert"
    if not bert.exists():
        bert_folder(bert, **changes)
    torch.manual_seed(settings.seed)
    built = build_towers(bert, towers)
    found = find_loss(loss, examples)
    module = build_loss(found, built, examples, loss.matryoshka)
    dev = pairs(24, kind, seed=9)
    question = Question.about(dev, has_classifier=False) if validated else None
    return build_match_trainer(
        built,
        found,
        module,
        examples,
        batches,
        settings,
        output_dir=folder / "checkpoints",
        evaluate=validation_of(built, None, dev, question) if question else None,
        metrics=question.metrics(dev) if question else (),
        callbacks=callbacks,
    )


def trained(folder: Path, *arguments, **options) -> dict[str, torch.Tensor]:
    trainer = trainer_of(folder, *arguments, **options)
    trainer.train_or_resume()
    assert trainer.finished
    return weights(trainer)


def weights(trainer: MatchTrainer) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in trainer._tensors().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_default_recipe_ends_in_the_weights_that_sentence_transformers_alone_gives(tmp_path):
    ours = trained(tmp_path)
    # What sentence-transformers opens must be complete, so the folder is saved by it once.
    save_towers(build_towers(tmp_path / "bert", TowerSettings()), tmp_path / "plain")
    torch.manual_seed(3)
    encoder = Transformer(str(tmp_path / "plain"))
    towers = SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension())])
    examples = pairs(36)
    columns = {
        "first": examples.firsts,
        "second": examples.seconds,
        "label": examples.targets.astype("float32").tolist(),
    }
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup_steps=0.1,
        seed=3,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=towers,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        loss=CoSENTLoss(towers),
    )
    trainer.train()
    theirs = {f"towers.{name}": tensor for name, tensor in towers.state_dict().items()}
    assert equal(ours, theirs)


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self._step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": MatchLossSettings("softmax"), "kind": "class"},
        {"loss": MatchLossSettings("in_batch", {"positive": "same"}), "kind": "class"},
        {"towers": TowerSettings(structure=StructureSettings(block=BlockSettings("bigru")))},
    ],
    ids=["cosent", "softmax", "in_batch", "own structure"],
)
def test_a_training_that_was_stopped_ends_in_the_same_weights_bit_for_bit(tmp_path, options):
    settings = replace(SETTINGS, epochs=3, checkpoint_every_steps=2)
    whole = trained(tmp_path / "whole", settings, **options)
    stopped = trainer_of(tmp_path / "stopped", settings, callbacks=[StopAfter(3)], **options)
    with pytest.raises(KeyboardInterrupt):
        stopped.train_or_resume()
    resumed = trainer_of(tmp_path / "stopped", settings, **options)
    assert resumed.resumes
    resumed.train_or_resume()
    assert equal(weights(resumed), whole)
    # Once more, there is nothing left to do.
    again = trainer_of(tmp_path / "stopped", settings, **options)
    again.train_or_resume()
    assert again.finished and equal(weights(again), whole)


def test_towers_learn_the_world_and_end_with_their_best_weights(tmp_path):
    settings = replace(SETTINGS, epochs=5, learning_rate=6e-3)
    options = {"validated": True, "examples": pairs(240), **NO_DROPOUT}
    trainer = trainer_of(tmp_path, settings, **options)
    trainer.train_or_resume()
    aucs = [row["auc"] for row in trainer.curve() if "auc" in row]
    assert len(aucs) == 5 and max(aucs) > 0.95
    assert trainer.evaluate()["eval_auc"] == pytest.approx(max(aucs))


def test_training_stops_early_where_nothing_gets_better(tmp_path):
    settings = replace(SETTINGS, epochs=9, patience=1, learning_rate=1e-9, warmup=0)
    trainer = trainer_of(tmp_path, settings, validated=True)
    trainer.train_or_resume()
    assert trainer.finished and trainer.state.global_step < 9 * 5


def test_accumulated_batches_weigh_as_one_large_batch(tmp_path):
    # Of the 32 pairs every batch is full, so that means of means are means.
    options = {"loss": MatchLossSettings("cosine_mse"), "examples": pairs(32), **NO_DROPOUT}
    settings = replace(SETTINGS, epochs=1, clip_norm=None, schedule="constant", warmup=0)
    logs = []
    for size, accumulation in ((32, 1), (8, 4)):
        batches = MatchBatchSettings(size=size)
        changed = replace(settings, accumulation=accumulation)
        trainer = trainer_of(tmp_path / str(size), changed, batches=batches, **options)
        trainer.train_or_resume()
        logs.append(trainer.state.log_history[0])
    for name in ("loss", "grad_norm"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-4), name


WITH_CLASSIFIER = {"loss": MatchLossSettings("softmax"), "kind": "class"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("plain")
    return trained(folder, replace(SETTINGS, epochs=1), **WITH_CLASSIFIER)


@pytest.mark.parametrize(
    "change",
    [
        {"layer_decay": 0.5},
        {"head_learning_rate": 0.1},
        {"frozen_layers": 1},
        {"averaging": AveragingSettings("ema", decay=0.5)},
        {"precision": "bfloat16"},
        {"clip_norm": 0.01},
        {"weight_decay": 0.9},
        {"schedule": "cosine"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_of_training_act(tmp_path, plain, change: dict):
    settings = replace(SETTINGS, epochs=1, **change)
    assert not equal(plain, trained(tmp_path, settings, **WITH_CLASSIFIER))


def test_pairs_that_fit_into_no_batch_are_told(tmp_path, caplog):
    examples = pairs(36, "none")
    repeated = replace(examples, seconds=["the same answer"] * 30 + examples.seconds[30:])
    loss = MatchLossSettings("in_batch")
    trainer_of(tmp_path, loss=loss, examples=examples)
    assert "are trained on in an epoch" not in caplog.text
    trainer_of(tmp_path, loss=loss, examples=repeated)
    placed = 5 + len(set(examples.seconds[30:]))
    assert f"at most {placed} of 36 pairs are trained on in an epoch of 5 batches" in caplog.text
    assert "'the same answer', for one, is in 30 pairs" in caplog.text


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path, plain):
    settings = replace(SETTINGS, epochs=1, gradient_checkpointing=True)
    checkpointed = trained(tmp_path, settings, **WITH_CLASSIFIER)
    for name, tensor in plain.items():
        torch.testing.assert_close(checkpointed[name], tensor, atol=1e-5, rtol=1e-4)


def test_two_towers_go_different_ways(tmp_path):
    ended = trained(tmp_path, towers=TowerSettings(two_towers=True))
    names = [name for name in ended if "s.query." in name and name.endswith("query.weight")]
    assert names
    assert not any(
        torch.equal(ended[name], ended[name.replace("s.query.", "s.document.")]) for name in names
    )


def test_hard_negatives_are_trained_on(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    options = {"loss": MatchLossSettings("in_batch")}
    plain = trained(tmp_path / "a", settings, examples=pairs(24, "none"), **options)
    examples = with_negatives(pairs(24, "none"), [2])
    assert not equal(plain, trained(tmp_path / "b", settings, examples=examples, **options))


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({"adversarial": AdversarialSettings("fgm")}, {}, "adversarial 'fgm' cannot act on towers"),
        ({"patience": 2}, {}, "patience=2 cannot act without a validation part"),
        (
            {"layer_decay": 0.9},
            {"towers": TowerSettings(two_towers=True)},
            "layer_decay cannot act on two towers",
        ),
        ({"metric": "ndcg@10"}, {"validated": True}, "There is no metric 'ndcg@10'"),
        (
            {},
            {"loss": MatchLossSettings("simcse"), "batches": MatchBatchSettings(size=1)},
            "takes the other pairs of a batch for negatives",
        ),
        ({"frozen_layers": "all"}, {}, "leaves nothing to train"),
        ({"head_learning_rate": 0.1}, {}, "all that is trained is in the encoder"),
    ],
)
def test_settings_that_cannot_act_are_refused(tmp_path, settings: dict, options: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        trainer_of(tmp_path, replace(SETTINGS, **settings), **options)


def test_a_checkpoint_of_other_pairs_is_refused(tmp_path):
    trained(tmp_path, replace(SETTINGS, epochs=1))
    trainer = trainer_of(tmp_path, SETTINGS)
    dataset = trainer._loader.dataset
    name = dataset.column_names[0]
    values = ["another text", *dataset[name][1:]]
    changed = dataset.remove_columns([name]).add_column(name, values)
    trainer._loader = replace(trainer._loader, dataset=changed.select_columns(dataset.column_names))
    with pytest.raises(CheckpointError, match="was written with data"):
        trainer.train_or_resume()


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    trained(tmp_path, replace(SETTINGS, epochs=1))
    with pytest.raises(CheckpointError, match="was written with"):
        trainer_of(tmp_path, replace(SETTINGS, learning_rate=0.5)).train_or_resume()
    other = {"loss": MatchLossSettings("bce")}
    with pytest.raises(CheckpointError, match="the weights of other towers or of another loss"):
        trainer_of(tmp_path, SETTINGS, **other).train_or_resume()
