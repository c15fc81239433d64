"""Folders that `save_pretrained` wrote, opened as the class that wrote them."""

from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from transformers import PreTrainedModel

from idbert.errors import CheckpointError
from idbert.nn.progress_bars import without_progress_bars

Model = TypeVar("Model", bound=PreTrainedModel)


def open_saved(model_class: type[Model], folder: Path) -> Model:
    """Return the model in evaluation mode; all of its weights are there, and no others.

    Raises:
        CheckpointError: the weights cannot be read, or are not those of the config.
    """
    try:
        with without_progress_bars():
            opened: Any = model_class.from_pretrained(folder, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"The weights in {folder} cannot be read: {error}") from error
    model: Model = opened[0]
    wrong = sorted(opened[1]["missing_keys"]) + sorted(opened[1]["unexpected_keys"])
    if wrong:
        raise CheckpointError(
            f"The weights in {folder} do not fit its config.json: {len(wrong)} are missing or too "
            f"many, such as {', '.join(wrong[:5])}. Copy the folder again."
        )
    return model
