import dataclasses

import pytest
import torch

from idbert.errors import ConfigError
from idbert.nn.backbone import Backbone
from idbert.nn.blocks import BlockSettings
from idbert.nn.config import EncoderConfig, EncoderSettings
from idbert.nn.encoder import Encoder
from idbert.nn.fusion import FusionSettings
from idbert.nn.residual import ResidualSettings
from idbert.nn.time_bias import TimeBiasSettings

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 0, 0]])
MASK = (IDS != 0).long()

# Each field, changed from its default (and what else it needs in order to act).
CHANGES = {
    "kind": {"kind": "nezha"},
    "hidden_size": {"hidden_size": 32},
    "num_layers": {"num_layers": 3},
    "num_heads": {"num_heads": 4},
    "intermediate_size": {"intermediate_size": 96},
    "max_length": {"max_length": 50},
    "position_origin": {"position_origin": "oldest"},
    "max_relative_position": {"kind": "nezha", "max_relative_position": 2},
    "activation": {"activation": "relu"},
    "norm": {"norm": "pre"},
    "hidden_dropout": {"hidden_dropout": 0.5},
    "attention_dropout": {"attention_dropout": 0.5},
    "attention": {"attention": "eager"},
    "residual_scores": {"residual_scores": "sum", "attention": "eager"},
    "time_bias": {"time_bias": TimeBiasSettings("log")},
    "feed_forward": {"feed_forward": "gated"},
    "layer_residual": {"layer_residual": "gated"},
    "fusion": {"fusion": FusionSettings("mean")},
    "block": {"block": BlockSettings("lstm")},
    "residual": {"block": BlockSettings("lstm"), "residual": ResidualSettings("none")},
    "head_transform": {"head_transform": False},
    "similarity": {"similarity": "cosine"},
    "temperature": {"temperature": 0.5},
    "learned_temperature": {"learned_temperature": True},
    "initializer_range": {"initializer_range": 0.1},
    "layer_norm_eps": {"layer_norm_eps": 0.1},
}


def build(**changes) -> Backbone:
    torch.manual_seed(0)
    return Backbone(EncoderSettings(**changes).to_config(vocab_size=20, is_causal=False))


def output(backbone: Backbone) -> torch.Tensor:
    torch.manual_seed(1)
    times = {"timestamps": IDS * 1000} if backbone.encoder.config.time_bias != "none" else {}
    return backbone.train()(IDS, attention_mask=MASK, **times)


def test_every_field_of_the_settings_has_a_change_in_this_test():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(EncoderSettings)}


OF_SCORES = {"head_transform", "similarity", "temperature", "learned_temperature"}


@pytest.mark.parametrize("field", sorted(set(CHANGES) - {"attention"} - OF_SCORES))
def test_each_field_changes_the_backbones_output(field):
    needed = {name: value for name, value in CHANGES[field].items() if name != field}
    base = needed if field in ("max_relative_position", "residual_scores", "residual") else {}
    before, after = output(build(**base)), output(build(**CHANGES[field]))
    if field == "max_length":  # the table is drawn from the same numbers, and is shorter
        assert build(**CHANGES[field]).encoder.embeddings.position_embeddings.num_embeddings == 50
    else:
        assert before.shape != after.shape or not torch.allclose(before, after)


def test_the_attention_field_chooses_the_function_and_not_the_result():
    fused, eager = build().eval(), build(attention="eager").eval()
    assert fused.encoder.encoder.layer[0].attention.self.is_fused
    assert not eager.encoder.encoder.layer[0].attention.self.is_fused
    torch.testing.assert_close(
        fused(IDS, attention_mask=MASK), eager(IDS, attention_mask=MASK), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("chosen", "is_causal", "result"),
    [(None, False, True), (None, True, False), (True, True, True), (False, False, False)],
)
def test_the_head_has_a_transform_by_default_where_the_encoder_is_bidirectional(
    chosen, is_causal, result
):
    settings = EncoderSettings(head_transform=chosen)
    assert settings.to_config(vocab_size=20, is_causal=is_causal).head_transform is result


def test_a_config_survives_saving(tmp_path):
    settings = EncoderSettings(
        kind="nezha",
        fusion=FusionSettings("softmax", (0, -1), width=8, activation="relu"),
        block=BlockSettings("textcnn", 6, {"kernel_widths": (3, 5)}),
        residual=ResidualSettings("projected", gate=True),
        residual_scores="gated",
        time_bias=TimeBiasSettings("log", buckets=9, query_time=True),
        feed_forward="gated",
        layer_residual="gated",
        norm="pre",
    )
    config = settings.to_config(vocab_size=20, is_causal=True, type_vocab_size=3)
    config.save_pretrained(tmp_path)
    saved, loaded = config.to_dict(), EncoderConfig.from_pretrained(tmp_path).to_dict()
    assert loaded == saved
    assert loaded["fusion_width"] == 8 and loaded["block_options"] == {"kernel_widths": [3, 5]}


