"""One set of settings for each registered part, so that a new part is tested at once."""

from idbert.nn.blocks import BLOCKS, BlockSettings
from idbert.nn.fusion import FUSIONS, FusionSettings
from idbert.nn.pooling import POOLINGS
from idbert.nn.residual import RESIDUAL_MODES, ResidualSettings
from idbert.nn.structure import StructureSettings

RESIDUALS = [
    ResidualSettings(mode, gate)
    for mode in RESIDUAL_MODES
    for gate in (False, True)
    if not (mode == "none" and gate)
]


def fusion_settings(name: str, **changes) -> FusionSettings:
    """The fusion over all layers; one that reads only a few, over the topmost."""
    limit = FUSIONS[name].max_layers
    layers = None if limit is None else tuple(range(-limit, 0))
    return FusionSettings(**{"name": name, "layers": layers} | changes)


def structures() -> dict[str, StructureSettings]:
    """Every fusion, with and without another width; every residual; every block."""
    cases = {f"fusion-{name}": StructureSettings(fusion_settings(name)) for name in FUSIONS}
    narrow = fusion_settings("gate", width=6, activation="relu")
    cases["fusion-gate-narrow"] = StructureSettings(narrow)
    for residual in RESIDUALS:
        width = None if residual.name == "sum" else 16
        name = f"residual-{residual.name}{'-gate' * residual.gate}"
        cases[name] = StructureSettings(block=BlockSettings("lstm", width), residual=residual)
    for name in BLOCKS:
        cases[f"block-{name}"] = StructureSettings(block=BlockSettings(name))
    wide = BlockSettings("textcnn", 6)
    concat = ResidualSettings("concat", gate=True)
    cases["all"] = StructureSettings(fusion_settings("mean_max"), wide, concat)
    return cases


STRUCTURES = structures()
CAUSAL = {
    name: structure
    for name, structure in STRUCTURES.items()
    if structure.block.name == "none" or BLOCKS[structure.block.name].supports_causal
}
POOLING_NAMES = list(POOLINGS)
