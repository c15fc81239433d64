"""The encoder of towers, as a module: sentence-transformers' own where it can be, ours else."""

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from sentence_transformers.base.modules import InputModule, Transformer
from torch import Tensor, nn
from transformers import BertConfig, PreTrainedTokenizerBase

from idbert.errors import CheckpointError, ConfigError
from idbert.inputs.tokenizers import open_tokenizer
from idbert.nn.checkpoint_config import BERT_FIELDS
from idbert.nn.encoder import Encoder
from idbert.nn.encoder_config import EncoderConfig
from nlp_tasks.cls.config import PretrainedSettings
from nlp_tasks.cls.encoders import config_on, open_text_encoder
from nlp_tasks.match.encoder_module import BackboneModel, IdbertEncoder
from nlp_tasks.match.settings import DEFAULT_MAX_LENGTH, TowerSettings
from nlp_tasks.match.tower_checks import quietly

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SHIFTED_POSITIONS = ("roberta", "mpnet", "camembert")
"""Models whose first two position embeddings stand for no position of a text."""

DROPOUTS = {
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}


def bare_encoder(source: str, tokenizer: str | Path | None, settings: TowerSettings) -> InputModule:
    """Open an encoder that is no tower yet.

    Args:
        source: A folder, or a name on the Hugging Face hub.
        tokenizer: Where its tokenizer lies; None: with it.
        settings: Of the towers.

    Raises:
        CheckpointError: there is no such model, or it is none of texts.
        ConfigError: a setting cannot act on it.
    """
    if settings.needs_own_modules:
        return own_encoder(source, tokenizer, settings)
    if tokenizer is None and _is_plain(Path(source)):
        return _plain_encoder(source, settings)
    encoder = open_text_encoder(source, settings.encoder)
    if not _is_bert(encoder.config):
        return own_encoder(source, tokenizer, settings, encoder)
    return _as_bert(encoder, open_tokenizer(tokenizer or source))


def own_encoder(
    source: str,
    tokenizer: str | Path | None,
    settings: TowerSettings,
    encoder: Encoder | None = None,
) -> IdbertEncoder:
    """Open an encoder with a structure of ours on it; arguments as for `bare_encoder`."""
    if encoder is None:
        encoder = open_text_encoder(source, settings.encoder)
    if settings.layers is not None:  # now, so that a fusion is built for the layers that are left
        _cut(encoder, settings.layers, source)
    config = config_on(encoder, EncoderConfig, settings.structure)
    model = BackboneModel(config)
    tensors = encoder.state_dict()
    pooler = {name: tensors.pop(name) for name in list(tensors) if name.startswith("pooler.")}
    model.backbone.encoder.load_state_dict(tensors)
    opened = open_tokenizer(tokenizer or source, vocab_size=config.vocab_size)
    limits = [limit for limit in (opened.model_max_length, config.max_position_embeddings) if limit]
    module = IdbertEncoder(model, opened, min([*limits, DEFAULT_MAX_LENGTH]))
    module.pretrained_pooler = pooler
    return module


def dropout_arguments(settings: PretrainedSettings) -> dict[str, Any]:
    """Return changed dropout in the words of a published config."""
    given = {theirs: getattr(settings, ours) for ours, theirs in DROPOUTS.items()}
    return {name: value for name, value in given.items() if value is not None}


def with_dropout(module: IdbertEncoder, settings: PretrainedSettings) -> IdbertEncoder:
    """Return an encoder of ours with changed dropout, and the same weights."""
    changes = dropout_arguments(settings)
    if changes:
        config = copy.deepcopy(module.model.config)
        for name, value in changes.items():
            setattr(config, name, value)
        model = BackboneModel(config)
        model.load_state_dict(module.model.state_dict())
        module.model = model.to(module.model.device)
    return module


def check_dropout(module: nn.Module, settings: PretrainedSettings, source: str) -> None:
    """Check that changed dropout has reached a published encoder.

    Raises:
        ConfigError: its config knows no such dropout.
    """
    known = type(module.model.config)().to_dict()  # type: ignore[operator, union-attr]
    for ours, theirs in DROPOUTS.items():
        if getattr(settings, ours) is not None and theirs not in known:
            raise ConfigError(
                f"{ours}={getattr(settings, ours)} cannot act on '{source}': its config has no "
                f"{theirs}. Leave it out."
            )


