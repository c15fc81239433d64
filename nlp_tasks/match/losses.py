"""Losses of pairs, found by name: what each reads, what it can be told, and how it is built.

One more is a class and a registration:

    @MATCH_LOSSES.register("my_loss")
    class MyLoss(MatchLoss):
        kinds, inputs = ("binary",), "labelled"

        def build(self, model, examples):
            return TorchModuleOfMine(model)
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Shaped
from torch import nn

from idbert.errors import ConfigError, suggestion
from idbert.nn.parts import NoOptions, read_options
from idbert.nn.registry import Registry
from nlp_tasks.match.pairs import PairExamples, PairKind
from nlp_tasks.match.settings import LossInputs, MatchLossSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ALL_KINDS: tuple[PairKind, ...] = ("binary", "score", "class", "none")

IN_WORDS: dict[PairKind, str] = {
    "binary": "are labelled 0 and 1",
    "score": "have scores",
    "class": "have classes",
    "none": "have no labels",
}

DEFAULT_LOSS: dict[PairKind, str] = {
    "binary": "cosent",
    "score": "cosent",
    "class": "softmax",
    "none": "in_batch",
}
"""The loss of each kind of pairs where none is named."""


class MatchLoss:
    """Base of all losses of pairs: says what it reads, and builds the module that computes it.

    The module is called as sentence-transformers calls its losses: with the features of each
    column of the training set, and the labels.

    Args:
        name: What messages call it.
        options: An instance of the class's `Options`.
    """

    Options: ClassVar[type[NoOptions]] = NoOptions
    """What the loss can be told; a frozen dataclass."""

    kinds: tuple[PairKind, ...]
    """The kinds of pairs that it can be trained on."""

    inputs: LossInputs
    """What it reads of them."""

    has_classifier: ClassVar[bool] = False
    """Whether a classifier on both vectors is trained with it, as `module.classifier`."""

    batch_gives_negatives: bool = False
    """Whether the other texts of a batch are taken for negatives."""

    def __init__(self, name: str, options: Any) -> None:
        self.name, self.options = name, options

    def build(self, model: "SentenceTransformer", examples: PairExamples) -> nn.Module:
        """Return the module that computes the loss.

        Args:
            model: The towers to be trained.
            examples: All training pairs.
        """
        raise NotImplementedError

    def labels(self, examples: PairExamples) -> Shaped[np.ndarray, "N"]:
        """Return what a module reads as labels; asked for only where `inputs` is "labelled"."""
        return examples.cosine_targets()

    def positives(self, examples: PairExamples) -> PairExamples:
        """Return the pairs that belong together; those of kind "none" and "binary" say so."""
        return examples.positives(getattr(self.options, "positive", None))

    def check(self, examples: PairExamples) -> None:
        """Check that the loss can be trained on such pairs.

        Raises:
            ConfigError: it cannot.
        """
        if examples.kind not in self.kinds:
            fitting = [name for name in MATCH_LOSSES if examples.kind in MATCH_LOSSES[name].kinds]
            raise ConfigError(
                f"The loss '{self.name}' cannot be trained on pairs that "
                f"{IN_WORDS[examples.kind]}, as those of {examples.source}. Choose from: "
                f"{', '.join(fitting)}."
            )
        targets = examples.targets
        if self.inputs == "labelled" and targets is not None and (targets == targets[:1]).all():
            raise ConfigError(
                f"The loss '{self.name}' learns from labels that differ, and all {len(examples):,} "
                f"pairs of {examples.source} have the same. Give others too; if all belong "
                "together, set data.label_column to null."
            )
        if self.inputs in ("labelled", "texts") and examples.negatives is not None:
            raise ConfigError(
                f"The loss '{self.name}' reads no hard negatives, and {examples.source} has some. "
                "Choose a loss that does, such as in_batch or triplet, or leave out mining.method, "
                "data.negatives_column and data.labelled_negatives."
            )
        if self.inputs == "triplets" and not examples.negatives:
            raise ConfigError(
                f"The loss '{self.name}' needs a negative for each pair, and {examples.source} "
                "names none. Name their column with data.negatives_column, or have them mined."
            )


MATCH_LOSSES: Registry[type[MatchLoss]] = Registry("loss of pairs")

KNOWN_CLASSES: dict[str, tuple[LossInputs, tuple[PairKind, ...], bool]] = {
    "AnglELoss": ("labelled", ("binary", "score"), False),
    "CoSENTLoss": ("labelled", ("binary", "score"), False),
    "CosineSimilarityLoss": ("labelled", ("binary", "score"), False),
    "ContrastiveLoss": ("labelled", ("binary",), False),
    "OnlineContrastiveLoss": ("labelled", ("binary",), False),
    "TripletLoss": ("triplets", ("binary", "none"), False),
    "MegaBatchMarginLoss": ("positives", ("binary", "none"), True),
    "MultipleNegativesRankingLoss": ("positives", ("binary", "none"), True),
    "MultipleNegativesSymmetricRankingLoss": ("positives", ("binary", "none"), True),
    "CachedMultipleNegativesRankingLoss": ("positives", ("binary", "none"), True),
    "CachedMultipleNegativesSymmetricRankingLoss": ("positives", ("binary", "none"), True),
}
"""Classes of sentence-transformers: what each reads, of which kinds, and whether a batch gives the
negatives."""

UNFIT_CLASSES = {
    "SoftmaxLoss": "Choose softmax, which is this loss, and whose classifier is kept",
    "MatryoshkaLoss": "Name the loss that it is to go round, and give matryoshka widths",
    "Matryoshka2dLoss": "It goes round another loss: give matryoshka widths to that one",
    "AdaptiveLayerLoss": "It goes round another loss, which cannot be said here",
    "BatchAllTripletLoss": "It reads single texts with classes: make pairs of them for in_batch",
    "BatchHardTripletLoss": "It reads single texts with classes: make pairs of them for in_batch",
    "BatchHardSoftMarginTripletLoss": "It reads single texts with classes: make pairs of them",
    "BatchSemiHardTripletLoss": "It reads single texts with classes: make pairs of them",
    "DenoisingAutoEncoderLoss": "It needs a decoder and noisy texts. Choose simcse",
    "ContrastiveTensionLoss": "It needs a loader of its own. Choose simcse",
    "ContrastiveTensionLossInBatchNegatives": "It needs a loader of its own. Choose simcse",
}
"""Classes of sentence-transformers that pairs alone cannot train, and what to do."""


class NamedLoss(MatchLoss):
    """A class of sentence-transformers' losses; its options are the arguments of the class."""

    options: Mapping[str, Any]

    def __init__(self, name: str, options: Mapping[str, Any], inputs: LossInputs | None) -> None:
        super().__init__(name, dict(options))
        known = KNOWN_CLASSES.get(name)
        if known is None:
            assert inputs is not None  # `check_loss` has asked for it
            self.inputs, self.kinds = inputs, ALL_KINDS
            self.batch_gives_negatives = inputs in ("positives", "texts")
            if inputs == "labelled":
                self.kinds = ("binary", "score")
        else:
            self.inputs, self.kinds, self.batch_gives_negatives = known

    def build(self, model: "SentenceTransformer", examples: PairExamples) -> nn.Module:
        """Build the class with the options as its arguments."""
        try:
            loss: nn.Module = published_losses()[self.name](model=model, **self.options)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"The loss '{self.name}' of sentence-transformers cannot be built with "
                f"{dict(self.options)}: {error}"
            ) from error
        return loss


