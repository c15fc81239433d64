import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.config import EncoderSettings
from idbert.nn.encoder import Encoder
from idbert.nn.item_models import NextItemModel

GOLDEN = Path(__file__).parent.parent / "goldens" / "nezha_k8_h48"
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = (IDS != 0).long()
SMALL = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
    "initializer_range": 0.3,
}


def hidden(model) -> torch.Tensor:
    return model.eval()(IDS, attention_mask=MASK).last_hidden_state


def bert_folder(folder: Path, model_class=BertModel) -> BertModel:
    """Save a small BERT and return its encoder."""
    torch.manual_seed(0)
    model = model_class(BertConfig(**SMALL))
    model.save_pretrained(folder)
    return getattr(model, "bert", model)


def rewrite(folder: Path, change) -> None:
    """Save the folder's tensors as `change` returns them."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def edit_config(folder: Path, **fields) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


# Published folders, whatever their spelling


def test_the_older_name_of_dtype_acts(tmp_path):
    bert_folder(tmp_path)
    assert Encoder.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert Encoder.from_pretrained(tmp_path).dtype == torch.float32


@pytest.mark.parametrize("kind", ["bert", "nezha"])
def test_the_attention_of_a_model_is_chosen_once(kind):
    """Changed later, layers that were built for another one would look ahead."""
    model = NextItemModel.build(EncoderSettings(hidden_size=8, kind=kind), vocab_size=20)
    given = model.config._attn_implementation
    other = "eager" if given == "sdpa" else "sdpa"
    model.set_attn_implementation(given)
    for part in (model, model.backbone.encoder):
        with pytest.raises(ConfigError, match="is chosen when it is built"):
            part.set_attn_implementation(other)
    assert model.config._attn_implementation == given


@pytest.mark.parametrize("model_class", [BertModel, BertForMaskedLM, BertForSequenceClassification])
def test_a_bert_opens_with_and_without_a_head(tmp_path, model_class):
    theirs = bert_folder(tmp_path, model_class)
    ours = Encoder.from_pretrained(tmp_path)
    torch.testing.assert_close(hidden(ours), hidden(theirs))
    assert (ours.pooler is None) is (theirs.pooler is None)
    assert not ours.training


@pytest.mark.parametrize("prefix", ["bert.", "nezha.", "module.bert.", "backbone.encoder.", ""])
def test_an_encoder_opens_under_any_prefix(tmp_path, prefix):
    theirs = bert_folder(tmp_path)
    rewrite(tmp_path, lambda tensors: {prefix + name: t for name, t in tensors.items()})
    torch.testing.assert_close(hidden(Encoder.from_pretrained(tmp_path)), hidden(theirs))


def test_gamma_and_beta_are_weight_and_bias(tmp_path):
    theirs = bert_folder(tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def spell_as_of_old(tensors):
        for new_name, old_name in old.items():
            tensors = {name.replace(new_name, old_name): t for name, t in tensors.items()}
        return tensors

    rewrite(tmp_path, spell_as_of_old)
    assert "embeddings.LayerNorm.gamma" in load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(hidden(Encoder.from_pretrained(tmp_path)), hidden(theirs))


def test_a_pytorch_bin_opens_and_so_does_an_old_config_name(tmp_path):
    theirs = bert_folder(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_type"]
    (tmp_path / "bert_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").unlink()
    torch.testing.assert_close(hidden(Encoder.from_pretrained(tmp_path)), hidden(theirs))


def test_a_nezha_that_calls_itself_bert_with_relative_positions_opens(tmp_path):
    config = json.loads((GOLDEN / "config.json").read_text())
    config |= {"model_type": "bert", "use_relative_position": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    os.symlink(GOLDEN / "model.safetensors", tmp_path / "model.safetensors")
    torch.testing.assert_close(
        hidden(Encoder.from_pretrained(tmp_path)), hidden(Encoder.from_pretrained(GOLDEN))
    )


def test_a_roberta_wwm_folder_opens_for_it_is_a_bert(tmp_path):
    theirs = bert_folder(tmp_path, BertForMaskedLM)
    edit_config(
        tmp_path,
        architectures=["BertForMaskedLM"],
        directionality="bidi",
        output_past=True,
        pooler_fc_size=768,
        pooler_type="first_token_transform",
    )
    torch.testing.assert_close(hidden(Encoder.from_pretrained(tmp_path)), hidden(theirs))


def test_a_folder_of_the_first_years_opens_whatever_its_spelling(tmp_path):
    """bert_config.json of Google's fields alone, a pickle, a prefix, gamma and beta, a head."""
    theirs = bert_folder(tmp_path, BertForMaskedLM)
    tensors = load_file(tmp_path / "model.safetensors")
    for new_name, old_name in (("LayerNorm.weight", "gamma"), ("LayerNorm.bias", "beta")):
        tensors = {
            name.replace(new_name, f"LayerNorm.{old_name}"): t for name, t in tensors.items()
        }
    assert "cls.predictions.bias" in tensors
    assert "bert.embeddings.LayerNorm.gamma" in tensors
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    fields = SMALL | {"hidden_act": "gelu", "type_vocab_size": 2}
    (tmp_path / "bert_config.json").write_text(json.dumps(fields))
    (tmp_path / "config.json").unlink()
    torch.testing.assert_close(hidden(Encoder.from_pretrained(tmp_path)), hidden(theirs))


