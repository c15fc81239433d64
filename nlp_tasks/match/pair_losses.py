"""Losses over cosines and distances: those of sentence-transformers, under our options."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

from idbert.errors import ConfigError
from idbert.nn.parts import NoOptions
from nlp_tasks.match.losses import ALL_KINDS, IN_WORDS, MATCH_LOSSES, MatchLoss
from nlp_tasks.match.pairs import PairExamples

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Distance = Literal["cosine", "euclidean", "manhattan"]

COSINE_DISTANCES = {
    "cosine": "COSINE_DISTANCE",
    "euclidean": "EUCLIDEAN",
    "manhattan": "MANHATTAN",
}
TRIPLET_DISTANCES = COSINE_DISTANCES | {"cosine": "COSINE"}


@MATCH_LOSSES.register("cosine_mse")
class CosineMse(MatchLoss):
    """(cos(u, v) - target)^2; scores are divided by the largest.

    Source: Reimers & Gurevych 2019, "Sentence-BERT", section 3, regression objective.
    """

    kinds, inputs = ("binary", "score"), "labelled"

    def build(self, model: "SentenceTransformer", examples: PairExamples) -> nn.Module:
        """Build sentence-transformers' CosineSimilarityLoss."""
        from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

        return CosineSimilarityLoss(model)


@MATCH_LOSSES.register("cosent")
class Cosent(MatchLoss):
    """log(1 + sum exp((cos_k - cos_i) / temperature)) over pairs of pairs with target_i > target_k.

    Source: Su 2022, "CoSENT".
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """The scale of cosines."""

        temperature: float = 0.05
        """What cosines are divided by."""

        def __post_init__(self) -> None:
            _check_above_0("temperature", self.temperature)

    kinds, inputs = ("binary", "score"), "labelled"

    def build(self, model: "SentenceTransformer", examples: PairExamples) -> nn.Module:
        """Build sentence-transformers' CoSENTLoss."""
        from sentence_transformers.sentence_transformer.losses import CoSENTLoss

        return CoSENTLoss(model, scale=1 / self.options.temperature)


@MATCH_LOSSES.register("contrastive")
class Contrastive(MatchLoss):
    """d^2 / 2 for pairs that belong together, max(0, margin - d)^2 / 2 for others.

    Source: Hadsell et al. 2006, "Dimensionality Reduction by Learning an Invariant Mapping".
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Distance and margin."""

        margin: float = 0.5
        """Other pairs shall be so far apart."""

        distance: Distance = "cosine"
        """cosine (1 minus it), euclidean or manhattan."""

        def __post_init__(self) -> None:
            _check_above_0("margin", self.margin)

    kinds, inputs = ("binary",), "labelled"

    def build(self, model: "SentenceTransformer", examples: PairExamples) -> nn.Module:
        """Build sentence-transformers' ContrastiveLoss."""
        from sentence_transformers.sentence_transformer.losses import (
            ContrastiveLoss,
            SiameseDistanceMetric,
        )

        metric = getattr(SiameseDistanceMetric, COSINE_DISTANCES[self.options.distance])
        return ContrastiveLoss(model, distance_metric=metric, margin=self.options.margin)


Positive = float | int | str | None


def _check_positive(loss: MatchLoss, examples: PairExamples) -> None:
    """Check that it can be told which pairs belong together."""
    given = loss.options.positive
    says = examples.kind in ("none", "binary")
    if says and given is not None:
        raise ConfigError(
            f"positive={given!r} cannot act on pairs that {IN_WORDS[examples.kind]}. Leave it out."
        )
    if not says and given is None:
        which = "class" if examples.kind == "class" else "least score"
        raise ConfigError(
            f"The loss '{loss.name}' reads pairs that belong together, and those of "
            f"{examples.source} {IN_WORDS[examples.kind]}. Give the {which} that counts as "
            "loss.options.positive."
        )
    if not len(loss.positives(examples)):
        raise ConfigError(
            f"No pair of {examples.source} belongs together (positive={given!r}), so the loss "
            f"'{loss.name}' has nothing to train on."
        )