def published_losses() -> dict[str, type[nn.Module]]:
    """Return the classes of sentence-transformers' losses by name."""
    from sentence_transformers.sentence_transformer import losses

    named = {name: getattr(losses, name) for name in losses.__all__}
    return {
        name: found
        for name, found in named.items()
        if inspect.isclass(found) and issubclass(found, nn.Module)
    }


def check_loss(name: str | None, options: Mapping[str, Any], inputs: LossInputs | None) -> None:
    """Check name and options of a loss.

    Raises:
        ConfigError: there is no such loss or option, or one cannot act.
    """
    from nlp_tasks.match import classifier_losses, pair_losses  # noqa: F401  (they register)

    if name is None:
        if options or inputs is not None:
            raise ConfigError("Options of a loss and what it reads cannot act without its name.")
        return
    if name in MATCH_LOSSES:
        read_options(f"loss '{name}'", MATCH_LOSSES[name].Options, options)
        if inputs is not None:
            raise ConfigError(
                f"inputs={inputs} cannot act on the loss '{name}', which reads "
                f"{MATCH_LOSSES[name].inputs}. Leave it out."
            )
        return
    theirs = published_losses()
    if name not in theirs:
        names = [*MATCH_LOSSES, *sorted(KNOWN_CLASSES)]
        raise ConfigError(
            f"There is no loss of pairs '{name}'.{suggestion(name, [*names, *theirs])} "
            f"Choose from: {', '.join(names)}, or another class of sentence-transformers' losses."
        )
    if name in UNFIT_CLASSES:
        raise ConfigError(f"The loss '{name}' cannot be named here. {UNFIT_CLASSES[name]}.")
    arguments = [*inspect.signature(theirs[name].__init__).parameters][2:]
    unknown = [option for option in options if option not in arguments]
    if unknown:
        raise ConfigError(
            f"The loss '{name}' has no option '{unknown[0]}'.{suggestion(unknown[0], arguments)} "
            f"Its options: {', '.join(arguments)}."
        )
    if name in KNOWN_CLASSES and inputs is not None:
        raise ConfigError(
            f"inputs={inputs} cannot act on the loss '{name}', which reads "
            f"{KNOWN_CLASSES[name][0]}. Leave it out."
        )
    if name not in KNOWN_CLASSES and inputs is None:
        raise ConfigError(
            f"It is not known here what the loss '{name}' of sentence-transformers reads. Say so "
            "with inputs: labelled, positives, triplets or texts."
        )