def test_the_encoder_of_a_tasks_model_opens_by_itself(tmp_path):
    encoder = Encoder.from_pretrained(GOLDEN)
    encoder.save_pretrained(tmp_path)
    edit_config(tmp_path, model_type="idbert_something", labels=["good", "bad"])
    torch.testing.assert_close(hidden(Encoder.from_pretrained(tmp_path)), hidden(encoder))


def test_a_decoder_opens_as_a_causal_encoder(tmp_path):
    bert_folder(tmp_path)
    edit_config(tmp_path, is_decoder=True)
    theirs = BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    ours = Encoder.from_pretrained(tmp_path)
    assert ours.config.is_causal
    torch.testing.assert_close(hidden(ours)[MASK.bool()], hidden(theirs)[MASK.bool()])


def test_tables_that_can_be_computed_are_left_out(tmp_path):
    theirs = bert_folder(tmp_path)
    rewrite(tmp_path, lambda t: t | {"embeddings.position_ids": torch.arange(12)[None]})
    torch.testing.assert_close(hidden(Encoder.from_pretrained(tmp_path)), hidden(theirs))


def test_a_heads_tensors_are_left_out_and_logged(tmp_path, caplog):
    bert_folder(tmp_path, BertForSequenceClassification)
    with caplog.at_level(logging.INFO, logger="idbert"):
        Encoder.from_pretrained(tmp_path)
    assert "2 tensors of a head left out: ['classifier.bias', 'classifier.weight']" in caplog.text


def test_half_precision_weights_are_computed_in_float32_unless_asked_otherwise(tmp_path):
    bert_folder(tmp_path)
    rewrite(tmp_path, lambda tensors: {name: t.half() for name, t in tensors.items()})
    assert Encoder.from_pretrained(tmp_path).dtype is torch.float32
    assert Encoder.from_pretrained(tmp_path, dtype=torch.float16).dtype is torch.float16


@pytest.mark.parametrize("kind", ["bert", "nezha"])
def test_an_encoder_saved_by_itself_or_in_a_model_opens_again(tmp_path, kind):
    settings = EncoderSettings(kind=kind, hidden_size=16, norm="pre", initializer_range=0.3)
    model = NextItemModel.build(settings, vocab_size=30).eval()
    encoder = model.backbone.encoder
    model.save_pretrained(tmp_path / "model")
    encoder.save_pretrained(tmp_path / "encoder")
    for name in ("model", "encoder"):
        opened = Encoder.from_pretrained(tmp_path / name)
        assert opened.config.is_causal
        torch.testing.assert_close(hidden(opened), hidden(encoder))


# Refusals


def test_an_absent_folder_is_refused(tmp_path):
    for name in (tmp_path / "absent", "no-such-model-anywhere"):
        with pytest.raises(CheckpointError, match=f"'{name}' is no folder here, and the Hugging"):
            Encoder.from_pretrained(name)


def test_a_folder_without_config_or_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="folder without config.json or bert_config.json"):
        Encoder.from_pretrained(tmp_path)
    bert_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="without model.safetensors or pytorch_model.bin"):
        Encoder.from_pretrained(tmp_path)


def test_missing_tensors_are_named(tmp_path):
    bert_folder(tmp_path)
    missing = ("embeddings.LayerNorm.bias", "encoder.layer.1.output.dense.weight")
    rewrite(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if n not in missing})
    with pytest.raises(CheckpointError, match=f"lack 2 of the encoder's tensors: {missing[0]}, "):
        Encoder.from_pretrained(tmp_path)


