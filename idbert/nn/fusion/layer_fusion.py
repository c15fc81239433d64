"""Layer fusion: the hidden states of an encoder's layers become one vector a token.

Fusions are found by name; one more is a class and a registration:

    @FUSIONS.register("product")
    class ProductFusion(LayerFusion):
        def forward(self, hidden_KBLD):
            return math.prod(self._chosen(hidden_KBLD))

A fusion that can be told more than its layers has a nested class `Options`, an object of which its
constructor receives as `options`; without one the constructor is called without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from idbert.errors import ConfigError, ShapeError, suggestion
from idbert.nn.parts import NoOptions, read_options
from idbert.nn.registry import Registry


@dataclass(frozen=True)
class FusionSettings:
    """Which layers of the encoder are read, and how they are joined."""

    name: str = "last"
    """last (the top layer), layer (a chosen one), mean, sum or max (of the layers), mean_max (both,
    side by side), softmax (one learned weight a layer, summing to one), weights (one free weight a
    layer), gate (learned weights, different for every token)."""

    layers: tuple[int, ...] | None = None
    """Layers to join: 0 is the embedding output, 1 the first layer, -1 the last. Default: all."""

    width: int | None = None
    """Width that a dense layer behind the fusion brings the vectors to. Default: no such layer."""

    activation: str | None = None
    """Activation behind that dense layer, by its name in transformers. Default: none."""

    options: dict[str, Any] = field(default_factory=dict)
    """Further options of the fusion, for those that have any."""

    def __post_init__(self) -> None:
        read_fusion_options(self.name, self.options)
        self._check_layers(FUSIONS[self.name])
        if self.width is not None and self.width < 1:
            raise ConfigError(f"The fusion's width is {self.width}; it must be at least 1.")
        if self.activation is not None:
            if self.width is None:
                raise ConfigError(
                    f"The fusion's activation '{self.activation}' cannot act without a dense "
                    "layer. Give the fusion a width too."
                )
            if self.activation not in ACT2FN:
                raise ConfigError(
                    f"There is no activation '{self.activation}'."
                    f"{suggestion(self.activation, ACT2FN)} "
                    f"Choose from: {', '.join(sorted(ACT2FN))}."
                )

    def _check_layers(self, fusion: "type[LayerFusion]") -> None:
        if self.layers is None:
            if fusion.max_layers is not None:
                raise ConfigError(
                    f"The fusion '{self.name}' must be told which layer to read, such as "
                    "layers=(-2,) for the last but one."
                )
            return
        if not fusion.needs_all_states:
            raise ConfigError(
                f"The fusion '{self.name}' reads no layer but the last, so layers={self.layers} "
                "cannot act. Leave layers out, or choose another fusion."
            )
        if len(self.layers) < fusion.min_layers:
            raise ConfigError(
                f"The fusion '{self.name}' needs at least {fusion.min_layers} layers, "
                f"not layers={self.layers}."
            )
        if fusion.max_layers is not None and len(self.layers) > fusion.max_layers:
            raise ConfigError(
                f"The fusion '{self.name}' reads no more than {fusion.max_layers} of the layers, "
                f"not layers={self.layers}. Name fewer, or choose another fusion."
            )


class LayerFusion(nn.Module):
    """Base of all fusions: chooses the layers; `forward` of the subclass joins them.

    Args:
        num_states: K, the embedding output plus every layer.
        hidden_size: D, the width of the hidden states.
        layers: Indices into the K states, negative ones from the end; None for all.

    Raises:
        ConfigError: a layer is out of range or named twice.
    """

    Options: ClassVar[type[NoOptions]] = NoOptions
    """The fusion's options; a frozen dataclass in a subclass that has any."""

    needs_all_states: bool = True
    """False for a fusion that is called with the last state alone."""

    min_layers: ClassVar[int] = 1
    """The fewest layers with which the fusion's own parameters can act."""

    max_layers: ClassVar[int | None] = None
    """The most layers that it reads; with a limit the layers must be named."""

    def __init__(
        self, num_states: int, hidden_size: int, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.num_states = num_states
        self.hidden_size = hidden_size
        self.layers = resolve_layers(layers, num_states)
        self.width = hidden_size
        """Width of the fused vectors; set anew by a fusion that changes it."""

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L _"]:
        """Return the fused states; `hidden_KBLD` holds the embedding output and every layer."""
        raise NotImplementedError

    def weights(self) -> Float[Tensor, "K"] | None:
        """Return the learned weights of `layers`; None where a layer has no weight of its own."""
        return None

    def _chosen(
        self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]
    ) -> list[Float[Tensor, "B L D"]]:
        if len(hidden_KBLD) != self.num_states:
            raise ShapeError(
                f"{type(self).__name__} was built for {self.num_states} hidden states (the "
                f"embedding output and every layer) and received {len(hidden_KBLD)}."
            )
        return [hidden_KBLD[layer] for layer in self.layers]


