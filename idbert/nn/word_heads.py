"""The heads of a checkpoint's own pretraining: masked words, and next sentences if it has one."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from idbert.errors import CheckpointError
from idbert.nn.checkpoints import (
    CONFIG_FILES,
    OLD_SPELLINGS,
    TOKEN_TABLE,
    WEIGHT_FILES,
    find_file,
    read_tensors,
)
from idbert.nn.word_config import WordConfig

logger = logging.getLogger(__name__)

_TRANSFORM = ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias")
_OF_WORDS = {f"cls.predictions.transform.{name}": f"transform.{name}" for name in _TRANSFORM}
_BIASES = ("cls.predictions.bias", "cls.predictions.decoder.bias")
"""One vector under two names; a file holds the first, the second, or both."""
_OUTPUT_TABLE = "cls.predictions.decoder.weight"
_OF_SENTENCES = {f"cls.seq_relationship.{name}": name for name in ("weight", "bias")}


@dataclass(frozen=True)
class WordHeads:
    """What a checkpoint holds beside its encoder; empty where it has no such head.

    Attributes:
        source: the folder or the name on the hub, for messages.
        words: tensors of the masked-word head, by their names in `MaskedWordModel.head`.
        next_sentence: tensors of the next-sentence head.
        structure: fusion and block of a `MaskedWordModel`, by their names in its backbone; None:
            the checkpoint is of another kind, and what stood on its encoder is left behind.
    """

    source: str
    words: dict[str, Tensor] = field(default_factory=dict)
    next_sentence: dict[str, Tensor] = field(default_factory=dict)
    structure: dict[str, Tensor] | None = None


def read_word_heads(folder_or_name: str | Path) -> WordHeads:
    """Read the heads of a published BERT or NEZHA, or of a saved `MaskedWordModel`.

    Whatever precedes `cls.` in the names is left out; gamma and beta become weight and bias.

    Args:
        folder_or_name: a folder in transformers' layout, or a name on the hub.

    Raises:
        CheckpointError: files are missing or unreadable, or a head is there only in part.
    """
    source = str(folder_or_name)
    tensors = read_tensors(find_file(source, WEIGHT_FILES, {}))
    if _is_own(find_file(source, CONFIG_FILES, {})):
        return WordHeads(
            source,
            words=_below("head.", tensors),
            next_sentence=_below("next_sentence.", tensors),
            structure={
                name: tensor
                for name, tensor in _below("backbone.", tensors).items()
                if not name.startswith("encoder.")
            },
        )
    published = {_standard_name(name): tensor for name, tensor in tensors.items()}
    return WordHeads(source, _masked_words(published, source), _next_sentence(published, source))


def _masked_words(published: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    biases = [published[name] for name in _BIASES if name in published]
    found = {own: published[name] for name, own in _OF_WORDS.items() if name in published}
    if not biases and not found:
        return {}
    lacking = [name for name in _OF_WORDS if name not in published]
    if not biases:
        lacking.append(_BIASES[0])
    _check_whole(source, "masked-word", lacking)
    tables = [tensor for name, tensor in published.items() if name.endswith(TOKEN_TABLE)]
    output_VD = published.get(_OUTPUT_TABLE)
    if output_VD is not None and not any(torch.equal(output_VD, table) for table in tables):
        logger.warning(
            "%s: the masked-word head scores by a table of its own, not by the embeddings; it is "
            "left out",
            source,
        )
        return {}
    return found | {"bias": biases[0]}


def _next_sentence(published: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    found = {own: published[name] for name, own in _OF_SENTENCES.items() if name in published}
    if found:
        lacking = [name for name in _OF_SENTENCES if name not in published]
        _check_whole(source, "next-sentence", lacking)
    return found


def _check_whole(source: str, head: str, lacking: list[str]) -> None:
    if lacking:
        raise CheckpointError(
            f"The weights of '{source}' hold a {head} head without {', '.join(lacking)}. Copy the "
            "folder anew."
        )


def _standard_name(name: str) -> str:
    start = name.find("cls.predictions.") if "cls.predictions." in name else name.find("cls.seq_")
    name = name[max(start, 0) :]
    for old, new in OLD_SPELLINGS.items():
        name = name.replace(old, new)
    return name


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _is_own(config_file: Path) -> bool:
    try:
        saved = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError:
        raise CheckpointError(f"{config_file} is not JSON. Copy the folder anew.") from None
    return isinstance(saved, dict) and saved.get("model_type") == WordConfig.model_type
