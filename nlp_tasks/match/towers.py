"""Towers: texts to vectors, as a SentenceTransformer that is built here, or opened and checked."""

import copy
import logging
from pathlib import Path
from typing import Any, Literal

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, InputModule, Module, Normalize, Router
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import load_dir_path
from torch import nn

from idbert.errors import ConfigError
from idbert.nn.progress_bars import without_progress_bars
from idbert.run_dir import MARKER, RunDir
from nlp_tasks.match.encoder_module import IdbertEncoder, IdbertPooling
from nlp_tasks.match.settings import DEFAULT_POOLING, STANDARD_POOLINGS, TowerSettings
from nlp_tasks.match.tower_checks import (
    check_brings_no_code,
    check_classes,
    explained,
    modules_file,
    quietly,
)
from nlp_tasks.match.tower_encoders import (
    bare_encoder,
    check_dropout,
    dropout_arguments,
    keep_layers,
    own_encoder,
    pooler_of_module,
    position_limit,
    with_dropout,
)

logger = logging.getLogger(__name__)

STAGE = "nlp_match"
QUERY: Literal["query"] = "query"
DOCUMENT: Literal["document"] = "document"
"""What the two towers are called; a model of one tower does not ask."""


def open_towers(folder_or_name: str | Path, *, device: str | None = None) -> SentenceTransformer:
    """Open towers, whoever made them; code that lies in the folder is never run.

    Weights are float32, also where the file holds float16, which SentenceTransformer would keep.

    Args:
        folder_or_name: A run of nlp_match; a folder, or a name on the Hugging Face hub, with a
            SentenceTransformer; or a bare BERT or NEZHA, whose token vectors are then averaged.
        device: torch's name of a device; None: the GPU where there is one.

    Raises:
        CheckpointError: there is no such model, it names a class that is neither of
            sentence-transformers nor of idbert, or wants to run code of its own.
    """
    source = str(folder_or_name)
    if (Path(source) / MARKER).is_file():
        source = str(RunDir.open(source, [STAGE]).model)
    if not holds_towers(source):
        logger.info("%s is a bare encoder: a text's vector is the mean of its tokens'", source)
        towers = build_towers(source, TowerSettings())
        return towers if device is None else towers.to(device)
    return _open(source, device=device)


def save_towers(towers: SentenceTransformer, folder: Path) -> None:
    """Write towers without a card; `open_towers` opens the folder."""
    with without_progress_bars():
        towers.save_pretrained(str(folder), create_model_card=False)


def holds_towers(source: str) -> bool:
    """Say whether a folder, or a model on the hub, is a SentenceTransformer."""
    return modules_file(source) is not None


def build_towers(
    model: str | Path, settings: TowerSettings, *, tokenizer: str | Path | None = None
) -> SentenceTransformer:
    """Open a pretrained model and make it the towers that the settings describe.

    Modules are sentence-transformers' own wherever they can be, so that what is saved opens without
    idbert: encoder > pooling (> dense layer) (> unit length). New weights are drawn from torch's
    global generator.

    Args:
        model: A SentenceTransformer, or a bare encoder: its folder, or its name on the hub.
        settings: What is changed about it.
        tokenizer: Where the tokenizer of a bare encoder lies; None: with it.

    Raises:
        CheckpointError: there is no such model, or it is none of texts.
        ConfigError: a setting cannot act on it.
    """
    source = str(model)
    opened = None
    if holds_towers(source):
        opened = _open(source, config_kwargs=dropout_arguments(settings.encoder))
        if any(opened.prompts.values()):
            logger.info("%s: its prompts are left out, for towers are trained without", source)
        opened.prompts, opened.default_prompt_name = {}, None
        if isinstance(opened[0], Router):
            return _opened_pair(opened, settings, source)
        first = opened[0]
        if settings.needs_own_modules:
            first = own_encoder(source, tokenizer, settings)
            first.max_seq_length = opened.max_seq_length
        elif isinstance(first, IdbertEncoder):
            first = with_dropout(first, settings.encoder)
        else:
            check_dropout(first, settings.encoder, source)
    else:
        first = bare_encoder(source, tokenizer, settings)
    if settings.layers is not None:
        keep_layers(first, settings.layers, source)
    _set_max_length(first, settings.max_length, source)
    rest = _behind(first, [] if opened is None else list(opened)[1:], settings)
    modules = _as_pair([first, *rest]) if settings.two_towers else [first, *rest]
    with quietly():
        towers = SentenceTransformer(modules=modules)
    return towers.float().eval()


