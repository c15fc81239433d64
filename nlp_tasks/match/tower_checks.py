"""What is checked before towers are opened, so that no foreign code is ever run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sentence_transformers.base.modules import Router
from sentence_transformers.util import import_from_string, load_file_path
from transformers.utils import logging as transformers_logging

from idbert.errors import CheckpointError
from idbert.nn.progress_bars import without_progress_bars
from nlp_tasks.match.encoder_module import OWN_MODULES

MODULES_FILE, ROUTER_FILE = "modules.json", "router_config.json"
THEIRS = "sentence_transformers."

_FAILURES = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    ImportError,
    AttributeError,
)
"""What sentence-transformers and transformers raise where a folder is not what it should be."""


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' bars off stderr, and its report of a pooler that nobody reads."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with without_progress_bars():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Turn what sentence-transformers and transformers raise into one clear error."""
    try:
        yield
    except _FAILURES as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"'{source}' cannot be opened as a SentenceTransformer: {reason} Copy the folder again."
        ) from error


def modules_file(source: str) -> Path | None:
    """Return the list of modules of a folder or of a model on the hub; None if it has none.

    Raises:
        CheckpointError: there is no such folder.
    """
    folder = Path(source)
    if folder.is_dir():
        file = folder / MODULES_FILE
        return file if file.is_file() else None
    if folder.is_absolute() or len(folder.parts) > 2:
        raise CheckpointError(f"'{source}' does not exist. Give the folder of a model.")
    with explained(source):
        found = load_file_path(source, MODULES_FILE)
    return None if found is None else Path(found)


def check_classes(source: str) -> bool:
    """Check that all classes are sentence-transformers' or ours; say whether one is ours.

    Raises:
        CheckpointError: one is neither, or the file that names them cannot be read.
    """
    file = modules_file(source)
    assert file is not None  # `holds_towers` has said so
    names = [
        name
        for entry in _entries(file)
        for name in _classes(source, str(entry.get("type")), str(entry.get("path", "")))
    ]
    foreign = [name for name in names if not name.startswith(THEIRS) and name not in OWN_MODULES]
    if foreign:
        raise CheckpointError(
            f"{file} names the class '{foreign[0]}', which is neither of sentence-transformers nor "
            "of idbert: to open it would be to run foreign code. If you trust it, open it with "
            "SentenceTransformer(..., trust_remote_code=True)."
        )
    return any(name in OWN_MODULES for name in names)


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CheckpointError(f"{file} is no list of modules. Copy the folder again.")
    return entries


def _classes(source: str, name: str, path: str) -> Iterator[str]:
    """Yield a class and those that it opens itself, as a router does, in a router too."""
    yield name
    if _is_router(name):
        for folder, inner in _routed(source, path).items():
            if not Path(folder).parts or ".." in Path(folder).parts:
                raise CheckpointError(f"'{source}' has a router that leads back to '{folder}'.")
            yield from _classes(source, inner, f"{path}/{folder}" if path else folder)


def _is_router(name: str) -> bool:
    """Say whether a class of theirs is a router, by whichever of its names."""
    if not name.startswith(THEIRS):
        return False
    try:
        return issubclass(import_from_string(name), Router)
    except (ImportError, AttributeError, TypeError):
        return False  # opening it says what is the matter


def _routed(source: str, path: str) -> dict[str, str]:
    """Return the classes that a router leads to, by their folders."""
    name = f"{path}/{ROUTER_FILE}" if path else ROUTER_FILE
    local = Path(source) / name
    file = local if local.is_file() else load_file_path(source, name)
    try:
        types = json.loads(Path(str(file)).read_text(encoding="utf-8"))["types"]
        return {str(folder): str(value) for folder, value in types.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"'{source}' does not say which modules its router leads to: {error}."
        ) from error


def check_brings_no_code(folder: Path) -> None:
    """Check what trust in our own classes would otherwise open a door to.

    Raises:
        CheckpointError: a config asks for code in the folder, or a function that is not torch's.
    """
    for file in sorted(folder.rglob("*.json")):
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{file} is not JSON: {error}. Copy the folder again.") from error
        if not isinstance(value, dict):
            continue
        activation = str(value.get("activation_function") or "torch.")
        if "auto_map" in value or not activation.startswith("torch."):
            what = "auto_map" if "auto_map" in value else f"activation_function {activation}"
            raise CheckpointError(
                f"{file} asks for code of its own ({what}), and is not opened. Use a folder that "
                "nlp_match has written."
            )