def find_loss(settings: MatchLossSettings, examples: PairExamples) -> MatchLoss:
    """Return the loss that the settings name, or the usual one for such pairs.

    Args:
        settings: Name and options.
        examples: The training pairs.

    Raises:
        ConfigError: it cannot be trained on them, or a setting cannot act.
    """
    name = settings.name or DEFAULT_LOSS[examples.kind]
    if name in MATCH_LOSSES:
        found = MATCH_LOSSES[name]
        loss = found(name, read_options(f"loss '{name}'", found.Options, settings.options))
    else:
        loss = NamedLoss(name, settings.options, settings.inputs)
    loss.check(examples)
    if settings.matryoshka is not None and loss.has_classifier:
        raise ConfigError(
            f"matryoshka={list(settings.matryoshka)} cannot act on the loss '{name}', whose "
            "classifier reads vectors of one width. Choose a loss over cosines."
        )
    return loss


def build_loss(
    loss: MatchLoss,
    model: "SentenceTransformer",
    examples: PairExamples,
    matryoshka: tuple[int, ...] | None = None,
) -> nn.Module:
    """Build the module that computes a loss, for several widths of the vectors if asked for.

    Source: Kusupati et al. 2022, "Matryoshka Representation Learning".

    Args:
        loss: From `find_loss`.
        model: The towers to be trained.
        examples: All training pairs.
        matryoshka: Widths beside the full one.

    Raises:
        ConfigError: a width is not below the vectors' own.
    """
    module = loss.build(model, examples)
    if matryoshka is None:
        return module
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    full = model.get_embedding_dimension()
    too_wide = [width for width in matryoshka if width >= full]
    if too_wide:
        raise ConfigError(
            f"matryoshka names the width {too_wide[0]}, and the vectors have {full}, which is "
            "trained anyway. Give smaller ones."
        )
    return MatryoshkaLoss(model, module, matryoshka_dims=[*sorted(matryoshka), full])
