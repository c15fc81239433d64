"""Blocks behind the encoder, found by name; importing this package registers them all."""

from idbert.nn.blocks import (
    convolution,
    dgcnn,
    idcnn,
    recurrent,
    rtransformer,
    tener,
    transformer,
)
from idbert.nn.blocks.block import BLOCKS, Block, BlockSettings, build_block

__all__ = [
    "BLOCKS",
    "Block",
    "BlockSettings",
    "build_block",
    "convolution",
    "dgcnn",
    "idcnn",
    "recurrent",
    "rtransformer",
    "tener",
    "transformer",
]
