"""One part of each kind from outside the package, used by name in the commands."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.blocks import BLOCKS
from idbert.nn.fusion import FUSIONS
from idbert.nn.heads import HEADS
from idbert.nn.item_models import load_item_model
from idbert.nn.losses.catalogue import LOSSES
from idbert.nn.losses.labels import LABEL_LOSSES
from idbert.nn.pooling import POOLINGS
from nlp_tasks.cls import Classifier
from tests.nlp_tasks.text_world import bert_folder, texts, write
from tests.pipelines.commands import TINY, Finished, run, succeed
from tests.worlds import cycle_world

TABLES = (FUSIONS, BLOCKS, POOLINGS, HEADS, LABEL_LOSSES, LOSSES)
PLUGIN = "parts_from_outside"
SOURCE = '''
"""One fusion, block, pooling, head, label loss and catalogue loss; each counts its calls."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from idbert.errors import ConfigError
from idbert.nn.blocks.block import BLOCKS, Block, zero_padding
from idbert.nn.fusion import FUSIONS, LayerFusion
from idbert.nn.heads import HEADS, Head
from idbert.nn.losses.catalogue import LOSSES, CatalogueLoss
from idbert.nn.losses.labels import LABEL_LOSSES, SingleLabelLoss
from idbert.nn.parts import NoOptions
from idbert.nn.pooling import POOLINGS, Pooling

CALLS = Counter()


@FUSIONS.register("midrange")
class Midrange(LayerFusion):
    @dataclass(frozen=True)
    class Options(NoOptions):
        share: float = 0.5

    def __init__(self, num_states, hidden_size, layers=None, *, options):
        super().__init__(num_states, hidden_size, layers)
        self.share = options.share

    def forward(self, hidden_KBLD):
        CALLS["midrange"] += 1
        stacked = torch.stack(self._chosen(hidden_KBLD))
        return self.share * stacked.amax(0) + (1 - self.share) * stacked.amin(0)


@BLOCKS.register("echo")
class Echo(Block):
    """A dense layer on a position and the one some steps before it."""

    @dataclass(frozen=True)
    class Options(NoOptions):
        steps: int = 1

        def __post_init__(self):
            if self.steps < 1:
                raise ConfigError(f"steps of the echo is {self.steps}; it must be at least 1.")

    supports_causal = True

    def __init__(self, input_width, width, options, *, is_causal):
        super().__init__(input_width, width, options, is_causal=is_causal)
        self.steps = options.steps
        self.dense = nn.Linear(self.input_width, self.width)

    def forward(self, hidden_BLD, attention_mask_BL):
        CALLS["echo"] += 1
        real = zero_padding(hidden_BLD, attention_mask_BL)
        before = nn.functional.pad(real, (0, 0, self.steps, 0))[:, : real.shape[1]]
        return zero_padding(self.dense(real + before), attention_mask_BL)


@POOLINGS.register("power_mean")
class PowerMean(Pooling):
    @dataclass(frozen=True)
    class Options(NoOptions):
        exponent: float = 3.0

    def __init__(self, input_width, options):
        super().__init__(input_width, options)
        self.exponent = options.exponent

    def pool(self, hidden_BLD, real_BL):
        CALLS["power_mean"] += 1
        powers = hidden_BLD.abs() ** self.exponent
        return powers.sum(1) / real_BL.sum(1, keepdim=True).clamp(min=1)


@HEADS.register("cosine")
class Cosine(Head):
    @dataclass(frozen=True)
    class Options(NoOptions):
        scale: float = 10.0

    def __init__(self, input_width, num_outputs, options):
        super().__init__(input_width, num_outputs, options)
        self.scale = options.scale
        self.labels = nn.Linear(input_width, num_outputs, bias=False)

    def forward(self, pooled_BD):
        CALLS["cosine"] += 1
        vectors = [nn.functional.normalize(x, dim=1) for x in (pooled_BD, self.labels.weight)]
        return self.scale * vectors[0] @ vectors[1].T