FUSIONS: Registry[type[LayerFusion]] = Registry("fusion")


class ProjectedFusion(LayerFusion):
    """A fusion and behind it a dense layer to another width.

    projected = activation(W fused + b)

    Args:
        fusion: What is projected.
        width: Width of the result.
        activation: Its name in transformers; None for none.

    Shapes:
        hidden_KBLD -> [B, L, width].
    """

    def __init__(self, fusion: LayerFusion, width: int, activation: str | None) -> None:
        super().__init__(fusion.num_states, fusion.hidden_size, fusion.layers)
        self.needs_all_states = fusion.needs_all_states
        self.fusion = fusion
        self.dense = nn.Linear(fusion.width, width)
        self.activation: nn.Module = nn.Identity() if activation is None else ACT2FN[activation]
        self.width = width

    def forward(self, hidden_KBLD: Sequence[Float[Tensor, "B L D"]]) -> Float[Tensor, "B L _"]:
        """Return the fused states, projected."""
        projected_BLX: Tensor = self.activation(self.dense(self.fusion(hidden_KBLD)))
        return projected_BLX

    def weights(self) -> Float[Tensor, "K"] | None:
        """Return those of the fusion."""
        return self.fusion.weights()


def build_fusion(
    name: str,
    num_states: int,
    hidden_size: int,
    layers: Sequence[int] | None = None,
    *,
    width: int | None = None,
    activation: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> LayerFusion:
    """Build the fusion registered as `name`, and the dense layer behind it if it gets a width.

    Args:
        name: One of FUSIONS.
        num_states: K, the embedding output plus every layer.
        hidden_size: D, the width of the hidden states.
        layers: Indices into the K states, negative ones from the end; None for all.
        width: Width of the result; None for what the fusion gives.
        activation: Behind the dense layer.
        options: Of the fusion, as plain values.

    Raises:
        ConfigError: no fusion has this name, or the layers, the width or the options do not fit.
    """
    chosen = None if layers is None else tuple(layers)
    settings = FusionSettings(name, chosen, width, activation, dict(options or {}))
    read = read_fusion_options(name, settings.options)
    fusion_class: Any = FUSIONS[name]
    more = {} if fusion_class.Options is NoOptions else {"options": read}
    fusion: LayerFusion = fusion_class(num_states, hidden_size, settings.layers, **more)
    return fusion if width is None else ProjectedFusion(fusion, width, activation)


def read_fusion_options(name: str, options: Mapping[str, Any] | None) -> NoOptions:
    """Turn plain values into the options of the fusion registered as `name`.

    Raises:
        ConfigError: no fusion has this name, or an option is unknown, of the wrong type or out of
            range.
    """
    return read_options(f"fusion '{name}'", FUSIONS[name].Options, options)


def resolve_layers(layers: Sequence[int] | None, num_states: int) -> tuple[int, ...]:
    """Return the layers' indices from 0, in ascending order; all of them for None.

    Args:
        layers: Indices into the hidden states, negative ones from the end.
        num_states: K, the embedding output plus every layer.

    Raises:
        ConfigError: a layer is out of range or named twice.
    """
    if layers is None:
        return tuple(range(num_states))
    outside = [layer for layer in layers if not -num_states <= layer < num_states]
    if outside:
        raise ConfigError(
            f"Fusion layers {outside} do not exist: the encoder has {num_states} states, 0 (the "
            f"embedding output) to {num_states - 1} (the last layer), or -{num_states} to -1."
        )
    resolved = sorted({layer % num_states for layer in layers})
    if len(resolved) < len(layers):
        raise ConfigError(f"Fusion layers {list(layers)} name a layer twice. Name each once.")
    return tuple(resolved)
