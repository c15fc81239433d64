"""The model of masked words: equal to BERT on the same weights, open to any checkpoint's."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertForPreTraining

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.bert_export import export_bert
from idbert.nn.blocks import BlockSettings
from idbert.nn.encoder import Encoder
from idbert.nn.fusion import FusionSettings
from idbert.nn.losses.catalogue import LossSettings
from idbert.nn.word_config import WordEncoderSettings
from idbert.nn.word_heads import WordHeads, read_word_heads
from idbert.nn.word_models import MaskedWordModel, load_word_model

GOLDEN = Path(__file__).parents[1] / "goldens" / "nezha_k8_h48"
VOCAB_SIZE, LENGTH, HIDDEN = 30, 12, 16
IDS = torch.tensor([[5, 6, 7, 8, 4], [9, 10, 11, 0, 0]])
INPUTS = {
    "attention_mask": (IDS != 0).long(),
    "token_type_ids": torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]),
}
LABELS = torch.tensor([[-100, 16, -100, 8, -100], [9, -100, 21, -100, -100]])
PAIRS = torch.tensor([1, 0])


def bert(model_class=BertForPreTraining) -> BertForMaskedLM | BertForPreTraining:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH,
        initializer_range=0.3,
    )
    model = model_class(config).eval()
    torch.nn.init.normal_(model.cls.predictions.bias)
    return model


def opened(folder, next_sentence=False) -> MaskedWordModel:
    encoder, heads = Encoder.from_pretrained(folder), read_word_heads(folder)
    return MaskedWordModel.continue_from(encoder, heads, next_sentence=next_sentence).eval()


def build(seed=0, next_sentence=False, loss=None, **settings) -> MaskedWordModel:
    torch.manual_seed(seed)
    settings = {"hidden_size": HIDDEN, "initializer_range": 0.3} | settings
    if settings.get("kind") != "nezha":
        settings = {"max_length": LENGTH} | settings
    model = MaskedWordModel.build(
        WordEncoderSettings(**settings),
        vocab_size=VOCAB_SIZE,
        next_sentence=next_sentence,
        loss=loss,
    )
    torch.nn.init.normal_(model.head.bias)
    return model.eval()


@pytest.mark.parametrize("next_sentence", [True, False])
def test_a_published_bert_opens_with_its_heads_and_computes_the_same(tmp_path, next_sentence):
    theirs = bert()
    theirs.save_pretrained(tmp_path)
    ours = opened(tmp_path, next_sentence)
    with torch.no_grad():
        mine, expected = ours(IDS, **INPUTS), theirs(IDS, **INPUTS)
    torch.testing.assert_close(mine.logits, expected.prediction_logits)
    if next_sentence:
        torch.testing.assert_close(mine.next_sentence_logits, expected.seq_relationship_logits)
    else:
        assert mine.next_sentence_logits is None


def test_the_loss_is_that_of_berts_pretraining_and_so_are_its_gradients(tmp_path):
    theirs = bert()
    theirs.save_pretrained(tmp_path)
    ours = opened(tmp_path, next_sentence=True)
    mine = ours(IDS, **INPUTS, labels=LABELS, next_sentence_labels=PAIRS)
    expected = theirs(IDS, **INPUTS, labels=LABELS, next_sentence_label=PAIRS)
    torch.testing.assert_close(mine.loss, expected.loss)
    mine.loss.backward()
    expected.loss.backward()
    torch.testing.assert_close(
        ours.get_input_embeddings().weight.grad, theirs.get_input_embeddings().weight.grad
    )
    torch.testing.assert_close(
        ours.next_sentence.weight.grad, theirs.cls.seq_relationship.weight.grad
    )


@pytest.mark.parametrize("bias", ["cls.predictions.bias", "cls.predictions.decoder.bias"])
def test_an_older_layout_opens_too(tmp_path, bias):
    """bert_config.json, a pickle, a prefix, gamma and beta, the decoder written out."""
    theirs = bert()
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        if name.startswith("cls.predictions.") and name.endswith("predictions.bias"):
            name = bias
        elif name == "cls.predictions.decoder.bias":
            continue
        for new, old in (("LayerNorm.weight", "gamma"), ("LayerNorm.bias", "beta")):
            name = name.replace(new, f"LayerNorm.{old}")
        tensors[f"module.{name}"] = tensor
    assert "module.cls.predictions.transform.LayerNorm.gamma" in tensors
    assert "module.cls.predictions.decoder.weight" in tensors
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "bert_config.json").write_text(json.dumps(theirs.config.to_dict()))
    with torch.no_grad():
        mine, expected = opened(tmp_path, True)(IDS, **INPUTS), theirs(IDS, **INPUTS)
    torch.testing.assert_close(mine.logits, expected.prediction_logits)
    torch.testing.assert_close(mine.next_sentence_logits, expected.seq_relationship_logits)


def test_a_published_nezha_opens_with_its_masked_word_head():
    golden = np.load(GOLDEN / "L17.npz")
    ours = opened(GOLDEN)
    inputs = {name: torch.from_numpy(golden[name]) for name in ("attention_mask", "token_type_ids")}
    with torch.no_grad():
        logits = ours(torch.from_numpy(golden["input_ids"]), **inputs).logits
    assert ours.config.encoder_kind == "nezha"
    torch.testing.assert_close(logits, torch.from_numpy(golden["mlm_logits"]), atol=2e-4, rtol=1e-4)


def test_a_head_that_a_checkpoint_lacks_is_said_to_be_new(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    bert(BertForMaskedLM).save_pretrained(tmp_path / "masked")
    opened(tmp_path / "masked", next_sentence=True)
    assert "the masked-word head is the checkpoint's" in caplog.text
    assert "has no pooler; it is trained from nothing" in caplog.text
    assert "has no next-sentence head; it is trained from nothing" in caplog.text
    caplog.clear()
    bert().bert.save_pretrained(tmp_path / "encoder")
    model = opened(tmp_path / "encoder")
    assert "has no masked-word head; it is trained from nothing" in caplog.text
    assert model.head.bias.abs().sum() == 0


def test_half_a_head_is_refused_and_names_what_lacks(tmp_path):
    bert().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    for lacking, head in (
        ("cls.predictions.transform.dense.bias", "masked-word"),
        ("cls.seq_relationship.bias", "next-sentence"),
    ):
        save_file({n: t for n, t in whole.items() if n != lacking}, file, {"format": "pt"})
        with pytest.raises(CheckpointError, match=f"hold a {head} head without {lacking}. Copy"):
            read_word_heads(tmp_path)


def test_a_head_with_a_table_of_its_own_is_left_out_with_a_warning(tmp_path, caplog):
    bert().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    own_table = {"cls.predictions.decoder.weight": torch.ones(VOCAB_SIZE, HIDDEN)}
    save_file(load_file(file) | own_table, file, {"format": "pt"})
    assert read_word_heads(tmp_path).words == {}
    assert "scores by a table of its own, not by the embeddings; it is left out" in caplog.text


def test_a_head_of_another_vocabulary_is_refused(tmp_path):
    bert().save_pretrained(tmp_path)
    heads = read_word_heads(tmp_path)
    heads.words["bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"do not fit its encoder: bias \[7\], not \[30\]"):
        MaskedWordModel.continue_from(Encoder.from_pretrained(tmp_path), heads)


@pytest.mark.parametrize("next_sentence", [False, True])
def test_an_exported_model_opens_in_transformers_with_the_same_logits(tmp_path, next_sentence):
    ours = build(next_sentence=next_sentence)
    export_bert(ours, tmp_path / "bert")
    model_class = BertForPreTraining if next_sentence else BertForMaskedLM
    theirs, loading = model_class.from_pretrained(tmp_path / "bert", output_loading_info=True)
    assert not any(loading.values()) and theirs.config.architectures == [model_class.__name__]
    masked = BertForMaskedLM.from_pretrained(tmp_path / "bert")
    with torch.no_grad():
        mine = ours(IDS, **INPUTS)
        torch.testing.assert_close(masked(IDS, **INPUTS).logits, mine.logits)
        if next_sentence:
            scores = theirs(IDS, **INPUTS).seq_relationship_logits
            torch.testing.assert_close(scores, mine.next_sentence_logits)


def test_a_nezha_cannot_be_exported_as_bert(tmp_path):
    with pytest.raises(ConfigError, match="BERT cannot express this model: relative positions"):
        export_bert(build(kind="nezha"), tmp_path / "bert")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"next_sentence": True},
        {"kind": "nezha", "residual_scores": "gated"},
        {"fusion": FusionSettings("softmax", width=8), "block": BlockSettings("bilstm")},
        {"head_transform": False},
    ],
)
def test_what_is_saved_opens_exactly_and_can_be_trained_further(tmp_path, changes):
    ours = build(**changes)
    ours.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = ours(IDS, **INPUTS)
        for again in (
            load_word_model(tmp_path),
            AutoModelForMaskedLM.from_pretrained(tmp_path),
            opened(tmp_path, changes.get("next_sentence", False)),
        ):
            mine = again.eval()(IDS, **INPUTS)
            assert torch.equal(mine.logits, expected.logits)
            if changes.get("next_sentence"):
                assert torch.equal(mine.next_sentence_logits, expected.next_sentence_logits)


def test_an_encoder_opens_what_is_saved_without_its_heads(tmp_path):
    ours = build(next_sentence=True)
    ours.save_pretrained(tmp_path)
    states = [
        encoder(IDS, **INPUTS).last_hidden_state
        for encoder in (Encoder.from_pretrained(tmp_path), ours.backbone.encoder)
    ]
    torch.testing.assert_close(*states)


def test_damaged_weights_are_refused(tmp_path):
    build().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(
        {n: t for n, t in load_file(file).items() if n != "head.bias"}, file, {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match=r"1 are missing or too many, such as head.bias"):
        load_word_model(tmp_path)


def test_only_masked_positions_reach_the_head():
    model, seen = build(), []
    model.head.transform.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(IDS, **INPUTS, labels=LABELS)
    assert seen[0].shape == (4, HIDDEN)


def test_the_losses_of_parts_of_a_batch_add_up_to_the_whole():
    model = build(next_sentence=True)
    whole = model(IDS, **INPUTS, labels=LABELS, next_sentence_labels=PAIRS).loss
    parts = [
        model(
            IDS[row],
            **{name: tensor[row] for name, tensor in INPUTS.items()},
            labels=LABELS[row],
            next_sentence_labels=PAIRS[row],
            num_items_in_batch=4,
            num_pairs_in_batch=2,
        ).loss
        for row in (slice(0, 1), slice(1, 2))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)


def test_a_batch_without_any_target_costs_nothing():
    model = build(next_sentence=True)
    nothing = torch.full_like(LABELS, -100)
    loss = model(IDS, **INPUTS, labels=nothing, next_sentence_labels=torch.full((2,), -100)).loss
    assert loss == 0


@pytest.mark.parametrize("name", ["full", "chunked"])
def test_the_losses_over_the_catalogue_serve_words_too(name):
    options = {"chunk_size": 3} if name == "chunked" else {}
    model = build(loss=LossSettings(name, options))
    logits_BLV = model(IDS, **INPUTS).logits
    expected = torch.nn.functional.cross_entropy(logits_BLV.flatten(0, 1), LABELS.flatten())
    torch.testing.assert_close(model(IDS, **INPUTS, labels=LABELS).loss, expected)


def test_gradients_reach_every_parameter_but_a_pooler_that_nothing_reads(tmp_path):
    model = build(next_sentence=True)
    model(IDS, **INPUTS, labels=LABELS, next_sentence_labels=PAIRS).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    theirs = bert()
    theirs.save_pretrained(tmp_path)
    alone = opened(tmp_path)
    alone(IDS, **INPUTS, labels=LABELS).loss.backward()
    idle = [name for name, parameter in alone.named_parameters() if parameter.grad is None]
    assert idle == [f"backbone.encoder.pooler.dense.{name}" for name in ("weight", "bias")]
    pooler = alone.backbone.encoder.pooler.dense
    assert torch.equal(pooler.weight, theirs.bert.pooler.dense.weight)
    assert not pooler.weight.requires_grad


def test_positions_count_from_the_left_and_go_to_512_unless_told_otherwise():
    plain = WordEncoderSettings().to_config(vocab_size=9)
    assert (plain.position_origin, plain.max_position_embeddings) == ("oldest", 512)
    assert plain.type_vocab_size == 2 and plain.head_transform and plain.hidden_size == 128
    told = WordEncoderSettings(position_origin="newest", max_length=20, head_transform=False)
    config = told.to_config(vocab_size=9)
    assert (config.position_origin, config.max_position_embeddings) == ("newest", 20)
    assert not config.head_transform
    assert WordEncoderSettings(kind="nezha").to_config(vocab_size=9).max_position_embeddings is None


def test_new_tokens_get_embeddings_and_biases():
    model = build()
    before = model(IDS, **INPUTS).logits
    model.resize_token_embeddings(VOCAB_SIZE + 2)
    after = model(IDS, **INPUTS).logits
    torch.testing.assert_close(after[..., :VOCAB_SIZE], before)
    assert after.shape[-1] == VOCAB_SIZE + 2


def test_a_causal_encoder_is_refused():
    settings = WordEncoderSettings(hidden_size=8)
    config = settings.to_config(vocab_size=9, is_causal=True)
    with pytest.raises(ConfigError, match="restored from both sides, and this encoder is causal"):
        MaskedWordModel.continue_from(Encoder(config), WordHeads("nothing"))


def test_labels_of_pairs_without_a_head_for_them_are_refused():
    with pytest.raises(ConfigError, match="no next-sentence head. Build it with next_sentence"):
        build()(IDS, **INPUTS, labels=LABELS, next_sentence_labels=PAIRS)
    with pytest.raises(ConfigError, match="This model has no next-sentence head"):
        build().next_sentence_scores(torch.zeros(1, 2, HIDDEN))
