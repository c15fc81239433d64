"""Published BERT and NEZHA folders, opened; a `pytorch_model.bin` only with weights_only=True."""

import copy
import json
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig
from transformers.utils.hub import cached_file

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.config import NEZHA_MAX_RELATIVE_POSITION, EncoderConfig

logger = logging.getLogger(__name__)

CONFIG_FILES = ("config.json", "bert_config.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""Options of transformers' `from_pretrained` that say where and how files are found."""

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

TOKEN_TABLE = "embeddings.word_embeddings.weight"
"""Stands in every BERT; what precedes it in a file is the prefix of the encoder's tensors."""

# Tables that can be computed; some versions of transformers and of NEZHA have saved them.
COMPUTED = re.compile(r"\.(position_ids|token_type_ids|positions_encoding)$")
ENCODER_PARTS = ("embeddings.", "encoder.", "pooler.")
OLD_SPELLINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class EncoderCheckpoint:
    """What a folder holds of an encoder.

    Attributes:
        source: The folder or the name on the hub, for messages.
        config: The encoder's config.
        tensors: The encoder's tensors, under BertModel's names.
    """

    source: str
    config: EncoderConfig
    tensors: dict[str, Tensor]

    def check_fit(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check that the tensors are those of an encoder with these names and shapes.

        Raises:
            CheckpointError: tensors are missing, left over, or of another shape.
        """
        missing = [name for name in shapes if name not in self.tensors]
        left_over = [name for name in self.tensors if name not in shapes]
        misshapen = [
            f"{name} {list(tensor.shape)}, not {list(shapes[name])}"
            for name, tensor in self.tensors.items()
            if name in shapes and tuple(tensor.shape) != shapes[name]
        ]
        for problem, names in (
            ("lack", missing),
            ("hold, beyond what its config describes,", left_over),
            ("hold in the wrong shape", misshapen),
        ):
            if names:
                raise CheckpointError(
                    f"The weights of '{self.source}' {problem} {len(names)} of the encoder's "
                    f"tensors: {_first_five(names)}. Check that weights and config are of one "
                    "model and copied whole."
                )


def read_encoder(
    folder_or_name: str | Path,
    config: EncoderConfig | None = None,
    hub_options: Mapping[str, Any] | None = None,
) -> EncoderCheckpoint:
    """Read the encoder out of a folder in transformers' layout, or from the hub.

    Tensors of a head are left out. Names lose their prefix (`bert.`, `nezha.`, ...), gamma and
    beta become weight and bias.

    Args:
        folder_or_name: The folder; or a name on the Hugging Face hub.
        config: Replaces the config that is found, but for `add_pooler`.
        hub_options: Any of HUB_OPTIONS.

    Raises:
        CheckpointError: files are missing or unreadable, or of another kind of model.
    """
    source = str(folder_or_name)
    hub_options = hub_options or {}
    if config is None:
        config = read_config(_find(source, CONFIG_FILES, hub_options))
    config = copy.deepcopy(config)
    weights = _load_tensors(_find(source, WEIGHT_FILES, hub_options))
    tensors, of_heads = split_encoder(weights, source)
    if of_heads:
        logger.info("%s: %d tensors of a head left out: %s", source, len(of_heads), of_heads)
    config.add_pooler = "pooler.dense.weight" in tensors
    return EncoderCheckpoint(source, config, tensors)


def split_encoder(
    tensors: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the encoder's tensors under BertModel's names, and the names of all others.

    Args:
        tensors: All tensors of a file.
        source: Where they come from, for messages.

    Raises:
        CheckpointError: there is no encoder among them, or more than one.
    """
    prefixes = [name.removesuffix(TOKEN_TABLE) for name in tensors if name.endswith(TOKEN_TABLE)]
    if len(prefixes) != 1:
        raise CheckpointError(
            f"The weights of '{source}' hold {len(prefixes)} tensors '...{TOKEN_TABLE}', not one. "
            "Give the weights of one BERT or NEZHA model."
        )
    (prefix,) = prefixes
    of_encoder, of_heads = {}, []
    for name, tensor in tensors.items():
        inner_name = name.removeprefix(prefix)
        if not name.startswith(prefix) or not inner_name.startswith(ENCODER_PARTS):
            of_heads.append(name)
        elif not COMPUTED.search(inner_name):
            of_encoder[_new_spelling(inner_name)] = tensor
    return of_encoder, of_heads


def read_config(file: Path) -> EncoderConfig:
    """Read the config of a BERT, a NEZHA or an idbert model.

    Args:
        file: config.json, or bert_config.json of older releases.

    Raises:
        CheckpointError: the file is no JSON object, or describes what an encoder cannot be.
    """
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{file} is not a JSON object. Copy the folder anew.")
    model_type = fields.get("model_type", "bert")
    if model_type not in ("bert", "nezha", "idbert"):
        raise CheckpointError(
            f"{file} describes a model of type '{model_type}'. Give a bert, nezha or idbert model."
        )
    try:
        if model_type == "idbert":
            return EncoderConfig.from_dict(fields)
        return _from_published(fields)
    except (ConfigError, StrictDataclassError) as error:
        raise CheckpointError(f"{file} describes no encoder that can be built: {error}") from error


def _from_published(fields: dict[str, Any]) -> EncoderConfig:
    is_nezha = fields.get("model_type") == "nezha" or fields.get("use_relative_position", False)
    positions = fields.get("position_embedding_type", "absolute")
    if not is_nezha and positions != "absolute":
        raise ConfigError(f"position_embedding_type is '{positions}'. Give absolute, or a NEZHA.")
    if fields.get("add_cross_attention", False):
        raise ConfigError("add_cross_attention is true. Give a model without cross-attention.")
    bert = BertConfig()
    shared = {name: fields.get(name, getattr(bert, name)) for name in BERT_FIELDS}
    if is_nezha:
        shared["max_position_embeddings"] = None
        shared["max_relative_position"] = fields.get(
            "max_relative_position", NEZHA_MAX_RELATIVE_POSITION
        )
    return EncoderConfig(
        encoder_kind="nezha" if is_nezha else "bert",
        is_causal=fields.get("is_decoder", False),
        **shared,
    )


def _new_spelling(name: str) -> str:
    for old, new in OLD_SPELLINGS.items():
        name = name.replace(old, new)
    return name


def _find(source: str, filenames: tuple[str, ...], hub_options: Mapping[str, Any]) -> Path:
    """Return the first of the files that the folder, or the model on the hub, has."""
    cause = None
    for filename in filenames:
        try:
            found = cached_file(
                source, filename, _raise_exceptions_for_missing_entries=False, **hub_options
            )
        except (OSError, ValueError) as error:  # no such repository, no network, no valid name
            cause, found = error, None
        if found is not None:
            return Path(found)
    where = (
        "is a folder without"
        if Path(source).is_dir()
        else "is no folder here, and the Hugging Face hub gave no"
    )
    raise CheckpointError(
        f"'{source}' {where} {' or '.join(filenames)}. Give the folder of a model, or its name on "
        "the hub."
    ) from cause


def _load_tensors(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{file} cannot be read: {reason} Copy it anew.") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{file} holds no plain table of tensors. Save model.state_dict().")
    return tensors


def _first_five(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
