"""Scores as cosines and over a temperature: in the losses, the vectors and the saved model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from idbert.errors import ConfigError
from idbert.nn.bert_export import export_bert
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel, load_item_model
from idbert.nn.losses.catalogue import (
    LOSSES,
    CatalogueLoss,
    LossSettings,
    build_loss,
    full_softmax_loss,
    take,
    unit_vectors,
)
from idbert.rows import FIRST_ITEM
from tests.nn.loss_world import loss_and_gradients, problem

V = 20
IDS = torch.tensor([[4, 5, 6, 7], [9, 5, 19, 12]])
EVERY_LOSS = [
    LossSettings("full"),
    LossSettings("chunked", {"chunk_size": 3}),
    LossSettings("sampled", {"negatives": 9}),
    LossSettings("gbce", {"negatives": 9}),
    LossSettings("bce", {"negatives": 2}),
]
DRAWING = EVERY_LOSS[2:]
SCORES = [
    {"similarity": "cosine"},
    {"similarity": "cosine", "temperature": 0.3},
    {"temperature": 0.3},
    {"similarity": "cosine", "learned_temperature": True},
    {"temperature": 2.0, "learned_temperature": True},
]
named = {"ids": lambda value: getattr(value, "name", None) or "-".join(map(str, value.values()))}
both = pytest.mark.parametrize("model_class", [MaskedItemModel, NextItemModel])


def build(model_class=NextItemModel, loss=None, **scores):
    torch.manual_seed(0)
    settings = EncoderSettings(
        hidden_size=8, num_layers=1, max_length=6, hidden_dropout=0.0, initializer_range=0.3
    )
    settings = EncoderSettings(**{**vars(settings), **scores})
    model = model_class.build(settings, vocab_size=V, loss=loss)
    torch.nn.init.normal_(model.head.bias)
    return model.eval()


@both
@pytest.mark.parametrize("scores", SCORES, **named)
def test_scores_are_the_similarity_over_the_temperature_and_the_bias(model_class, scores):
    model = build(model_class, **scores)
    hidden_BLD = model.head.transform(model.backbone(IDS))
    table_VD = model.get_input_embeddings().weight
    similarity = hidden_BLD @ table_VD.T
    if scores.get("similarity") == "cosine":
        similarity = F.cosine_similarity(hidden_BLD[:, :, None], table_VD, dim=-1)
    temperature = scores.get("temperature", 0.05)
    expected = similarity / temperature + model.head.bias
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-5)


@both
@pytest.mark.parametrize("scores", SCORES, **named)
def test_vectors_of_users_and_items_give_the_scores_exactly_as_the_model_does(model_class, scores):
    model = build(model_class, **scores)
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    users_UD = model.encode_users([(np.arange(2), inputs)], num_users=2)
    scores_UV = users_UD @ model.item_vectors().T
    expected_UV = model(IDS).logits[:, -1].detach()
    torch.testing.assert_close(scores_UV, expected_UV, rtol=1e-5, atol=1e-5)
    # The same order of the items, PAD's zeros and the other special rows aside.
    assert torch.equal(
        scores_UV[:, FIRST_ITEM:].argsort(descending=True),
        expected_UV[:, FIRST_ITEM:].argsort(descending=True),
    )


@both
@pytest.mark.parametrize("scores", SCORES, **named)
def test_a_saved_model_scores_as_before(model_class, scores, tmp_path):
    model = build(model_class, **scores)
    if model.head.log_temperature is not None:
        model.head.log_temperature.data += 0.3  # something has been learned
    model.save_pretrained(tmp_path)
    opened = load_item_model(tmp_path)
    assert opened.config.similarity == scores.get("similarity", "inner")
    assert torch.equal(opened(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("loss", EVERY_LOSS, **named)
@pytest.mark.parametrize("scores", SCORES[1:3], **named)
def test_every_loss_is_that_of_the_scores(loss, scores):
    model = build(loss=loss, **scores)
    labels = IDS.roll(-1, 1)
    torch.manual_seed(1)
    actual = model(IDS, labels=labels).loss
    gradient = torch.autograd.grad(actual, model.get_input_embeddings().weight)[0]

    plain = build_loss(loss, first_row=FIRST_ITEM)
    table_VD = model.get_input_embeddings().weight
    hidden_MD = model.head.transform(model.backbone(IDS)).flatten(0, 1)
    keys_VD = table_VD
    if scores.get("similarity") == "cosine":
        hidden_MD, keys_VD = F.normalize(hidden_MD, dim=1), unit_vectors(table_VD)
    torch.manual_seed(1)
    expected = plain(hidden_MD / 0.3, keys_VD, model.head.bias, labels.flatten()) / labels.numel()
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, table_VD)[0])


@pytest.mark.parametrize("loss", DRAWING, **named)
def test_a_loss_that_draws_rows_normalises_what_it_has_taken(loss):
    arguments = problem()
    plain, unit = build_loss(loss), build_loss(loss)
    unit.unit_rows = True

    def normalised_before(hidden_MD, weight_VD, *others):
        return plain(hidden_MD, F.normalize(weight_VD, dim=1), *others)

    results = []
    for function in (unit, normalised_before):
        torch.manual_seed(3)
        results.append(loss_and_gradients(function, *arguments))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@both
@pytest.mark.parametrize("loss", DRAWING, **named)
def test_sparse_gradients_hold_the_rows_that_are_read_and_equal_the_dense_ones(model_class, loss):
    gradients = []
    for sparse in (False, True):
        model = build(model_class, loss=loss, similarity="cosine", learned_temperature=True)
        if sparse:
            model.read_sparsely()
        torch.manual_seed(1)
        model(IDS, labels=IDS.roll(-1, 1)).loss.backward()
        assert model.get_input_embeddings().weight.grad.is_sparse is sparse
        gradients.append(
            [
                p.grad.to_dense()
                for p in (
                    model.get_input_embeddings().weight,
                    model.head.bias,
                    model.head.log_temperature,
                )
            ]
        )
    torch.testing.assert_close(gradients[1], gradients[0])
    assert gradients[0][2] != 0


def test_a_loss_from_outside_that_takes_rows_as_they_are_is_given_normalised_ones():
    @LOSSES.register("against one row")
    class AgainstOneRow(CatalogueLoss):
        draws_rows = True

        def forward(self, hidden_MD, weight_VD, bias_V, targets_M, weights_M=None):
            pair_M2D = take(weight_VD, torch.stack([targets_M, targets_M * 0 + 5], 1), sparse=False)
            assert torch.allclose(pair_M2D.norm(dim=-1), torch.ones(()))
            return (hidden_MD[:, None] * pair_M2D).sum(-1).diff().sum()

    model = build(loss=LossSettings("against one row"), similarity="cosine")
    model(IDS, labels=IDS).loss.backward()
    with pytest.raises(ConfigError, match="reads all rows, so that their gradient is dense"):
        model.read_sparsely()


def test_zeros_stay_zeros_and_get_no_gradient():
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit = unit_vectors(vectors)
    assert torch.equal(unit, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    (unit * torch.tensor([1.0, 2.0])).sum().backward()
    assert torch.equal(vectors.grad[0], torch.zeros(2))
    along = (vectors.grad[1] @ vectors.detach()[1]).item()
    assert along == pytest.approx(0, abs=1e-6)  # a step turns a vector, and no more


@pytest.mark.parametrize("loss", EVERY_LOSS, **named)
def test_cosines_train_under_autocast(loss):
    arguments = []
    for dtype in (torch.float32, torch.bfloat16):
        model = build(loss=loss, similarity="cosine", temperature=0.5, learned_temperature=True)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            value = model(IDS, labels=IDS.roll(-1, 1)).loss
        value.backward()
        arguments.append((value, model.get_input_embeddings().weight.grad))
    for one, other in zip(*arguments, strict=True):
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


def test_a_temperature_that_is_learned_moves_and_one_that_is_not_is_no_parameter():
    fixed = build(similarity="cosine", temperature=0.1)
    assert "head.log_temperature" not in fixed.state_dict()
    model = build(similarity="cosine", temperature=0.1, learned_temperature=True).train()
    assert model.head.temperature.item() == pytest.approx(0.1)
    optimizer = torch.optim.SGD([model.head.log_temperature], lr=100.0)
    for _ in range(20):
        optimizer.zero_grad()
        model(IDS, labels=IDS.roll(-1, 1)).loss.backward()
        optimizer.step()
    assert model.head.temperature.item() != pytest.approx(0.1)
    model.head.log_temperature.data.fill_(-50.0)
    assert model.head.temperature.item() == pytest.approx(0.01)  # and never less


def test_fine_tuning_takes_a_learned_temperature_over():
    pretrained = build(MaskedItemModel, similarity="cosine", learned_temperature=True)
    pretrained.head.log_temperature.data.fill_(-1.0)
    model = build(NextItemModel, similarity="cosine", learned_temperature=True)
    model.start_from(pretrained)
    assert model.head.log_temperature == -1.0
    model = build(NextItemModel, temperature=0.5)
    model.start_from(pretrained)
    assert model.head.temperature == 0.5


def test_with_the_defaults_nothing_has_changed():
    model = build()
    assert model.config.similarity == "inner" and model.config.temperature == 1
    labels = IDS.roll(-1, 1)
    hidden_MD = model.head.transform(model.backbone(IDS)).flatten(0, 1)
    summed = full_softmax_loss(
        hidden_MD, model.get_input_embeddings().weight, model.head.bias, labels.flatten()
    )
    torch.testing.assert_close(model(IDS, labels=labels).loss, summed / 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"temperature": float("nan")}, "temperature is nan; it must be above 0"),
        (
            {"temperature": 0.01, "learned_temperature": True},
            "temperature is 0.01; a learned one stays above 0.01",
        ),
    ],
)
def test_scores_that_cannot_be_computed_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        EncoderSettings(**settings)


@pytest.mark.parametrize(
    ("scores", "obstacle"),
    [
        ({"similarity": "cosine", "temperature": 1.0}, "cosines as scores"),
        ({"temperature": 0.5}, "scores over a temperature"),
    ],
)
def test_bert_cannot_express_them(scores, obstacle, tmp_path):
    with pytest.raises(ConfigError, match=f"BERT cannot express this model: {obstacle}"):
        export_bert(build(MaskedItemModel, **scores), tmp_path)
