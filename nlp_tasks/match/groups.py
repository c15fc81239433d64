"""Pairs as a graph: texts are its nodes, and who is linked, by however many steps, is a group."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from idbert.errors import ConfigError
from nlp_tasks.match.pairs import PairExamples


@dataclass(frozen=True, eq=False)
class TextGraph:
    """The different texts of pairs, and which of them each pair joins.

    Attributes:
        texts: the different texts, in the order of their first occurrence.
        first_N: the place in `texts` of each pair's first text.
        second_N: that of its second.
    """

    texts: np.ndarray
    first_N: Int64[np.ndarray, "N"]
    second_N: Int64[np.ndarray, "N"]

    @classmethod
    def of(cls, examples: PairExamples) -> "TextGraph":
        """Number the texts of pairs; hard negatives are not among them."""
        both = np.array([*examples.firsts, *examples.seconds], dtype=object)
        codes, texts = pd.factorize(both)
        first_N, second_N = np.split(codes.astype(np.int64), 2)
        return cls(texts, first_N, second_N)

    def keys(self) -> Int64[np.ndarray, "N"]:
        """Return the key of each pair."""
        return self.key(self.first_N, self.second_N)

    def key(
        self, first_T: Int64[np.ndarray, "T"], second_T: Int64[np.ndarray, "T"]
    ) -> Int64[np.ndarray, "T"]:
        """Return one number for each two texts, the same whichever way round."""
        return np.minimum(first_T, second_T) * len(self.texts) + np.maximum(first_T, second_T)

    def links(self, chosen_N: Bool[np.ndarray, "N"]) -> csr_array:
        """Return the chosen pairs as a symmetric matrix of texts by texts."""
        first, second = self.first_N[chosen_N], self.second_N[chosen_N]
        ends = (np.concatenate([first, second]), np.concatenate([second, first]))
        size = len(self.texts)
        return csr_array((np.ones(2 * len(first), np.int8), ends), shape=(size, size))

    def groups(self, chosen_N: Bool[np.ndarray, "N"]) -> Int64[np.ndarray, "_"]:
        """Return each text's group: texts that the chosen pairs link, by however many steps."""
        return connected_components(self.links(chosen_N), directed=False)[1].astype(np.int64)


def numbered(texts: Sequence[str]) -> tuple[Int64[np.ndarray, "T"], int]:
    """Return a number for each text, the same for the same text, and how many numbers there are."""
    codes, different = pd.factorize(np.array(texts, dtype=object))
    return codes.astype(np.int64), len(different)


def is_positive(examples: PairExamples) -> Bool[np.ndarray, "N"]:
    """Return which pairs belong together.

    Raises:
        ConfigError: the pairs are scores or classes, which do not say so.
    """
    if examples.kind == "none":
        return np.ones(len(examples), bool)
    if examples.kind != "binary" or examples.targets is None:
        raise ConfigError(
            f"{examples.source} holds pairs of kind {examples.kind}, and only those of kind binary "
            "or none say which texts are the same, so they can be neither closed nor mined. Choose "
            "those that belong together with positives()."
        )
    positive_N: np.ndarray = examples.targets == 1
    return positive_N