@LABEL_LOSSES.register("hinge")
class Hinge(SingleLabelLoss):
    """The margin is wider for rare labels, by their share of the training rows."""

    @dataclass(frozen=True)
    class Options(NoOptions):
        margin: float = 1.0

    def __init__(self, num_outputs, options):
        super().__init__(num_outputs, options)
        self.margin = options.margin
        self.register_buffer("shares", torch.zeros(num_outputs))

    def fit(self, counts_C, num_rows, pair_counts_CC=None):
        self.shares.copy_(counts_C / num_rows)

    def row_losses(self, logits_BC, targets):
        CALLS["hinge"] += 1
        losses = nn.functional.multi_margin_loss(
            logits_BC, targets, margin=self.margin, reduction="none"
        )
        return losses * (1 - self.shares[targets])


@LOSSES.register("squared")
class Squared(CatalogueLoss):
    """Squared distance of every score from a height at the target and from 0 elsewhere."""

    @dataclass(frozen=True)
    class Options(NoOptions):
        height: float = 1.0

    def __init__(self, options):
        super().__init__(options)
        self.height = options.height

    def forward(self, hidden_MD, weight_VD, bias_V, targets_M, weights_M=None):
        CALLS["squared"] += 1
        scores = hidden_MD @ weight_VD.T + bias_V
        wanted = nn.functional.one_hot(targets_M, len(weight_VD)).to(scores.dtype) * self.height
        losses = (scores - wanted).square().mean(1)
        return (losses if weights_M is None else losses * weights_M).sum()
