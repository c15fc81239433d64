"""What stands on an encoder: layer fusion, then a block with a path past it."""

from dataclasses import dataclass, field

import torch

from idbert.errors import ConfigError
from idbert.nn.blocks import BlockSettings, build_block
from idbert.nn.blocks.block import NO_BLOCK
from idbert.nn.encoder_config import EncoderConfig, plain_options
from idbert.nn.fusion import FusionSettings, LayerFusion, build_fusion, resolve_layers
from idbert.nn.residual import ResidualSettings, ResidualWrapper


@dataclass(frozen=True)
class StructureSettings:
    """What stands on the encoder, whether it is built anew or opened with trained weights.

    Raises:
        ConfigError: a value is out of range, or a setting cannot act beside the others.
    """

    fusion: FusionSettings = field(default_factory=FusionSettings)
    """How the layers' hidden states are joined."""

    block: BlockSettings = field(default_factory=BlockSettings)
    """Which block reads the fused states."""

    residual: ResidualSettings = field(default_factory=ResidualSettings)
    """How the block's output is joined with its input."""

    def __post_init__(self) -> None:
        if self.block.name == NO_BLOCK and self.residual != ResidualSettings():
            raise ConfigError(
                f"residual '{self.residual.name}'{' with a gate' if self.residual.gate else ''} "
                "cannot act without a block to lead past. Name a block, or leave it out."
            )

    def apply_to(self, config: EncoderConfig) -> None:
        """Write these settings into the config of an encoder.

        Args:
            config: Of an encoder that is built, or that was opened; its own structure is replaced.

        Raises:
            ConfigError: the settings do not fit its layers, its width or its direction.
        """
        # Checked first, since it is the config's own num_states that the layers must fit.
        resolve_layers(self.fusion.layers, config.num_states)
        config.fusion = self.fusion.name
        config.fusion_layers = None if self.fusion.layers is None else list(self.fusion.layers)
        config.fusion_width = self.fusion.width
        config.fusion_activation = self.fusion.activation
        config.fusion_options = plain_options(self.fusion.options)
        config.block = self.block.name
        config.block_width = self.block.width
        config.block_options = plain_options(self.block.options)
        config.residual = self.residual.name
        config.residual_gate = self.residual.gate
        with torch.device("meta"):  # shapes without numbers: every part checks its widths
            build_structure(config)


def build_structure(config: EncoderConfig) -> tuple[LayerFusion, ResidualWrapper | None]:
    """Build the fusion and, where the config names one, the block with its path.

    Raises:
        ConfigError: a part is unknown or does not fit what it reads, or a block looks ahead in a
            causal model.
    """
    fusion = build_fusion(
        config.fusion,
        config.num_states,
        config.hidden_size,
        config.fusion_layers,
        width=config.fusion_width,
        activation=config.fusion_activation,
        options=config.fusion_options,
    )
    if config.block == NO_BLOCK:
        return fusion, None
    block = build_block(
        config.block,
        fusion.width,
        config.block_width,
        config.block_options,
        is_causal=config.is_causal,
    )
    return fusion, ResidualWrapper(block, fusion.width, config.residual, config.residual_gate)