def test_attention_is_fused_for_bert_and_plain_for_nezha_by_default():
    kinds = {"bert": "sdpa", "nezha": "eager"}
    for kind, attention in kinds.items():
        config = EncoderSettings(kind=kind).to_config(vocab_size=20, is_causal=False)
        assert config._attn_implementation == attention
    config = EncoderSettings(residual_scores="sum").to_config(vocab_size=20, is_causal=False)
    assert config._attn_implementation == "eager"


def test_a_config_from_before_blocks_and_residual_scores_means_none_of_them():
    config = EncoderConfig.from_dict({"fusion": "softmax", "fusion_layers": [0, -1]})
    assert config.residual_scores == "none" and config.block == "none"
    backbone = Backbone(config)
    assert backbone.block is None and backbone.width == config.hidden_size
    assert set(backbone.fusion.state_dict()) == {"layer_logits"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, r"hidden_size is 0; it must be at least 1"),
        ({"num_layers": 0}, r"num_layers is 0"),
        ({"num_heads": -1}, r"num_heads is -1"),
        ({"intermediate_size": 0}, r"intermediate_size is 0"),
        ({"max_length": 0}, r"max_length is 0"),
        ({"kind": "nezha", "max_relative_position": 0}, r"max_relative_position is 0"),
        ({"hidden_dropout": 1.0}, r"hidden_dropout is 1.0; choose from 0 to below 1"),
        ({"attention_dropout": -0.1}, r"attention_dropout is -0.1"),
        ({"initializer_range": 0.0}, r"initializer_range is 0.0; it must be above 0"),
        ({"layer_norm_eps": -1.0}, r"layer_norm_eps is -1.0"),
        ({"hidden_size": 65}, r"65 cannot be shared evenly by 2 heads. Choose a multiple of 2"),
        (
            {"kind": "nezha", "hidden_size": 66},
            r"heads of width 33. NEZHA's sines and cosines come in pairs: choose an even width",
        ),
        (
            {"kind": "nezha", "attention": "sdpa"},
            r"NEZHA's value term cannot be computed by fused attention; set attention='eager'",
        ),
        (
            {"residual_scores": "sum", "attention": "sdpa"},
            r"shows no scores that residual_scores='sum' could hand on; set attention='eager'",
        ),
        ({"residual_scores": "gated", "num_layers": 1}, r"cannot act in an encoder of 1"),
        (
            {"residual": ResidualSettings("concat", gate=True)},
            r"residual 'concat' with a gate cannot act without a block",
        ),
        ({"block": BlockSettings("lstm", 8)}, r"needs equal widths, and ForwardLSTM makes 8 out"),
        ({"max_relative_position": 8}, r"max_relative_position=8 cannot act"),
        ({"kind": "nezha", "position_origin": "newest"}, r"position_origin='newest' cannot act"),
        ({"kind": "nezha", "max_length": 50}, r"max_length=50 cannot act"),
        ({"activation": "gelo"}, r"no activation 'gelo'. Did you mean 'gelu'\?"),
        ({"fusion": FusionSettings("mean", (0, 3))}, r"layers \[3\] do not exist.*3 states"),
    ],
)
def test_settings_out_of_range_or_without_effect_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        EncoderSettings(**changes)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "nezah", r"kind is 'nezah'. Did you mean 'nezha'\? Choose from: bert, nezha"),
        ("norm", "prenorm", r"norm is 'prenorm'.* Choose from: post, pre"),
        ("residual_scores", "sums", r"residual_scores is 'sums'. Did you mean 'sum'\?"),
        ("feed_forward", "swiglu", r"feed_forward is 'swiglu'. Choose from: plain, gated"),
        ("layer_residual", "gate", r"layer_residual is 'gate'. Did you mean 'gated'\?"),
        ("attention", "flash", r"attention is 'flash'. Choose from: auto, sdpa, eager"),
    ],
)
def test_a_misspelt_choice_is_refused(field, value, message):
    settings = EncoderSettings()
    object.__setattr__(settings, field, value)  # past the types that are checked in tests
    with pytest.raises(ConfigError, match=message):
        settings.__post_init__()


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder_kind": "nezha"},
        {"encoder_kind": "bert", "max_relative_position": 8},
        {"encoder_kind": "bert", "max_position_embeddings": None},
    ],
)
def test_a_config_with_the_positions_of_the_other_kind_is_refused(fields):
    with pytest.raises(ConfigError, match=f"A {fields['encoder_kind']} config needs max_"):
        EncoderConfig(**fields)


def test_fused_attention_is_refused_for_nezha_when_a_model_is_built_too():
    config = EncoderSettings(kind="nezha").to_config(vocab_size=20, is_causal=False)
    config._attn_implementation = "sdpa"
    with pytest.raises(ConfigError, match="set attention='eager'"):
        Encoder(config)