def keep_layers(module: InputModule, count: int, source: str) -> None:
    """Leave only the lowest layers of an encoder.

    Raises:
        ConfigError: it has fewer, its layers are not found, or a fusion reads those above.
    """
    encoder = encoder_of_module(module)
    if isinstance(module, IdbertEncoder):
        config = module.model.config
        if count == config.num_hidden_layers:
            return
        if module.model.backbone.fusion.needs_all_states:
            raise ConfigError(
                f"layers={count} cannot act on '{source}', whose fusion '{config.fusion}' was "
                "trained on all of its layers. Give another structure with it, or leave it out."
            )
    _cut(encoder, count, source)
    if isinstance(module, IdbertEncoder):
        module.model.config.num_hidden_layers = count


def _cut(encoder: nn.Module | None, count: int, source: str) -> None:
    """Drop the upper layers of an encoder, and say so in its config."""
    stack = getattr(encoder, "encoder", None)
    layers = getattr(stack, "layer", None)
    if encoder is None or stack is None or not isinstance(layers, nn.ModuleList):
        raise ConfigError(
            f"layers={count} cannot act on '{source}', whose layers are not those of a BERT."
        )
    if count > len(layers):
        raise ConfigError(f"layers is {count}, and '{source}' has {len(layers)}. Lower it.")
    stack.layer = layers[:count]
    encoder.config.num_hidden_layers = count  # type: ignore[union-attr, assignment]


def encoder_of_module(module: nn.Module) -> nn.Module | None:
    """Return the encoder inside a module of towers: it has `embeddings` and `encoder.layer`."""
    if isinstance(module, IdbertEncoder):
        return module.model.backbone.encoder
    if isinstance(module, Transformer):
        return module.model
    return None


def position_limit(module: nn.Module) -> int | None:
    """Return the most tokens that an encoder has positions for; None where there is no limit."""
    encoder = encoder_of_module(module)
    config = getattr(encoder, "config", None)
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return None
    shifted = any(name in str(config.model_type) for name in SHIFTED_POSITIONS)  # type: ignore[union-attr]
    return int(limit) - 2 * shifted


def pooler_of_module(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's own pooler, by the names of our pooling "pooler"."""
    if isinstance(module, IdbertEncoder):
        tensors = getattr(module, "pretrained_pooler", {})
    else:
        pooler = getattr(encoder_of_module(module), "pooler", None)
        tensors = {} if pooler is None else pooler.state_dict()
    return {name.removeprefix("pooler."): tensor for name, tensor in tensors.items()}


def _is_plain(folder: Path) -> bool:
    """Say whether transformers alone opens a model; a name on the hub it does."""
    if not folder.is_dir():
        return True
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return False
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(fields["model_type"]).split("_")[0] not in ("idbert", "nezha")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _plain_encoder(source: str, settings: TowerSettings) -> Transformer:
    try:
        with quietly():
            module = Transformer(source, config_kwargs=dropout_arguments(settings.encoder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"'{source}' cannot be opened as an encoder of texts: {reason} Give the folder of a "
            "model, or its name on the hub."
        ) from error
    check_dropout(module, settings.encoder, source)
    return module


def _is_bert(config: EncoderConfig) -> bool:
    return (
        config.encoder_kind == "bert"
        and config.norm == "post"
        and not config.is_causal
        and config.residual_scores == "none"
        and config.time_bias == "none"
        and config.feed_forward == config.layer_residual == "plain"
        and config.position_origin == "oldest"
    )


def _as_bert(encoder: Encoder, tokenizer: PreTrainedTokenizerBase) -> Transformer:
    """Return transformers' BertModel with the same weights, as a module."""
    config = BertConfig(
        **{name: getattr(encoder.config, name) for name in BERT_FIELDS},
        architectures=["BertModel"],
    )
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    with TemporaryDirectory() as folder, quietly():
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        has_pooler = encoder.pooler is not None
        module = Transformer(folder, model_kwargs={"add_pooling_layer": has_pooler})
    module.model.config._name_or_path = ""
    module.model.name_or_path = ""
    if module.tokenizer is not None:
        module.tokenizer.name_or_path = ""
        module.tokenizer.init_kwargs.pop("name_or_path", None)
    return module