def _behind(first: nn.Module, old: list[nn.Module], settings: TowerSettings) -> list[nn.Module]:
    """Return the modules behind the encoder: the opened ones, changed as the settings say."""
    new_pooling = settings.pooling is not None or settings.needs_own_modules or not old
    if new_pooling:
        name = settings.pooling or (_pooling_name(old) if old else DEFAULT_POOLING)
        pooling = _pooling(first, name, settings.pooling_options)
        # What stood behind the old pooling was trained on its vectors, and may not even fit.
        rest = [pooling, *(module for module in old if isinstance(module, Normalize))]
    else:
        rest = old
    if settings.width is not None:
        rest = [module for module in rest if not isinstance(module, Dense)]
        place = next((i for i, m in enumerate(rest) if isinstance(m, Normalize)), len(rest))
        width = _width(rest[:place])
        activation = nn.Tanh() if settings.activation == "tanh" else nn.Identity()
        rest.insert(place, Dense(width, settings.width, activation_function=activation))
    if settings.normalize is not None:
        rest = [module for module in rest if not isinstance(module, Normalize)]
        rest += [Normalize()] if settings.normalize else []
    return rest


def _pooling(first: nn.Module, name: str, options: dict[str, Any]) -> Module:
    width = first.get_embedding_dimension()  # type: ignore[operator]
    if name in STANDARD_POOLINGS and not options:
        return Pooling(width, pooling_mode=STANDARD_POOLINGS[name])
    pooling = IdbertPooling(name, width, options)
    pretrained = pooler_of_module(first)
    shapes = {key: tensor.shape for key, tensor in pooling.pooling.state_dict().items()}
    if name == "pooler" and shapes == {key: tensor.shape for key, tensor in pretrained.items()}:
        pooling.pooling.load_state_dict(pretrained)
    return pooling


def _pooling_name(old: list[nn.Module]) -> str:
    for module in old:
        if isinstance(module, IdbertPooling):
            return module.name
        if isinstance(module, Pooling):
            for name, mode in STANDARD_POOLINGS.items():
                if mode == module.pooling_mode:
                    return name
            raise ConfigError(
                f"The model pools by '{module.pooling_mode}', which cannot stand on another "
                "structure. Name a pooling."
            )
    return DEFAULT_POOLING


def _width(modules: list[nn.Module]) -> int:
    for module in reversed(modules):
        width = getattr(module, "get_embedding_dimension", lambda: None)()
        if width is not None:
            return int(width)
    raise ConfigError("The model does not say how wide its vectors are. Name a pooling.")


def _as_pair(modules: list[nn.Module]) -> list[nn.Module]:
    """Return a router to two copies of the modules; unit length stands behind both."""
    routed = [module for module in modules if not isinstance(module, Normalize)]
    behind = [module for module in modules if isinstance(module, Normalize)]
    return [Router.for_query_document(routed, copy.deepcopy(routed)), *behind]


def _opened_pair(
    opened: SentenceTransformer, settings: TowerSettings, source: str
) -> SentenceTransformer:
    allowed = TowerSettings(two_towers=settings.two_towers, max_length=settings.max_length)
    if settings != allowed:
        raise ConfigError(
            f"'{source}' has two towers already, about which only max_length can be changed. Leave "
            "the other settings of towers out, or start from its encoder."
        )
    for tower in opened[0].sub_modules.values():  # type: ignore[union-attr]
        _set_max_length(tower[0], settings.max_length, source)
    return opened


def _set_max_length(module: InputModule, wanted: int | None, source: str) -> None:
    limit = position_limit(module)
    if wanted is not None and limit is not None and wanted > limit:
        raise ConfigError(
            f"max_length is {wanted}, and '{source}' has positions for {limit} tokens. Lower it."
        )
    if wanted is not None:
        module.max_seq_length = wanted
    elif limit is not None and (module.max_seq_length or limit) > limit:
        module.max_seq_length = limit


def _open(
    source: str, *, device: str | None = None, config_kwargs: dict[str, Any] | None = None
) -> SentenceTransformer:
    """Open a SentenceTransformer whose classes are known."""
    is_own = check_classes(source)
    if is_own and not Path(source).is_dir():
        source = str(load_dir_path(source, subfolder=""))
        check_classes(source)
    if is_own:
        check_brings_no_code(Path(source))
    with quietly(), explained(source):
        opened = SentenceTransformer(
            source, device=device, trust_remote_code=is_own, config_kwargs=config_kwargs or None
        )
    return opened.float().eval()
