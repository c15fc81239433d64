import pytest
import torch
from transformers import BertForMaskedLM

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.nn.bert_export import export_bert
from idbert.nn.blocks import BlockSettings
from idbert.nn.config import EncoderSettings
from idbert.nn.encoder import Encoder
from idbert.nn.fusion import FusionSettings
from idbert.nn.item_models import MaskedItemModel, NextItemModel
from idbert.nn.time_bias import TimeBiasSettings

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = (IDS != 0).long()
LENGTH = 12


def masked_item_model(position_origin="oldest", **settings) -> MaskedItemModel:
    torch.manual_seed(0)
    settings |= {"hidden_size": 16, "max_length": LENGTH, "initializer_range": 0.3}
    model = MaskedItemModel.build(
        EncoderSettings(position_origin=position_origin, **settings),
        vocab_size=30,
        num_behaviours=2,
    )
    torch.nn.init.normal_(model.head.bias)
    return model.eval()


def opened(folder) -> BertForMaskedLM:
    bert, loading = BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    return bert


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_an_exported_model_opens_in_transformers_with_the_same_logits(tmp_path, activation):
    ours = masked_item_model(activation=activation)
    export_bert(ours, tmp_path / "bert")
    inputs = {"attention_mask": MASK, "token_type_ids": torch.tensor([[0, 1, 0, 1]] * 2)}
    with torch.no_grad():
        theirs = opened(tmp_path / "bert")(IDS, **inputs).logits
        torch.testing.assert_close(ours(IDS, **inputs).logits, theirs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert"]


def test_a_model_that_counts_from_the_newest_gives_bert_the_same_logits_on_left_padding(tmp_path):
    ours = masked_item_model(position_origin="newest")
    export_bert(ours, tmp_path / "bert")
    bert = opened(tmp_path / "bert")
    assert bert.config.padding_side == "left"
    for row, length in ((0, 4), (1, 2)):
        left_padded = torch.zeros(1, LENGTH, dtype=torch.long)
        left_padded[0, -length:] = IDS[row, :length]
        with torch.no_grad():
            expected = ours(IDS, attention_mask=MASK).logits[row, :length]
            theirs = bert(left_padded, attention_mask=(left_padded != 0).long()).logits
        torch.testing.assert_close(theirs[0, -length:], expected)


def test_an_exported_model_opens_as_an_encoder(tmp_path):
    ours = masked_item_model()
    export_bert(ours, tmp_path)
    states = [
        encoder.eval()(IDS, attention_mask=MASK).last_hidden_state
        for encoder in (Encoder.from_pretrained(tmp_path), ours.backbone.encoder)
    ]
    torch.testing.assert_close(*states)


def test_what_bert_cannot_express_is_refused_by_name(tmp_path):
    fused = masked_item_model(fusion=FusionSettings("softmax"))
    with pytest.raises(ConfigError, match=r"BERT cannot express this model: layer fusion .*\.$"):
        export_bert(fused, tmp_path)
    settings = EncoderSettings(
        kind="nezha",
        norm="pre",
        residual_scores="gated",
        time_bias=TimeBiasSettings("log"),
        feed_forward="gated",
        layer_residual="gated",
        fusion=FusionSettings("mean", width=64),
        block=BlockSettings("lstm"),
        head_transform=False,
    )
    model = NextItemModel.build(settings, vocab_size=30)
    with pytest.raises(ConfigError) as refusal:
        export_bert(model, tmp_path)
    obstacles = ("kind='nezha'", "norm='pre'", "causal", "'mean'", "head_transform=False")
    obstacles += ("residual_scores='gated'", "width 64", "block 'lstm'")
    obstacles += ("feed_forward='gated'", "layer_residual='gated'", "time_bias 'log'")
    for obstacle in obstacles:
        assert obstacle in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty. Export to a new folder"):
        export_bert(masked_item_model(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_export_without_room_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    def disk_is_full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("idbert.nn.bert_export.save_file", disk_is_full)
    with pytest.raises(DataError, match="no room on the disk"):
        export_bert(masked_item_model(), tmp_path / "bert")
    assert not list(tmp_path.iterdir())
