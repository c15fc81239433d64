"""Published BERT and NEZHA folders, opened; a `pytorch_model.bin` only with weights_only=True."""

import copy
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.hub import cached_file

from idbert.errors import CheckpointError, ConfigError
from idbert.nn.checkpoint_config import read_config
from idbert.nn.encoder_config import EncoderConfig, ResidualScores, check_residual_scores

logger = logging.getLogger(__name__)

CONFIG_FILES = ("config.json", "bert_config.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""Options of transformers' `from_pretrained` that say where and how files are found."""

TOKEN_TABLE = "embeddings.word_embeddings.weight"
"""Stands in every BERT; what precedes it in a file is the prefix of the encoder's tensors."""

POSITION_TABLE = "embeddings.position_embeddings.weight"
"""Stands in every BERT and in no NEZHA."""

SCORE_GATE = "encoder.layer.{layer}.attention.self.score_gate"
"""In the layers above the first, where residual scores are gated."""

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
                    f"tensors: {_first_five(names)}. {_likely_cause(missing, left_over)}"
                )


def read_encoder(
    folder_or_name: str | Path,
    config: EncoderConfig | None = None,
    hub_options: Mapping[str, Any] | None = None,
    residual_scores: ResidualScores | None = None,
) -> EncoderCheckpoint:
    """Read the encoder out of a folder in transformers' layout, or from the hub.

    Tensors of a head are left out. Names lose their prefix (`bert.`, `nezha.`, ...), gamma and
    beta become weight and bias.

    Args:
        folder_or_name: The folder; or a name on the Hugging Face hub.
        config: Replaces the config that is found, but for `add_pooler`.
        hub_options: Any of HUB_OPTIONS.
        residual_scores: "gated" adds gates to weights that were trained without, closed at first;
            None: as in the config.

    Raises:
        CheckpointError: files are missing or unreadable, or of another kind of model.
        ConfigError: residual_scores would make the weights compute something else.
    """
    source = str(folder_or_name)
    hub_options = hub_options or {}
    is_own = config is None and residual_scores is None
    if config is None:
        config = read_config(find_file(source, CONFIG_FILES, hub_options))
    config = copy.deepcopy(config)
    if residual_scores is not None:
        _set_residual_scores(config, residual_scores, source)
    weights = read_tensors(find_file(source, WEIGHT_FILES, hub_options))
    tensors, of_heads = split_encoder(weights, source)
    if of_heads:
        logger.info("%s: %d tensors of a head left out: %s", source, len(of_heads), of_heads)
    config.add_pooler = "pooler.dense.weight" in tensors
    if config.residual_scores == "gated" and not is_own:
        _add_closed_gates(tensors, config.num_hidden_layers)
    return EncoderCheckpoint(source, config, tensors)


def _set_residual_scores(
    config: EncoderConfig, residual_scores: ResidualScores, source: str
) -> None:
    theirs = config.residual_scores
    if residual_scores != theirs and (theirs, residual_scores) != ("none", "gated"):
        raise ConfigError(
            f"'{source}' was trained with residual_scores='{theirs}'; with '{residual_scores}' its "
            "weights would compute something else. "
            + ("Choose 'gated'." if theirs == "none" else "Leave residual_scores out.")
        )
    check_residual_scores(residual_scores, config.num_hidden_layers)
    config.residual_scores = residual_scores


def _add_closed_gates(tensors: dict[str, Tensor], num_layers: int) -> None:
    """Add a gate of 0 for each layer above the first, unless the weights hold gates."""
    gates = [SCORE_GATE.format(layer=layer) for layer in range(1, num_layers)]
    if not any(gate in tensors for gate in gates):
        tensors.update({gate: torch.zeros(1) for gate in gates})


def _likely_cause(missing: Sequence[str], left_over: Sequence[str]) -> str:
    if POSITION_TABLE in missing:
        return (
            "Is this a NEZHA, which has no position embeddings? Then its config must say so: "
            '"model_type": "nezha", or "use_relative_position": true.'
        )
    if POSITION_TABLE in left_over:
        return "Is this a BERT? Then its config must not speak of a nezha or of relative positions."
    return "Check that weights and config are of one model and copied whole."


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


def _new_spelling(name: str) -> str:
    for old, new in OLD_SPELLINGS.items():
        name = name.replace(old, new)
    return name


def find_file(source: str, filenames: tuple[str, ...], hub_options: Mapping[str, Any]) -> Path:
    """Return the first of the files that the folder, or the model on the hub, has.

    Raises:
        CheckpointError: there is none of them.
    """
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


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a file of weights; one of torch with weights_only.

    Raises:
        CheckpointError: it cannot be read, or holds something else than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file of torch raises anything: IndexError, KeyError, ...
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{file} cannot be read: {reason} Copy it anew.") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{file} holds no plain table of tensors. Save model.state_dict().")
    return tensors


def _first_five(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
