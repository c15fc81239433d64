"""One training of `benchmarks.quality`, in a process of its own.

    python -m benchmarks.quality_work idbert|torch THREADS ARGUMENTS

The arguments are those of pipelines.rec_pretrain.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from idbert.nn.attention import SelfAttention
from pipelines import rec_pretrain
from pipelines.cli import run_command

PATHS = ("idbert", "torch")


@contextmanager
def plain_operations() -> Iterator[None]:
    """Let a training take torch's own operations in the place of ours.

    Products by torch's choice of library, torch's dropout, its fused attention, and the last layer
    at every position. What a loss is and which items are masked stays as it is.
    """

    def everywhere(wanted_BL: Tensor) -> None:
        return None

    with (
        mock.patch("idbert.nn.products.onednn_is_faster", lambda: False),
        mock.patch("idbert.nn.dropout.dropout", F.dropout),
        mock.patch("idbert.nn.attention.drop", F.dropout),
        mock.patch.object(SelfAttention, "_suits_cpu_attention", lambda *_: False),
        mock.patch("idbert.nn.item_models.asked_at", everywhere),
    ):
        yield


def main() -> None:
    """Train, and evaluate on the validation part."""
    path, threads, *arguments = sys.argv[1:]
    torch.set_num_threads(int(threads))
    sys.argv[1:] = arguments
    if path == "torch":
        with plain_operations():
            run_command(rec_pretrain.main, rec_pretrain.RecPretrainSettings)
    run_command(rec_pretrain.main, rec_pretrain.RecPretrainSettings)


if __name__ == "__main__":
    main()
