"""Losses with a classifier on both vectors: softmax, binary cross-entropy, focal."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.losses.labels import LabelLossSettings, build_label_loss
from idbert.nn.losses.labels.label_loss import LabelKind, LabelLoss
from idbert.nn.losses.labels.weights import ClassWeights
from idbert.nn.parts import NoOptions
from nlp_tasks.match.losses import MATCH_LOSSES, MatchLoss
from nlp_tasks.match.pair_classifier import Concatenation, check_concatenation, parts_of
from nlp_tasks.match.pairs import PairExamples

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class MeanLoss(nn.Module):
    """A loss over labels as the criterion of sentence-transformers' SoftmaxLoss.

    Args:
        loss: Gives one loss a row.

    Shapes:
        logits_BC, labels [B] -> scalar, the mean over the rows.
    """

    def __init__(self, loss: LabelLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits_BC: Float[Tensor, "B C"], labels: Shaped[Tensor, "B"]) -> Tensor:
        """Return the mean loss."""
        if self.loss.kind == "multi":
            return self.loss(logits_BC, labels[:, None].to(logits_BC.dtype)).mean()
        return self.loss(logits_BC, labels).mean()


class ClassifierLoss(MatchLoss):
    """Base of the losses with a linear classifier on what is made of both vectors.

    Source: Reimers & Gurevych 2019, "Sentence-BERT", section 3, classification objective.
    """

    kinds, inputs, has_classifier = ("binary", "class"), "labelled", True

    def outputs(self, examples: PairExamples) -> int:
        """Return the number of the classifier's outputs."""
        return 2 if examples.kind == "binary" else len(examples.names)

    def criterion(self, examples: PairExamples) -> nn.Module:
        """Return what turns logits and labels into the loss."""
        raise NotImplementedError

    def labels(self, examples: PairExamples) -> Shaped[np.ndarray, "N"]:
        """Return the places of the classes."""
        assert examples.targets is not None
        return examples.targets

    def build(self, model: "SentenceTransformer", examples: PairExamples) -> nn.Module:
        """Build sentence-transformers' SoftmaxLoss with the criterion."""
        from sentence_transformers.sentence_transformer.losses import SoftmaxLoss

        parts = parts_of(self.options.concatenation)
        return SoftmaxLoss(
            model,
            model.get_embedding_dimension(),
            num_labels=self.outputs(examples),
            concatenation_sent_rep="uv" in parts,
            concatenation_sent_difference="diff" in parts,
            concatenation_sent_multiplication="product" in parts,
            loss_fct=self.criterion(examples),
        )


def _label_loss(
    name: str, kind: LabelKind, outputs: int, options: dict[str, Any], targets: np.ndarray
) -> MeanLoss:
    loss = build_label_loss(LabelLossSettings(name, options), kind, outputs)
    given = torch.from_numpy(targets)
    loss.fit_targets(given[:, None] if kind == "multi" else given)
    return MeanLoss(loss)


@MATCH_LOSSES.register("softmax")
class Softmax(ClassifierLoss):
    """Cross-entropy of softmax(W [u; v; |u - v|])."""

    @dataclass(frozen=True)
    class Options(NoOptions):
        """What the classifier reads."""

        concatenation: Concatenation = "uv_diff"
        """Of the vectors u and v, their absolute difference and their product."""

        def __post_init__(self) -> None:
            check_concatenation(self.concatenation)

    def criterion(self, examples: PairExamples) -> nn.Module:
        """Return torch's cross-entropy."""
        return nn.CrossEntropyLoss()


@MATCH_LOSSES.register("bce")
class BinaryCrossEntropy(ClassifierLoss):
    """Binary cross-entropy of sigmoid(w [u; v; |u - v|]); a score is a probability."""

    @dataclass(frozen=True)
    class Options(NoOptions):
        """What the classifier reads, and the weight of pairs that belong together."""

        concatenation: Concatenation = "uv_diff"
        """Of the vectors u and v, their absolute difference and their product."""

        pos_weight: float | int | Literal["balanced"] | None = None
        """Weight of pairs that belong together; "balanced": other pairs / these. Default: 1."""

        def __post_init__(self) -> None:
            check_concatenation(self.concatenation)

    kinds = ("binary", "score")

    def check(self, examples: PairExamples) -> None:
        """Check the kind, and that scores can be probabilities."""
        super().check(examples)
        scores_N = examples.cosine_targets()
        outside = int(((scores_N < 0) | (scores_N > 1)).sum())
        if outside:
            raise ConfigError(
                f"The loss '{self.name}' takes scores for probabilities, and {outside:,} of "
                f"{examples.source} are not from 0 to {examples.max_score:g}. Set "
                "data.max_score, or choose another loss."
            )

    def outputs(self, examples: PairExamples) -> int:
        """Return 1."""
        return 1

    def labels(self, examples: PairExamples) -> Shaped[np.ndarray, "N"]:
        """Return probabilities."""
        return examples.cosine_targets()

    def criterion(self, examples: PairExamples) -> nn.Module:
        """Return the mean binary cross-entropy."""
        weight = self.options.pos_weight
        options = {} if weight is None else {"pos_weight": weight}
        return _label_loss("bce", "multi", 1, options, self.labels(examples))


@MATCH_LOSSES.register("focal")
class Focal(ClassifierLoss):
    """Focal loss of softmax(W [u; v; |u - v|]): sure pairs count less."""

    @dataclass(frozen=True)
    class Options(NoOptions):
        """What the classifier reads, and how the loss is focussed."""

        concatenation: Concatenation = "uv_diff"
        """Of the vectors u and v, their absolute difference and their product."""

        gamma: float = 2.0
        """How strongly pairs that are right already are played down."""

        alpha: ClassWeights = None
        """One number a class, or "balanced". Default: 1."""

        def __post_init__(self) -> None:
            check_concatenation(self.concatenation)

    def criterion(self, examples: PairExamples) -> nn.Module:
        """Return the mean focal loss."""
        options: dict[str, Any] = {"gamma": self.options.gamma}
        if self.options.alpha is not None:
            options["alpha"] = self.options.alpha
        outputs = self.outputs(examples)
        return _label_loss("focal", "single", outputs, options, self.labels(examples))
