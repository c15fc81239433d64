"""The two modules that make towers of what only idbert has: its backbone, and its poolings."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule, Module
from torch import nn
from transformers import PreTrainedTokenizerBase

from idbert.errors import CheckpointError
from idbert.inputs.tokenizers import open_tokenizer
from idbert.nn.backbone import BackbonePreTrainedModel
from idbert.nn.encoder_config import EncoderConfig
from idbert.nn.pooling import build_pooling
from idbert.nn.progress_bars import without_progress_bars
from idbert.nn.saved_models import open_saved

TEXT_FIELDS = ("input_ids", "attention_mask", "token_type_ids")


class BackboneModel(BackbonePreTrainedModel):  # type: ignore[no-untyped-call]
    """A backbone alone, in a folder that every command on texts opens as a pretrained model.

    Args:
        config: Of the encoder and of the structure on it.
    """

    config_class = EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, **inputs: Any) -> Any:
        """Return one vector a token, as `Backbone.forward`."""
        return self.backbone(**inputs)


class IdbertEncoder(InputModule):
    """Texts to one vector a token, by any backbone: NEZHA, fused layers, a block.

    Args:
        model: The backbone.
        tokenizer: Its tokenizer.
        max_seq_length: Tokens of a text, special ones included; the rest is cut off.
    """

    config_file_name = "idbert_encoder.json"
    config_keys = ["max_seq_length"]
    save_in_root = True

    def __init__(
        self, model: BackboneModel, tokenizer: PreTrainedTokenizerBase, max_seq_length: int
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_seq_length = model, tokenizer, max_seq_length

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Turn texts into a batch of tokens."""
        texts = self._prepend_prompt(list(inputs), prompt) if prompt else list(inputs)
        encoded = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.max_seq_length,
            return_tensors="pt",
        )
        batch = {name: encoded[name] for name in TEXT_FIELDS if name in encoded}
        if self.model.config.type_vocab_size < 2:
            batch.pop("token_type_ids", None)
        return batch

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add "token_embeddings" to the features."""
        inputs = {name: features[name] for name in TEXT_FIELDS if name in features}
        return features | {"token_embeddings": self.model(**inputs)}

    def get_embedding_dimension(self) -> int:
        """Return the width of a token's vector."""
        return self.model.backbone.width

    def save(
        self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Write config, weights and tokenizer; weights are always safetensors."""
        with without_progress_bars():
            self.model.save_pretrained(output_path)
        self.tokenizer.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> "IdbertEncoder":
        """Read what `save` wrote into a folder on this machine."""
        folder = Path(model_name_or_path) / subfolder
        settings = _read_json(folder / cls.config_file_name)
        model = open_saved(BackboneModel, folder)
        return cls(model, open_tokenizer(folder), int(settings["max_seq_length"]))


class IdbertPooling(Module):
    """One vector a text, by any pooling that is registered in `POOLINGS`.

    Args:
        name: Of the pooling.
        input_width: Of a token's vector.
        options: Of the pooling, as plain values.
    """

    config_file_name = "config.json"
    config_keys = ["name", "input_width", "options"]

    def __init__(self, name: str, input_width: int, options: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.name, self.input_width, self.options = name, input_width, options or {}
        self.pooling: nn.Module = build_pooling(name, input_width, self.options)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add "sentence_embedding" to the features."""
        pooled_BD = self.pooling(features["token_embeddings"], features["attention_mask"])
        return features | {"sentence_embedding": pooled_BD}

    def get_embedding_dimension(self) -> int:
        """Return the width of a text's vector."""
        return int(self.pooling.width)

    def save(
        self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Write description and weights."""
        self.save_config(output_path)
        if self.state_dict():
            self.save_torch_weights(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> "IdbertPooling":
        """Read what `save` wrote into a folder on this machine."""
        folder = Path(model_name_or_path) / subfolder
        pooling = cls(**_read_json(folder / cls.config_file_name))
        if pooling.state_dict():
            pooling.load_torch_weights(os.fspath(folder), model=pooling)
        return pooling


OWN_MODULES: dict[str, type[Module]] = {
    f"{module.__module__}.{module.__name__}": module for module in (IdbertEncoder, IdbertPooling)
}
"""Our modules by the names under which modules.json knows them."""


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}. Copy the folder again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is no description of a module. Copy the folder again.")
    return value
