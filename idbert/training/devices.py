"""Where a training computes."""

import torch


def device_type(asked: str) -> str:
    """Return cpu or cuda (ROCm's GPUs are called so too); no other accelerators were ever tried.

    Args:
        asked: the setting `device` of a training.
    """
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"
