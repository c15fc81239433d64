"""What is written beside an index: what it is, of which model, and the digests of its files."""

import json
from pathlib import Path
from typing import Any

from idbert.errors import CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what `write_manifest` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no index (no {MANIFEST}). Build one with rec_index, or recommend "
            "without an index."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}. Build the index again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of format {FORMAT}. Build the index again.")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest; its format is added."""
    text = json.dumps({"format": FORMAT, **manifest}, indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def verify_size(path: Path, size: int) -> None:
    """Check a file as `files.verify` does, but for its digest, which would read all of it.

    Raises:
        CheckpointError: the file is missing, or its size is another.
    """
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        what = "is missing" if found is None else f"has {found} bytes instead of {size}"
        raise CheckpointError(f"{path} {what}. Copy it again, or build the index again.")
