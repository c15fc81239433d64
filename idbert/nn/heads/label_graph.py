"""A graph of labels that occur together."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from idbert.errors import ConfigError
from idbert.nn.heads.head import HEADS
from idbert.nn.heads.label_head import LabelHead
from idbert.nn.heads.options import check_least
from idbert.nn.parts import NoOptions


def co_occurrence(labels_NC: Float[Tensor, "N C"]) -> Float[Tensor, "C C"]:
    """Return P(label j | label i) in row i and column j; 0 in the row of a label never borne.

    Args:
        labels_NC: 1 where a row bears a label, else 0.
    """
    pairs_CC = labels_NC.T @ labels_NC
    return pairs_CC / pairs_CC.diagonal().clamp(min=1.0)[:, None]


def label_graph(
    given_CC: Float[Tensor, "C C"], threshold: float, neighbour_share: float
) -> Float[Tensor, "C C"]:
    """Return the weights with which each label reads the others; every row sums to 1.

    The neighbours of label i are the labels j with P(j | i) >= threshold. They share
    neighbour_share evenly and the label itself keeps the rest, or all if it has no neighbour.

    Args:
        given_CC: P(j | i), as from `co_occurrence`.
        threshold: Least probability of an edge.
        neighbour_share: Share of all neighbours together.

    Source: Chen et al. 2019 (ML-GCN), equations 7 and 8.
    """
    is_edge_CC: Bool[Tensor, "C C"] = given_CC >= threshold
    is_edge_CC.fill_diagonal_(False)
    degree_C1 = is_edge_CC.sum(dim=1, keepdim=True)
    graph_CC = neighbour_share * is_edge_CC / degree_C1.clamp(min=1)
    return graph_CC + (1.0 - graph_CC.sum(dim=1)).diag()


@HEADS.register("label_graph")
class LabelGraphHead(LabelHead):
    """The classifier of each label is computed from the label's vector and those of its neighbours.

    logits = x Z_2^T + b, Z_{n+1} = LeakyReLU(A Z_n W_n), the last without activation. A is the
    graph of labels that occur together in the training rows, Z_0 a learned vector a label,
    normalised to mean 0 and variance 1.

    Source: Chen et al. 2019, "Multi-Label Image Recognition with Graph Convolutional Networks"
    (ML-GCN), with learned label vectors in place of word vectors.

    Shapes:
        pooled_BD -> logits_BC.
    """

    @dataclass(frozen=True)
    class Options(NoOptions):
        """The graph and its convolutions."""

        hidden_size: int = 128
        """Width of the labels' vectors and between the two convolutions."""

        threshold: float = 0.4
        """Least P(label j | label i) for an edge from i to j."""

        neighbour_share: float = 0.2
        """Share of its neighbours in what a label reads."""

        def __post_init__(self) -> None:
            check_least("hidden_size", 2, self.hidden_size)
            for name in ("threshold", "neighbour_share"):
                if not 0.0 < getattr(self, name) <= 1.0:
                    raise ConfigError(
                        f"{name} of the head 'label_graph' is {getattr(self, name)}; choose from "
                        "above 0 to 1."
                    )

    graph_CC: Tensor

    def __init__(self, input_width: int, num_outputs: int, options: Options) -> None:
        super().__init__(input_width, num_outputs, options)
        self.threshold, self.neighbour_share = options.threshold, options.neighbour_share
        self.labels = nn.Embedding(num_outputs, options.hidden_size)
        self.inner = nn.Linear(options.hidden_size, options.hidden_size, bias=False)
        self.outer = nn.Linear(options.hidden_size, input_width, bias=False)
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        self.register_buffer("graph_CC", torch.eye(num_outputs))

    def fit_labels(self, labels_NC: Float[Tensor, "N C"]) -> None:
        """Draw the graph of the labels that occur together."""
        given_CC = co_occurrence(labels_NC)
        self.graph_CC.copy_(label_graph(given_CC, self.threshold, self.neighbour_share))

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the logits of each row."""
        self.check_fitted()
        labels_CD = F.layer_norm(self.labels.weight, self.labels.weight.shape[1:])
        hidden_CD = F.leaky_relu(self.inner(self.graph_CC @ labels_CD), 0.2)
        classifiers_CD = self.outer(self.graph_CC @ hidden_CD)
        return F.linear(pooled_BD, classifiers_CD, self.bias)
