"""Traps of BERT fine-tuning code, each of which has been met in the wild: losses, NEZHA, names.

Every check is a law that sound code obeys; beside it stands faulty code that breaks it, so that the
check itself is known to bite.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertModel

from idbert.errors import ConfigError
from idbert.nn.backbone import Backbone
from idbert.nn.blocks import BlockSettings
from idbert.nn.config import EncoderSettings
from idbert.nn.encoder import Encoder
from idbert.nn.fusion import FusionSettings
from idbert.nn.heads import HeadSettings
from idbert.nn.item_models import MaskedItemModel
from idbert.nn.losses.catalogue import LossSettings
from idbert.nn.losses.labels import LABEL_LOSSES, LabelLossSettings, build_label_loss
from idbert.nn.pooling import PoolingSettings
from idbert.nn.relative import RelativePositions
from idbert.nn.residual import ResidualSettings
from idbert.training.adversarial import AdversarialSettings
from idbert.training.arguments import TrainingSettings
from idbert.training.averaging import AveragingSettings
from nlp_tasks.cls.config import ClassifierLossSettings
from nlp_tasks.cls.model import TextClassifier
from pipelines.cli import settings_from
from tests.nlp_tasks.text_world import bert_folder

IDS = torch.tensor([[2, 6, 9, 11, 3], [2, 7, 3, 0, 0], [2, 5, 12, 3, 0]])
BATCH = {"input_ids": IDS, "attention_mask": (IDS != 0).long(), "labels": torch.tensor([0, 2, 1])}
RowLosses = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "tiny")


def classifier(bert: Path, **loss: object) -> TextClassifier:
    torch.manual_seed(0)
    return TextClassifier.build(
        bert,
        kind="single",
        num_outputs=3,
        head=HeadSettings(dropout=0.0),
        loss=ClassifierLossSettings(**loss),
    )


def label_losses(kind: str) -> dict[str, RowLosses]:
    """Every registered loss of a kind, over four labels that never occur together."""
    losses = {}
    for name in LABEL_LOSSES:
        if LABEL_LOSSES[name].kind == kind:
            options = {"num_negatives": 2} if name == "sampled_softmax" else {}
            losses[name] = build_label_loss(LabelLossSettings(name, options), kind, 4).eval()
            losses[name].fit_targets(torch.arange(4) if kind == "single" else torch.eye(4))
    return losses


# 7. An auxiliary loss that teaches nothing, and a softmax before the softmax


def check_auxiliary_head_teaches_the_encoder(model: TextClassifier) -> None:
    """With the main head's part taken out, gradients still reach the encoder."""
    model.head.head.output.weight.data.zero_()  # nothing passes the main head downwards
    model.train()(**BATCH).loss.backward()
    gradient = model.backbone.encoder.encoder.layer[0].attention.self.query.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_the_auxiliary_loss_reaches_the_encoder(bert):
    check_auxiliary_head_teaches_the_encoder(classifier(bert, auxiliary=True))
    with pytest.raises(AssertionError):  # a second head that is computed and then forgotten
        check_auxiliary_head_teaches_the_encoder(classifier(bert))


def test_the_auxiliary_loss_is_that_of_logits_in_its_share(bert):
    encoder = Encoder.from_pretrained(bert)
    encoder.config.hidden_dropout_prob = encoder.config.attention_probs_dropout_prob = 0.0
    model = classifier(encoder, auxiliary=True).train()
    inputs = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
    fused, last = model.backbone.forward_with_last(**inputs)
    mask = BATCH["attention_mask"]
    main = F.cross_entropy(model.head(model.pooling(fused, mask)), BATCH["labels"])
    auxiliary = F.cross_entropy(model.auxiliary(last, mask), BATCH["labels"])
    torch.testing.assert_close(model(**BATCH).loss, 0.8 * main + 0.2 * auxiliary)


def test_a_plain_classifier_teaches_its_encoder_too(bert):
    model = classifier(bert).train()
    model(**BATCH).loss.backward()
    assert all(p.grad is not None for p in model.backbone.encoder.encoder.parameters())


def check_a_sure_and_right_row_costs_nothing(loss: RowLosses, targets: Tensor) -> None:
    sure = torch.full((1, 4), -30.0)
    sure[0, 2] = 30.0
    assert loss(sure, targets).item() < 1e-3


def test_losses_read_logits_and_not_probabilities():
    of_kind = {"single": torch.tensor([2]), "multi": torch.tensor([[0.0, 0, 1, 0]])}
    for kind, targets in of_kind.items():
        for loss in label_losses(kind).values():
            check_a_sure_and_right_row_costs_nothing(loss, targets)
    with pytest.raises(AssertionError):  # a softmax, and the one within cross_entropy
        check_a_sure_and_right_row_costs_nothing(
            lambda logits, targets: F.cross_entropy(logits.softmax(-1), targets),
            of_kind["single"],
        )


# 8. A focal factor of a batch's mean; logarithms of rounded probabilities; averages over padding


