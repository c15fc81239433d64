"""The mode of a model: training or evaluation, part by part."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Let a model compute without dropout inside the block; each part is then as it was.

    Parts may be in different modes: a frozen encoder without dropout, below a head with it.
    """
    modes = [(part, part.training) for part in model.modules()]
    model.train(False)
    try:
        yield
    finally:
        for part, was_training in modes:
            part.training = was_training
