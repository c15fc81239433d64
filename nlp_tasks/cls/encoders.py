"""Pretrained encoders of texts, opened for what is to stand on them."""

import json
from pathlib import Path
from typing import Any, TypeVar

from idbert.errors import CheckpointError
from idbert.nn.encoder import Encoder
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.item_models import ITEM_MODELS
from idbert.nn.structure import StructureSettings
from nlp_tasks.cls.config import PretrainedSettings

ENCODER_FIELDS = tuple(name for name in EncoderConfig.__annotations__ if name != "add_pooler")
"""Fields of the config that describe the encoder and the structure on it, and no head."""

Config = TypeVar("Config", bound=EncoderConfig)

WITHOUT_ENCODER = "idbert_dgcnn_reader"
"""The model_type of a model of texts of ours that stands on no encoder."""


def open_text_encoder(
    folder_or_name: str | Path,
    change: PretrainedSettings = PretrainedSettings(),  # noqa: B008 (frozen)
) -> Encoder:
    """Open an encoder of texts; what stood on it is not taken over.

    Changed dropout stands in its config alone, by which the model that copies it is built.

    Args:
        folder_or_name: A folder with a BERT, a NEZHA or a model of texts saved by idbert; or a name
            on the Hugging Face hub.
        change: What is changed about the encoder.

    Raises:
        CheckpointError: there is no such model, it is one of item ids, or its tensors do not fit
            its config.
        ConfigError: the change cannot act on it.
    """
    folder = Path(folder_or_name)
    if (folder / "config.json").is_file():
        fields = read_model_config(folder)
        architecture = (fields.get("architectures") or [None])[0]
        if fields.get("model_type") == WITHOUT_ENCODER:
            raise CheckpointError(
                f"{folder} holds a reader of the kind DGCNN, which has no encoder to start from. "
                "Give a BERT or NEZHA, or a run that was trained from one."
            )
        if architecture in ITEM_MODELS:
            raise CheckpointError(
                f"{folder} holds a {architecture}: an encoder of item ids, which knows no words. "
                "Give a BERT or NEZHA that was trained on texts."
            )
    encoder = Encoder.from_pretrained(
        folder_or_name,
        residual_scores=None if change.residual_scores == "none" else change.residual_scores,
    )
    for name, value in (
        ("hidden_dropout_prob", change.hidden_dropout),
        ("attention_probs_dropout_prob", change.attention_dropout),
    ):
        if value is not None:
            setattr(encoder.config, name, value)
    return encoder


def config_on(
    encoder: Encoder,
    config_class: type[Config],
    structure: StructureSettings | None = None,
    **fields: Any,
) -> Config:
    """Return the config of a model that stands on an encoder.

    Args:
        encoder: Whose architecture it has.
        config_class: Of the model.
        structure: Fusion, block and residual wrapper on the encoder; None: none.
        fields: Of what else stands on it.

    Raises:
        ConfigError: a field is out of range, or the structure does not fit the encoder.
    """
    of_encoder = {name: getattr(encoder.config, name) for name in ENCODER_FIELDS}
    config = config_class(**of_encoder, **fields)
    config._attn_implementation = encoder.config._attn_implementation
    (structure or StructureSettings()).apply_to(config)
    return config


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a model's folder.

    Raises:
        CheckpointError: there is none, or it is not JSON.
    """
    file = folder / "config.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} holds no config.json. Give the folder of a model, such as RUN/model."
        ) from None
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{file} is not the config of a model. Copy the folder again.")
    return fields