def check_rows_cost_what_they_cost_alone(loss: RowLosses, targets: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(len(targets), 4, generator=generator)
    alone = [loss(logits[row : row + 1], targets[row : row + 1]).sum() for row in range(3)]
    torch.testing.assert_close(loss(logits, targets).sum(), torch.stack(alone).sum())


def mean_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """The focal factor of the batch's mean, and not of each row."""
    mean = F.cross_entropy(logits, targets)
    return ((1 - torch.exp(-mean)) ** 2 * mean).expand(len(targets))


def test_every_label_loss_is_that_of_single_rows():
    single, multi = torch.tensor([0, 3, 1]), torch.tensor([[0.0, 1, 1, 0], [0] * 4, [1, 0, 0, 0]])
    for loss in label_losses("single").values():
        check_rows_cost_what_they_cost_alone(loss, single)
    for loss in label_losses("multi").values():
        check_rows_cost_what_they_cost_alone(loss, multi)
    with pytest.raises(AssertionError):
        check_rows_cost_what_they_cost_alone(mean_focal, single)


def check_a_sure_and_wrong_row_teaches(loss: RowLosses, targets: Tensor) -> None:
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
    value = loss(logits, targets).sum()
    value.backward()
    assert value > 150 and logits.grad.abs().sum() > 0.5


def test_losses_do_not_saturate_where_a_probability_rounds_to_one():
    multi = torch.tensor([[0.0, 1, 0, 1]])
    for name in ("bce", "focal_bce", "zlpr", "concurrent_softmax"):
        check_a_sure_and_wrong_row_teaches(label_losses("multi")[name], multi)
    for name in ("cross_entropy", "focal"):
        check_a_sure_and_wrong_row_teaches(label_losses("single")[name], torch.tensor([1]))
    with pytest.raises(AssertionError):
        check_a_sure_and_wrong_row_teaches(
            lambda logits, targets: F.binary_cross_entropy(logits.sigmoid(), targets), multi
        )


Loss = Callable[[dict[str, Tensor]], Tensor]


def check_only_targets_count(loss: Loss) -> None:
    """Padding, and positions that nothing is asked of, leave the loss as it was."""
    ids = torch.tensor([[5, 1, 7, 8], [1, 9, 6, 5]])
    labels = torch.tensor([[-100, 6, -100, -100], [8, -100, -100, -100]])
    short = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    long = {
        name: F.pad(tensor, (0, 3), value=-100 if name == "labels" else 0)
        for name, tensor in short.items()
    }
    torch.testing.assert_close(loss(short), loss(long))


def test_a_loss_over_positions_is_the_mean_of_its_targets_alone():
    torch.manual_seed(0)
    settings = EncoderSettings(hidden_size=8, num_layers=1, max_length=8, initializer_range=0.3)
    model = MaskedItemModel.build(settings, vocab_size=10).eval()

    def over_all_positions(batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].clamp(min=0).flatten())

    check_only_targets_count(lambda batch: model(**batch).loss)
    with pytest.raises(AssertionError):
        check_only_targets_count(over_all_positions)


# 9. A vector for each pair of positions; outputs unpacked as tuples; names that mean nothing


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that is made inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().size():
                size = tensor.untyped_storage().size() // tensor.element_size()
                self.numbers = max(self.numbers, size)
        return result


def nezha(**changes: object) -> EncoderSettings:
    settings = {"kind": "nezha", "hidden_size": 32, "num_layers": 2, "num_heads": 1}
    return EncoderSettings(**settings | changes)


def check_no_vector_for_each_pair(encode: Callable[[Tensor], object], width: int) -> None:
    length = 192
    with torch.no_grad(), LargestTensor() as largest:
        encode(torch.full((1, length), 5))
    assert largest.numbers < length * length * width / 4


def naive(ids: Tensor) -> Tensor:
    positions = torch.arange(ids.shape[1])
    distance = (positions[None] - positions[:, None]).clamp(-8, 8) + 8
    return RelativePositions(8, 32).table_PW[distance].clone()


def test_nezha_keeps_no_vector_for_each_pair_of_positions_and_has_no_longest_sequence():
    encoder = Encoder(nezha().to_config(vocab_size=9, is_causal=False)).eval()
    check_no_vector_for_each_pair(encoder, 32)
    with pytest.raises(AssertionError):
        check_no_vector_for_each_pair(naive, 32)
    buffers = sum(buffer.numel() for buffer in encoder.buffers())
    assert buffers <= (2 * 64 + 1) * 32  # one table for all layers
    with torch.no_grad():
        assert encoder(torch.full((1, 600), 5)).last_hidden_state.shape == (1, 600, 32)


def test_what_an_encoder_returns_is_read_by_name(bert):
    encoder = Encoder.from_pretrained(bert).eval()
    backbone = Backbone(encoder.config).eval()
    backbone.encoder.load_state_dict(encoder.state_dict())
    output = BertModel.from_pretrained(bert).eval()(IDS, BATCH["attention_mask"])
    first, *_ = output  # as if it were a tuple
    assert first == "last_hidden_state"
    torch.testing.assert_close(
        backbone(IDS, attention_mask=BATCH["attention_mask"]), output.last_hidden_state
    )


NAMED: dict[str, Callable[[str], object]] = {
    "encoder": lambda name: settings_from(EncoderSettings, {"kind": name}),
    "norm": lambda name: settings_from(EncoderSettings, {"norm": name}),
    "activation": lambda name: EncoderSettings(activation=name),
    "fusion": FusionSettings,
    "block": BlockSettings,
    "residual": lambda name: settings_from(ResidualSettings, {"name": name}),
    "pooling": PoolingSettings,
    "head": HeadSettings,
    "label loss": LabelLossSettings,
    "catalogue loss": LossSettings,
    "schedule": lambda name: TrainingSettings(schedule=name),
    "precision": lambda name: TrainingSettings(precision=name),
    "attack": AdversarialSettings,
    "average": AveragingSettings,
}


@pytest.mark.parametrize("make", NAMED.values(), ids=NAMED)
def test_a_name_that_nothing_bears_is_refused_and_never_means_none(make):
    with pytest.raises(ConfigError, match="gat"):
        make("gat")
