"""A trained classifier as a library: texts in, labels and probabilities out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32

from idbert.errors import CheckpointError, ConfigError
from idbert.run_dir import RunDir
from idbert.training.devices import device_type
from nlp_tasks.cls.labels import LabelMap
from nlp_tasks.cls.model import TextClassifier, load_text_classifier
from nlp_tasks.cls.prediction import TOKEN_BUDGET, Decisions, decide, text_logits
from nlp_tasks.cls.reading import TextReader

PREDICTION, PROBABILITY, PROBABILITIES = "prediction", "probability", "probabilities"
"""The columns of a table of predictions."""

STAGE = "nlp_cls"


class Classifier:
    """Predicts the labels of texts by a trained model, or by those of several folds, averaged.

    Example:
        >>> classifier = Classifier.load("runs/reviews")
        >>> classifier.predict(["what a waste of time"])
          prediction  probability
        0        bad         0.97

    Args:
        models: Of the same labels; one, or one of each fold.
        reader: How texts become tokens.
        labels: What the outputs stand for.
        device: auto (the GPU where there is one), or torch's name of a device.
        token_budget: Positions of a batch, padding included.

    Raises:
        CheckpointError: models and labels do not belong together.
        ConfigError: there is no such device here.
    """

    def __init__(
        self,
        models: Sequence[TextClassifier],
        reader: TextReader,
        labels: LabelMap,
        *,
        device: str = "auto",
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        for model in models:
            if model.config.num_outputs != labels.num_outputs:
                raise CheckpointError(
                    f"The model has {model.config.num_outputs} outputs and there are "
                    f"{labels.num_outputs} labels. Copy the run's folder again."
                )
        device = usable_device(device)
        self.models = [model.to(device).eval() for model in models]
        self.reader, self.labels = reader, labels
        self._token_budget = token_budget

    @classmethod
    def load(
        cls, run: str | Path, *, device: str = "auto", token_budget: int = TOKEN_BUDGET
    ) -> "Classifier":
        """Open a finished run of nlp_cls.

        Args:
            run: The run's folder.
            device: auto (the GPU where there is one), or torch's name of a device.
            token_budget: Positions of a batch, padding included.

        Raises:
            CheckpointError: the folder is no finished run of nlp_cls, or a file is damaged.
            ConfigError: there is no such device here.
        """
        opened = RunDir.open(run, [STAGE])
        return cls(
            [load_text_classifier(folder) for folder in model_folders(opened.path)],
            TextReader.load(opened.path),
            LabelMap.load(opened.path),
            device=device,
            token_budget=token_budget,
        )

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        allow_empty: bool = False,
        probabilities: bool = False,
    ) -> pd.DataFrame:
        """Return the prediction for each text, in the texts' order.

        Args:
            texts: One a row.
            pairs: The second texts, where the classifier was trained on pairs.
            allow_empty: Whether a text may be empty; it is then predicted from its special tokens.
            probabilities: Whether to add those of all labels.

        Returns:
            "prediction" and "probability": a label and its probability; lists of both where there
            are several labels; for numbers the number alone. On demand also "probabilities", an
            array in the order of `labels.names`.

        Raises:
            DataError: a text is empty, or there are pairs and should be none, or the other way.
        """
        decisions, probabilities_NC = self.decide(texts, pairs, allow_empty=allow_empty)
        table = self.as_table(decisions, probabilities_NC)
        if probabilities and probabilities_NC is not None:
            table[PROBABILITIES] = list(probabilities_NC)
        return table

    def predict_proba(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        allow_empty: bool = False,
    ) -> Float32[np.ndarray, "N C"]:
        """Return the probability of each label, in the order of `labels.names`.

        Raises:
            ConfigError: the classifier predicts numbers.
            DataError: as for `predict`.
        """
        _, probabilities_NC = self.decide(texts, pairs, allow_empty=allow_empty)
        if probabilities_NC is None:
            raise ConfigError("This classifier predicts numbers, which have no probabilities.")
        return probabilities_NC

    def decide(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        allow_empty: bool = False,
    ) -> tuple[Decisions, Float32[np.ndarray, "N C"] | None]:
        """Return predictions as numbers, and all probabilities; arguments as for `predict`.

        Returns:
            Int64 [N] places in `labels.names`, Bool [N, C] or Float32 [N] numbers; and the
            probabilities [N, C], None for numbers.
        """
        encoded = self.reader.encode(texts, pairs, allow_empty=allow_empty)
        logits = [
            text_logits(model, encoded, pad_id=self.reader.pad_id, token_budget=self._token_budget)
            for model in self.models
        ]
        return decide(self.models, logits)

    def as_table(
        self, decisions: Decisions, probabilities_NC: Float32[np.ndarray, "N C"] | None
    ) -> pd.DataFrame:
        """Return what `decide` returned in words, as `predict` does."""
        if probabilities_NC is None:
            return pd.DataFrame({PREDICTION: decisions})
        names = np.array(self.labels.names, dtype=object)
        if decisions.ndim == 1:
            chosen_N = probabilities_NC[np.arange(len(decisions)), decisions]
            return pd.DataFrame({PREDICTION: names[decisions], PROBABILITY: chosen_N})
        return pd.DataFrame(
            {
                PREDICTION: [names[row].tolist() for row in decisions],
                PROBABILITY: [
                    row[chosen].tolist()
                    for row, chosen in zip(probabilities_NC, decisions, strict=True)
                ],
            }
        )


def model_folders(run: Path) -> list[Path]:
    """Return the folder of the run's model, or those of its folds in their order.

    Raises:
        CheckpointError: there is none.
    """
    if (run / "model").is_dir():
        return [run / "model"]
    folds = sorted(run.glob("model-*/"), key=lambda folder: int(folder.name.split("-")[1]))
    if not folds:
        raise CheckpointError(f"{run} holds no model. Copy the run's folder again.")
    return folds


def usable_device(device: str) -> str:
    """Return torch's name of a device that is there."""
    if device == "auto":
        return device_type(device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device is '{device}', which cannot be used here ({reason}). Choose auto or cpu."
        ) from error
    return device