def test_tensors_of_another_shape_are_named(tmp_path):
    bert_folder(tmp_path)
    edit_config(tmp_path, vocab_size=31)
    message = r"wrong shape 1 .*: embeddings.word_embeddings.weight \[30, 16\], not \[31, 16\]"
    with pytest.raises(CheckpointError, match=message):
        Encoder.from_pretrained(tmp_path)


def test_layers_that_the_config_does_not_know_are_named(tmp_path):
    bert_folder(tmp_path)
    edit_config(tmp_path, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"beyond .* 16 .* encoder.layer.1.*, \.\.\."):
        Encoder.from_pretrained(tmp_path)


def test_foreign_tensors_are_named(tmp_path):
    bert_folder(tmp_path)
    foreign = {"encoder.layer.0.adapter.weight": torch.zeros(2)}
    rewrite(tmp_path, lambda tensors: tensors | foreign)
    with pytest.raises(
        CheckpointError, match="describes, 1 .*: encoder.layer.0.adapter.weight. Check that"
    ):
        Encoder.from_pretrained(tmp_path)


def test_a_nezha_under_the_config_of_a_bert_is_recognised(tmp_path):
    config = json.loads((GOLDEN / "config.json").read_text())
    config |= {"model_type": "bert", "max_position_embeddings": 40}
    (tmp_path / "config.json").write_text(json.dumps(config))
    os.symlink(GOLDEN / "model.safetensors", tmp_path / "model.safetensors")
    message = (
        "lack 1 of .* embeddings.position_embeddings.weight. Is this a NEZHA, which has no "
        'position embeddings\\? Then .*"model_type": "nezha"'
    )
    with pytest.raises(CheckpointError, match=message):
        Encoder.from_pretrained(tmp_path)


def test_a_bert_under_the_config_of_a_nezha_is_recognised(tmp_path):
    bert_folder(tmp_path)
    edit_config(tmp_path, model_type="nezha")
    with pytest.raises(CheckpointError, match="position_embeddings.weight. Is this a BERT"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "idbertish"}, "model of type 'idbertish'"),
        ({"model_type": "idbert", "block": "lost"}, "There is no block 'lost'"),
        ({"model_type": "roberta"}, "model of type 'roberta'. Give a bert, nezha or idbert"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"add_cross_attention": True}, "add_cross_attention is true"),
        ({"hidden_size": "sixteen"}, "describes no encoder that can be built: .*hidden_size"),
        ({"num_attention_heads": 3}, "16 cannot be shared evenly by 3 heads"),
    ],
)
def test_a_config_of_another_kind_is_refused(tmp_path, fields, message):
    bert_folder(tmp_path)
    edit_config(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=f"(?s)config.json.*{message}"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["{half", "[1, 2]"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="config.json is not a JSON object"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_half_a_file_is_refused(tmp_path, name):
    bert_folder(tmp_path)
    file = tmp_path / "model.safetensors"
    if name == "pytorch_model.bin":
        torch.save(load_file(file), tmp_path / name)
        file.unlink()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: .* Copy it anew"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_half_a_file_of_torchs_first_format_is_refused(tmp_path, share):
    bert_folder(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    tensors = load_file(tmp_path / "model.safetensors")
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    (tmp_path / "model.safetensors").unlink()
    Encoder.from_pretrained(tmp_path)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin cannot be read: .+ Copy it anew"):
        Encoder.from_pretrained(tmp_path)


class Unsafe:
    def __reduce__(self):
        return os.mkdir, ("written-by-a-pickle",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bert_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Unsafe()}, "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin cannot be read"):
        Encoder.from_pretrained(tmp_path)
    assert not Path("written-by-a-pickle").exists()


def test_a_training_checkpoint_in_place_of_weights_is_refused(tmp_path):
    bert_folder(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no plain table of tensors"):
        Encoder.from_pretrained(tmp_path)


def test_no_encoder_or_two_are_refused(tmp_path):
    bert_folder(tmp_path)
    rewrite(
        tmp_path,
        lambda tensors: {
            side + name: tensor.clone() for name, tensor in tensors.items() for side in ("a.", "b.")
        },
    )
    with pytest.raises(CheckpointError, match="hold 2 tensors '...embeddings.word_embeddings"):
        Encoder.from_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: {"weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="hold 0 tensors"):
        Encoder.from_pretrained(tmp_path)


def test_fused_attention_is_refused_when_a_nezha_is_opened():
    with pytest.raises(ConfigError, match="set attention='eager'"):
        Encoder.from_pretrained(GOLDEN, attn_implementation="sdpa")


# Export
