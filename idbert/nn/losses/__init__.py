"""Losses, one file a family."""

from idbert.nn.losses import binary, catalogue, sampled  # noqa: F401  (each registers its losses)
