"""The configs of published BERT and NEZHA folders, and of idbert's own, as an encoder's."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import BertConfig

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.encoder_config import NEZHA_MAX_RELATIVE_POSITION, EncoderConfig

# The fields of transformers' BertConfig that bear the same names and mean the same in ours.
BERT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)


def read_config(file: Path) -> EncoderConfig:
    """Read the config of a BERT, a NEZHA or an idbert model.

    Args:
        file: config.json, or bert_config.json of older releases.

    Raises:
        CheckpointError: the file is no JSON object, or describes what an encoder cannot be.
    """
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        raise CheckpointError(f"{file} is not a JSON object. Copy the folder anew.")
    model_type = str(saved.get("model_type", "bert"))
    is_own = model_type.split("_")[0] == EncoderConfig.model_type
    if not is_own and model_type not in ("bert", "nezha"):
        raise CheckpointError(
            f"{file} describes a model of type '{model_type}'. Give a bert, nezha or idbert model."
        )
    try:
        return _of_own(saved) if is_own else _from_published(saved)
    except (ConfigError, StrictDataclassError) as error:
        raise CheckpointError(f"{file} describes no encoder that can be built: {error}") from error


def _of_own(saved: dict[str, Any]) -> EncoderConfig:
    """Return the encoder's part of a config; that of a task's model holds more."""
    known = {field.name for field in fields(EncoderConfig)}
    config: EncoderConfig = EncoderConfig.from_dict(
        {name: value for name, value in saved.items() if name in known}
    )
    return config


def _from_published(saved: dict[str, Any]) -> EncoderConfig:
    is_nezha = saved.get("model_type") == "nezha" or saved.get("use_relative_position", False)
    positions = saved.get("position_embedding_type", "absolute")
    if not is_nezha and positions != "absolute":
        raise ConfigError(f"position_embedding_type is '{positions}'. Give absolute, or a NEZHA.")
    if saved.get("add_cross_attention", False):
        raise ConfigError("add_cross_attention is true. Give a model without cross-attention.")
    bert = BertConfig()
    shared = {name: saved.get(name, getattr(bert, name)) for name in BERT_FIELDS}
    if is_nezha:
        shared["max_position_embeddings"] = None
        shared["max_relative_position"] = saved.get(
            "max_relative_position", NEZHA_MAX_RELATIVE_POSITION
        )
    return EncoderConfig(
        encoder_kind="nezha" if is_nezha else "bert",
        is_causal=saved.get("is_decoder", False),
        **shared,
    )
