"""What a classifier adds to its loss in training: an auxiliary head, R-Drop."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from idbert.errors import ConfigError
from idbert.nn.blocks import BlockSettings
from idbert.nn.heads import HeadSettings
from idbert.nn.residual import ResidualSettings
from idbert.nn.structure import StructureSettings
from nlp_tasks.cls.additions import symmetric_divergence
from nlp_tasks.cls.config import ClassifierLossSettings, PretrainedSettings
from nlp_tasks.cls.encoders import open_text_encoder
from tests.nlp_tasks.classifier_world import KINDS, batch, build
from tests.nlp_tasks.text_world import bert_folder

NO_DROPOUT = PretrainedSettings(hidden_dropout=0.0, attention_dropout=0.0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "tiny")


def test_the_auxiliary_head_has_its_share_of_the_loss_and_none_of_the_prediction(bert):
    encoder = open_text_encoder(bert, NO_DROPOUT)
    settings = {
        "structure": StructureSettings(
            block=BlockSettings("bigru", 4), residual=ResidualSettings("projected")
        ),
        "head": HeadSettings(dropout=0.0),
        "loss": ClassifierLossSettings(auxiliary=True),
    }
    model = build(encoder, **settings)
    inputs = batch()
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    labels = inputs["labels"]
    fused, last = model.backbone.forward_with_last(**given)
    main = F.cross_entropy(model.head(model.pooling(fused, given["attention_mask"])), labels)
    side = F.cross_entropy(model.auxiliary(last, given["attention_mask"]), labels)
    assert torch.allclose(model.train()(**inputs).loss, 0.8 * main + 0.2 * side, atol=1e-6)
    assert torch.allclose(model.eval()(**inputs).loss, main, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_r_drop_reads_a_batch_twice_and_draws_the_readings_together(bert, kind):
    model = build(bert, kind, loss=ClassifierLossSettings(r_drop=2.0, r_drop_share=1)).train()
    inputs = batch(kind)
    torch.manual_seed(5)
    loss = model(**inputs).loss
    torch.manual_seed(5)
    twice = {name: torch.cat([inputs[name]] * 2) for name in ("input_ids", "attention_mask")}
    first, second = model(**twice).logits.chunk(2)
    assert not torch.equal(first, second)
    labels = inputs["labels"]
    each = (model.losses(first, labels) + model.losses(second, labels)) / 2
    expected = (each + 2.0 * symmetric_divergence(first, second, kind)).mean()
    assert torch.allclose(loss, expected, atol=1e-6)
    single = model.eval()(**inputs)
    assert torch.allclose(single.loss, model.losses(single.logits, labels).mean(), atol=1e-6)


@pytest.mark.parametrize("loss", ["bce", "focal_bce"])
def test_r_drops_distance_is_a_mean_over_labels_where_the_loss_is(bert, loss):
    given = ClassifierLossSettings(name=loss, r_drop=2.0, r_drop_share=1)
    model = build(bert, "multi", loss=given).train()
    inputs = batch("multi")
    torch.manual_seed(5)
    actual = model(**inputs).loss
    torch.manual_seed(5)
    twice = {name: torch.cat([inputs[name]] * 2) for name in ("input_ids", "attention_mask")}
    first, second = model(**twice).logits.chunk(2)
    labels = inputs["labels"]
    each = (model.losses(first, labels) + model.losses(second, labels)) / 2
    distance = symmetric_divergence(first, second, "multi") / labels.shape[1]
    assert labels.shape[1] > 1
    assert torch.allclose(actual, (each + 2.0 * distance).mean(), atol=1e-6)


def test_r_drop_reads_half_of_the_batch_twice_unless_it_is_told_otherwise(bert):
    model = build(bert, loss=ClassifierLossSettings(r_drop=2.0)).train()
    inputs = batch()
    torch.manual_seed(5)
    actual = model(**inputs).loss
    torch.manual_seed(5)
    more = {n: torch.cat([inputs[n], inputs[n][:2]]) for n in ("input_ids", "attention_mask")}
    logits = model(**more).logits
    each = model.losses(logits, torch.cat([inputs["labels"], inputs["labels"][:2]]))
    together = symmetric_divergence(logits[:2], logits[4:], "single")
    expected = torch.cat([(each[:2] + each[4:]) / 2 + 2.0 * together, each[2:4]]).mean()
    assert torch.allclose(actual, expected, atol=1e-6)


def test_the_divergence_is_that_of_the_distributions():
    torch.manual_seed(0)
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    log_p, log_q = a.log_softmax(1), b.log_softmax(1)
    both = F.kl_div(log_p, log_q, reduction="none", log_target=True) + F.kl_div(
        log_q, log_p, reduction="none", log_target=True
    )
    assert torch.allclose(symmetric_divergence(a, b, "single"), both.sum(1) / 2, atol=1e-6)
    p, q = torch.distributions.Bernoulli(logits=a), torch.distributions.Bernoulli(logits=b)
    kl = torch.distributions.kl_divergence
    both = kl(p, q) + kl(q, p)
    assert torch.allclose(symmetric_divergence(a, b, "multi"), both.sum(1) / 2, atol=1e-5)
    p, q = (torch.distributions.Normal(logits[:, 0], 1.0) for logits in (a, b))
    both = kl(p, q) + kl(q, p)
    assert torch.allclose(symmetric_divergence(a[:, :1], b[:, :1], "number"), both / 2, atol=1e-5)


def test_r_drop_without_dropout_is_refused(bert):
    encoder = open_text_encoder(bert, NO_DROPOUT)
    with pytest.raises(ConfigError, match=r"r_drop=1\.0 cannot act without dropout"):
        build(encoder, head=HeadSettings(dropout=0.0), loss=ClassifierLossSettings(r_drop=1.0))


def test_the_auxiliary_share_acts():
    assert ClassifierLossSettings().share == 0
    assert ClassifierLossSettings(auxiliary=True).share == 0.2
    assert ClassifierLossSettings(auxiliary=True, auxiliary_share=0.5).share == 0.5
