"""Trained towers as a library: two texts in, how alike they are out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32
from sentence_transformers import SentenceTransformer

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.text_checks import check_texts
from idbert.run_dir import RunDir
from nlp_tasks.match.pair_classifier import PairClassifier
from nlp_tasks.match.pairs import PairKind
from nlp_tasks.match.scoring import encode
from nlp_tasks.match.towers import DOCUMENT, QUERY, STAGE, open_towers

MATCH_FILE, CLASSIFIER_FOLDER = "match.json", "classifier"


@dataclass(frozen=True)
class MatchFacts:
    """What a run knows beside the weights; saved as match.json.

    Attributes:
        kind: of the training pairs.
        loss: that it was trained with.
        names: of the classes.
        positive: which pairs belonged together, where 0 and 1 did not say it.
        max_score: what scores were divided by.
        thresholds: above which two texts are the same, by the metric that each is best for.
    """

    kind: PairKind
    loss: str
    names: tuple[str, ...] = ()
    positive: float | int | str | None = None
    max_score: float | int = 1.0
    thresholds: dict[str, float] | None = None


class Matcher:
    """Compares texts by trained towers.

    Example:
        >>> matcher = Matcher.load("runs/match")
        >>> matcher.similarity(["a dog barks"], ["a hound is barking"])
        array([0.83], dtype=float32)

    Args:
        towers: One tower or two.
        facts: Of the training.
        classifier: On both vectors, if one was trained.
    """

    def __init__(
        self,
        towers: SentenceTransformer,
        facts: MatchFacts,
        classifier: PairClassifier | None = None,
    ) -> None:
        self.towers, self.facts, self.classifier = towers.eval(), facts, classifier
        if classifier is not None:
            classifier.linear.to(towers.device)

    @classmethod
    def load(cls, run: str | Path, *, device: str | None = None) -> "Matcher":
        """Open a finished run of nlp_match.

        Args:
            run: The run's folder.
            device: torch's name of a device; None: the GPU where there is one.

        Raises:
            CheckpointError: the folder is no finished run of nlp_match, or a file is damaged.
        """
        opened = RunDir.open(run, [STAGE])
        folder = opened.path / CLASSIFIER_FOLDER
        return cls(
            open_towers(opened.model, device=device),
            read_facts(opened),
            PairClassifier.load(folder) if folder.is_dir() else None,
        )

    def similarity(self, firsts: Sequence[str], seconds: Sequence[str]) -> Float32[np.ndarray, "N"]:
        """Return how alike the texts of each pair are.

        It is the probability that they are the same where a classifier of 0 and 1 was trained, else
        the cosine of their vectors.

        Raises:
            DataError: a text is empty, or there are not as many first texts as second ones.
        """
        firsts_ND, seconds_ND = self._vectors(firsts, seconds)
        if self.classifier is not None and self.facts.kind != "class":
            return self.classifier.probabilities(firsts_ND, seconds_ND)[:, 1].numpy()
        return torch.nn.functional.cosine_similarity(firsts_ND, seconds_ND).numpy()

    def is_same(self, firsts: Sequence[str], seconds: Sequence[str]) -> Bool[np.ndarray, "N"]:
        """Say of each pair whether it is the same, by the validation part's best threshold.

        Raises:
            ConfigError: the run was not validated on pairs labelled 0 and 1.
            DataError: as for `similarity`.
        """
        if self.facts.thresholds is None:
            raise ConfigError(
                "This run was not validated on pairs labelled 0 and 1, so it has no threshold. Use "
                "similarity, and a threshold of your own."
            )
        scores_N = self.similarity(firsts, seconds).astype(np.float64)
        return scores_N >= self.facts.thresholds["accuracy"]

    def probabilities(
        self, firsts: Sequence[str], seconds: Sequence[str]
    ) -> Float32[np.ndarray, "N C"]:
        """Return the probability of each class, in the order of `facts.names`.

        Raises:
            ConfigError: no classifier was trained.
            DataError: as for `similarity`.
        """
        if self.classifier is None:
            raise ConfigError(
                f"This run was trained with the loss '{self.facts.loss}', which has no classifier. "
                "Train with softmax, focal or bce."
            )
        return self.classifier.probabilities(*self._vectors(firsts, seconds)).numpy()

    def _vectors(self, firsts: Sequence[str], seconds: Sequence[str]) -> Any:
        if isinstance(firsts, str) or isinstance(seconds, str) or len(firsts) != len(seconds):
            raise DataError("Give as many first texts as second ones, in two lists.")
        for texts in (firsts, seconds):
            check_texts(list(texts), allow_empty=False)
        return (
            encode(self.towers, list(firsts), QUERY),
            encode(self.towers, list(seconds), DOCUMENT),
        )


def write_facts(run: RunDir, facts: MatchFacts) -> None:
    """Write match.json."""
    run.write_json(MATCH_FILE, vars(facts) | {"names": list(facts.names)})


def read_facts(run: RunDir) -> MatchFacts:
    """Read match.json.

    Raises:
        CheckpointError: it is missing or holds something else.
    """
    value = run.read_json(MATCH_FILE)
    try:
        return MatchFacts(**value | {"names": tuple(value["names"])})
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"{run.path / MATCH_FILE} does not say what the run was trained on: {json.dumps(value)}"
            f" ({error}). Copy the run's folder again."
        ) from error
