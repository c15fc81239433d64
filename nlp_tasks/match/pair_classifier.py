"""The classifier on two vectors that softmax, bce and focal train: kept beside the towers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from idbert.errors import CheckpointError, ConfigError, suggestion

Concatenation = Literal[
    "uv", "diff", "product", "uv_diff", "uv_product", "diff_product", "uv_diff_product"
]
"""What a classifier reads of two vectors u and v: both, |u - v|, u * v, side by side."""

WEIGHTS_FILE, CONFIG_FILE = "classifier.safetensors", "classifier.json"


def check_concatenation(value: str) -> None:
    """Check the name of a concatenation.

    Raises:
        ConfigError: there is none of this name.
    """
    names = get_args(Concatenation)
    if value not in names:
        raise ConfigError(
            f"There is no concatenation '{value}'.{suggestion(value, names)} Choose from: "
            f"{', '.join(names)}."
        )


def parts_of(concatenation: str) -> list[str]:
    """Return the parts of a concatenation: "uv_diff" is uv and diff."""
    return concatenation.split("_")


class PairClassifier:
    """Probabilities of classes from two vectors.

    p = softmax(W c + b), or sigmoid(w c + b) where there is one output; c = [u; v; |u - v|; u * v],
    or those of them that `concatenation` names.

    Source: Reimers & Gurevych 2019, "Sentence-BERT", section 3.

    Args:
        linear: The trained layer.
        concatenation: What it reads.
        names: Of the classes; of two outputs or one: not the same, the same.
    """

    def __init__(
        self, linear: nn.Linear, concatenation: Concatenation, names: Sequence[str]
    ) -> None:
        check_concatenation(concatenation)
        self.linear, self.concatenation, self.names = linear, concatenation, tuple(names)

    @torch.inference_mode()
    def probabilities(
        self, firsts_ND: Float[Tensor, "N D"], seconds_ND: Float[Tensor, "N D"]
    ) -> Float[Tensor, "N C"]:
        """Return the classes' probabilities, on the CPU; of one output those of no and yes."""
        device = self.linear.weight.device
        u_ND, v_ND = firsts_ND.float().to(device), seconds_ND.float().to(device)
        made = {
            "uv": [u_ND, v_ND],
            "diff": [(u_ND - v_ND).abs()],
            "product": [u_ND * v_ND],
        }
        read = [part for name in parts_of(self.concatenation) for part in made[name]]
        logits_NC = self.linear(torch.cat(read, dim=1)).float()
        if logits_NC.shape[1] == 1:
            yes_N1 = logits_NC.sigmoid()
            return torch.cat([1 - yes_N1, yes_N1], dim=1).cpu()
        return logits_NC.softmax(dim=1).cpu()

    def save(self, folder: str | Path) -> None:
        """Write weights and description into a folder that exists."""
        folder = Path(folder)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self._tensors().items()}
        save_file(tensors, folder / WEIGHTS_FILE)
        value = {"concatenation": self.concatenation, "names": list(self.names)}
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "PairClassifier":
        """Read what `save` wrote.

        Raises:
            CheckpointError: a file is missing or holds something else.
        """
        folder = Path(folder)
        try:
            value = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            tensors = load_file(folder / WEIGHTS_FILE)
            outputs, inputs = tensors["weight"].shape
            linear = nn.Linear(inputs, outputs)
            linear.load_state_dict(tensors)
            return cls(linear, value["concatenation"], value["names"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder} holds no classifier of pairs that can be read: {error}. Copy the run's "
                "folder again."
            ) from error

    def _tensors(self) -> dict[str, Tensor]:
        return dict(self.linear.state_dict())