@MATCH_LOSSES.register("triplet")
class Triplet(MatchLoss):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), for every hard negative.

    Source: Schroff et al. 2015, "FaceNet", equation 3.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Distance and margin."""

        margin: float = 0.2
        """How much farther the negative shall be."""

        distance: Distance = "cosine"
        """cosine (1 minus it), euclidean or manhattan."""

        positive: Positive = None
        """Which pairs belong together: the least score, or the class. 0 and 1 say it themselves."""

        def __post_init__(self) -> None:
            _check_above_0("margin", self.margin)

    kinds, inputs = ALL_KINDS, "triplets"

    def check(self, examples: PairExamples) -> None:
        """Check negatives, and that it is known which pairs belong together."""
        super().check(examples)
        _check_positive(self, examples)

    def build(self, model: "SentenceTransformer", examples: PairExamples) -> nn.Module:
        """Build sentence-transformers' TripletLoss."""
        from sentence_transformers.sentence_transformer.losses import (
            TripletDistanceMetric,
            TripletLoss,
        )

        metric = getattr(TripletDistanceMetric, TRIPLET_DISTANCES[self.options.distance])
        return TripletLoss(model, distance_metric=metric, triplet_margin=self.options.margin)


@MATCH_LOSSES.register("in_batch")
class InBatch(MatchLoss):
    """Cross-entropy of softmax(cos(anchor, text) / temperature) over the batch's second texts.

    The hard negatives of all its pairs are among these texts.

    Source: Henderson et al. 2017, "Efficient Natural Language Response Suggestion", section 4.4.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """Temperature, negatives, positives."""

        temperature: float = 0.05
        """What cosines are divided by."""

        hard_negatives: int | None = None
        """How many of each row are read; a row with fewer repeats its own, and one without any is
        left out. 0: none. Default: as many as the row with the most has."""

        positive: Positive = None
        """Which pairs belong together: the least score, or the class. 0 and 1 say it themselves."""

        def __post_init__(self) -> None:
            _check_above_0("temperature", self.temperature)
            if self.hard_negatives is not None and self.hard_negatives < 0:
                raise ConfigError(
                    f"hard_negatives is {self.hard_negatives}; it must be at least 0."
                )

    kinds, inputs, batch_gives_negatives = ALL_KINDS, "positives", True

    def check(self, examples: PairExamples) -> None:
        """Check that it is known which pairs belong together, and that there are negatives."""
        super().check(examples)
        _check_positive(self, examples)
        if self.options.hard_negatives and not examples.negatives:
            raise ConfigError(
                f"hard_negatives={self.options.hard_negatives} cannot act: {examples.source} names "
                "none. Name their column with data.negatives_column, or have them mined."
            )

    def build(self, model: "SentenceTransformer", examples: PairExamples) -> nn.Module:
        """Build sentence-transformers' MultipleNegativesRankingLoss."""
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        return MultipleNegativesRankingLoss(model, scale=1 / self.options.temperature)


@MATCH_LOSSES.register("simcse")
class SimCse(MatchLoss):
    """In-batch negatives of texts that are read twice, under two draws of dropout; without labels.

    Source: Gao et al. 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings".
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """The scale of cosines."""

        temperature: float = 0.05
        """What cosines are divided by."""

        def __post_init__(self) -> None:
            _check_above_0("temperature", self.temperature)

    kinds, inputs, batch_gives_negatives = ALL_KINDS, "texts", True

    def build(self, model: "SentenceTransformer", examples: PairExamples) -> nn.Module:
        """Build sentence-transformers' MultipleNegativesRankingLoss."""
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        return MultipleNegativesRankingLoss(model, scale=1 / self.options.temperature)


def _check_above_0(name: str, value: float | int) -> None:
    if not value > 0:
        raise ConfigError(f"{name} is {value}; it must be above 0.")