'''

CLASSIFIER = (
    "--structure.fusion.name=midrange",
    "--structure.fusion.options={share: 0.25}",
    "--structure.block.name=echo",
    "--structure.block.width=12",
    "--structure.block.options={steps: 2}",
    "--structure.residual.name=projected",
    "--pooling.name=power_mean",
    "--pooling.options={exponent: 2}",
    "--head.name=cosine",
    "--head.options={scale: 5}",
    "--loss.name=hinge",
    "--loss.options={margin: 0.5}",
)
RECOMMENDER = (
    "--model.fusion.name=midrange",
    "--model.fusion.options={share: 0.75}",
    "--model.block.name=echo",
    "--model.block.options={steps: 3}",
    "--loss.name=squared",
    "--loss.options={height: 2.0}",
)


class Outside:
    """The plugin's module, as each new process meets it: unknown until it is imported."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        (folder / f"{PLUGIN}.py").write_text(SOURCE)
        patch.syspath_prepend(str(folder))
        for table in TABLES:  # other tests go over all that are registered
            patch.setattr(table, "_entries", dict(table._entries))
        self._inside = [dict(table._entries) for table in TABLES]

    @property
    def module(self) -> ModuleType:
        return sys.modules[PLUGIN]

    @property
    def calls(self) -> Counter[str]:
        return self.module.CALLS

    def forget(self) -> None:
        """Begin as a new process does."""
        sys.modules.pop(PLUGIN, None)
        for table, entries in zip(TABLES, self._inside, strict=True):
            table._entries.clear()
            table._entries.update(entries)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with pytest.MonkeyPatch.context() as patch:
        plugin = Outside(tmp_path_factory.mktemp("outside"), patch)
        yield plugin
        plugin.forget()


WITH_PLUGIN = f"--plugins=[{PLUGIN}]"


@dataclass(frozen=True)
class Trained:
    """A finished run, what it was trained on, and which parts were called meanwhile."""

    run: Path
    data: Path
    calls: Counter[str]


@pytest.fixture(scope="module")
def classifier(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("texts")
    bert_folder(folder / "bert")
    data = write(texts(60), folder / "train.jsonl")
    outside.forget()
    settings = ("--model", folder / "bert", "--data.train", data, "--text.max_length=16")
    short = ("--batches.token_budget=200", "--training.max_steps=3")
    succeed("nlp_cls", "--run", folder / "run", WITH_PLUGIN, *settings, *short, *CLASSIFIER)
    return Trained(folder / "run", data, Counter(outside.calls))


@pytest.fixture(scope="module")
def recommender(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("log")
    cycle_world().to_csv(folder / "log.csv", index=False)
    outside.forget()
    data = (f"--data.source={folder / 'log.csv'}", *TINY)
    succeed("rec_pretrain", "--run", folder / "run", WITH_PLUGIN, *data, *RECOMMENDER)
    return Trained(folder / "run", folder / "log.csv", Counter(outside.calls))


def config_of(trained: Trained) -> dict[str, object]:
    return json.loads((trained.run / "model" / "config.json").read_text())


# A classifier


def test_a_classifier_is_trained_by_every_part_and_its_options_are_saved(classifier):
    parts = {"midrange", "echo", "power_mean", "cosine", "hinge"}
    assert classifier.calls.keys() == parts
    assert min(classifier.calls.values()) >= 3  # once a step at least
    config = config_of(classifier)
    assert (config["fusion"], config["fusion_options"]) == ("midrange", {"share": 0.25})
    assert (config["block"], config["block_options"]) == ("echo", {"steps": 2})
    assert (config["pooling"], config["pooling_options"]) == ("power_mean", {"exponent": 2})
    assert (config["head"], config["head_options"]) == ("cosine", {"scale": 5})
    assert (config["label_loss"], config["label_loss_options"]) == ("hinge", {"margin": 0.5})


def test_a_classifier_is_opened_again_with_the_parts_that_trained_it(classifier, outside, tmp_path):
    outside.forget()
    files = ("--input", classifier.data, "--output", tmp_path / "out.jsonl")
    succeed("nlp_predict", "--run", classifier.run, WITH_PLUGIN, *files)
    assert outside.calls.keys() == {"midrange", "echo", "power_mean", "cosine"}

    loaded = Classifier.load(classifier.run)
    (model,) = loaded.models
    assert isinstance(model.backbone.fusion, outside.module.Midrange)
    assert isinstance(model.backbone.block.block, outside.module.Echo)
    assert isinstance(model.loss, outside.module.Hinge)
    assert (model.backbone.fusion.share, model.backbone.block.block.steps) == (0.25, 2)
    assert (model.pooling.exponent, model.head.head.scale, model.loss.margin) == (2, 5, 0.5)
    torch.testing.assert_close(model.loss.shares, torch.full((3,), 1 / 3))  # learned, and saved

    written = pd.read_json(tmp_path / "out.jsonl", lines=True)
    predicted = loaded.predict(texts(60)["text"].tolist())
    assert written["prediction"].tolist() == predicted["prediction"].tolist()
    assert written["probability"].to_numpy() == pytest.approx(predicted["probability"].to_numpy())


def assert_one_clear_error(finished: Finished, *words: str) -> None:
    assert finished.status in (1, 2) and "Traceback" not in finished.err
    assert len(finished.message.splitlines()) == 1
    for each in words:
        assert each in finished.message


def test_a_classifier_without_its_plugin_is_one_clear_error(classifier, outside, tmp_path):
    outside.forget()
    files = ("--input", classifier.data, "--output", tmp_path / "out.jsonl")
    finished = run("nlp_predict", "--run", classifier.run, *files)
    assert_one_clear_error(finished, "There is no", f"trained with {WITH_PLUGIN}; give it here too")
    with pytest.raises(ConfigError, match="There is no .* Choose from"):
        Classifier.load(classifier.run)
    assert list(tmp_path.iterdir()) == []


def test_a_pretrained_classifier_without_its_plugin_is_one_clear_error(
    classifier, outside, tmp_path
):
    outside.forget()
    data = ("--model", classifier.run, "--data.train", classifier.data)
    finished = run("nlp_cls", "--run", tmp_path / "next", *data)
    assert_one_clear_error(finished, "There is no", f"trained with {WITH_PLUGIN}; give it here too")


# A recommender


def test_a_recommender_is_trained_by_every_part_and_its_options_are_saved(recommender):
    assert recommender.calls.keys() == {"midrange", "echo", "squared"}
    assert recommender.calls["squared"] == 2  # once a step
    config = config_of(recommender)
    assert (config["fusion"], config["fusion_options"]) == ("midrange", {"share": 0.75})
    assert (config["block"], config["block_options"]) == ("echo", {"steps": 3})
    assert config["loss"] == "squared" and config["loss_options"] == {"height": 2.0}


def test_a_recommender_recommends_with_the_parts_that_trained_it(recommender, outside, tmp_path):
    outside.forget()
    output = ("--k", 2, "--output", tmp_path / "best.csv")
    succeed("rec_recommend", "--run", recommender.run, WITH_PLUGIN, *output)
    assert outside.calls.keys() == {"midrange", "echo"}
    best = pd.read_csv(tmp_path / "best.csv")
    assert len(best) == 2 * 64 and best["score"].nunique() > 64

    model = load_item_model(recommender.run / "model")
    ids = torch.tensor([[4, 5, 6]])
    model(ids, labels=torch.tensor([[-100, 5, -100]])).loss.backward()
    assert outside.calls["squared"] == 1  # it can be trained on with the same loss
    assert (model.backbone.fusion.share, model.backbone.block.block.steps) == (0.75, 3)


def test_a_recommender_goes_on_to_the_next_item_with_the_same_parts(recommender, outside, tmp_path):
    outside.forget()
    data = (f"--data.source={recommender.data}", *TINY, *RECOMMENDER)
    pretrained = ("--run", tmp_path / "run", "--pretrained", recommender.run)
    succeed("rec_finetune", *pretrained, WITH_PLUGIN, *data)
    assert outside.calls["squared"] == 2


def test_a_recommender_without_its_plugin_is_one_clear_error(recommender, outside):
    outside.forget()
    advice = f"{recommender.run} was trained with {WITH_PLUGIN}; give it here too."
    for command in ("rec_index", "rec_evaluate", "rec_recommend"):
        finished = run(command, "--run", recommender.run)
        assert_one_clear_error(finished, "There is no", advice)


def test_a_pretrained_run_without_its_plugin_is_one_clear_error(recommender, outside, tmp_path):
    outside.forget()
    data = (f"--data.source={recommender.data}", *TINY)
    finished = run(
        "rec_finetune", "--run", tmp_path / "run", "--pretrained", recommender.run, *data
    )
    advice = f"{recommender.run} was trained with {WITH_PLUGIN}; give it here too."
    assert_one_clear_error(finished, "There is no", advice)


def test_plugins_are_named_only_where_a_part_is_unknown(recommender, outside, tmp_path):
    outside.forget()
    succeed("rec_index", "--run", recommender.run, WITH_PLUGIN)
    finished = run("rec_recommend", "--run", recommender.run, WITH_PLUGIN, "--items=a", "--k=0")
    assert finished.status in (1, 2) and "--plugins" not in finished.message


# Options that are wrong


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            "--structure.fusion.options={shar: 0.5}",
            "The fusion 'midrange' has no option 'shar'. Did you mean 'share'?",
        ),
        ("--structure.block.options={steps: 0}", "steps of the echo is 0; it must be at least 1."),
        ("--structure.block.options={steps: one}", "The block 'echo':"),
        ("--pooling.options={exponent: [1, 2]}", "The pooling 'power_mean':"),
        (
            "--head.options={scales: 2}",
            "The head 'cosine' has no option 'scales'. Did you mean 'scale'?",
        ),
        ("--loss.options={gamma: 2}", "The label loss 'hinge' has no option 'gamma'."),
    ],
)
def test_a_wrong_option_of_a_classifiers_part_is_one_clear_error(wrong, words, outside, tmp_path):
    outside.forget()
    settings = ("--run", tmp_path / "run", "--model", "absent", WITH_PLUGIN, *CLASSIFIER)
    assert_one_clear_error(run("nlp_cls", *settings, wrong), "ConfigError", words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("--model.fusion.options={shar: 0.5}", "has no option 'shar'. Did you mean 'share'?"),
        ("--model.block.options={steps: 0}", "steps of the echo is 0; it must be at least 1."),
        ("--loss.margin=2", "--loss.margin"),
    ],
)
def test_a_wrong_option_of_a_recommenders_part_is_one_clear_error(wrong, words, outside, tmp_path):
    outside.forget()
    settings = ("--run", tmp_path / "run", "--data.source=absent.csv", WITH_PLUGIN, *RECOMMENDER)
    assert_one_clear_error(run("rec_pretrain", *settings, wrong), "ConfigError", words)
    assert not (tmp_path / "run").exists()
