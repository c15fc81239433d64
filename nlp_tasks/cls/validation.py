"""How good a classifier is on labelled texts, while it is trained."""

from collections.abc import Callable

import torch

from nlp_tasks.cls.examples import Examples
from nlp_tasks.cls.labels import Kind
from nlp_tasks.cls.metrics import (
    DEFAULT_METRIC,
    METRICS_OF,
    Predictions,
    classification_metrics,
)
from nlp_tasks.cls.model import TextClassifier
from nlp_tasks.cls.prediction import decide, text_logits
from nlp_tasks.cls.reading import TextReader


def validation_of(
    model: TextClassifier, reader: TextReader, examples: Examples | None
) -> Callable[[], dict[str, float]] | None:
    """Return what evaluates the model, as it is at the time, on the same texts again and again.

    Args:
        model: The model in training.
        reader: How texts become tokens.
        examples: The validation texts; None: there is nothing to evaluate on.
    """
    if examples is None or examples.labels is None or examples.targets is None:
        return None
    labels, targets = examples.labels, examples.targets
    encoded = reader.encode_examples(examples)

    def evaluate() -> dict[str, float]:
        logits_NC = text_logits(model, encoded, pad_id=reader.pad_id).to(model.device)
        losses_N = model.losses(logits_NC, torch.from_numpy(targets).to(model.device))
        decisions, probabilities_NC = decide([model], [logits_NC])
        predictions = Predictions(labels, targets, decisions, probabilities_NC)
        return classification_metrics(predictions) | {"loss": float(losses_N.mean())}

    return evaluate


def metrics_of(kind: Kind) -> tuple[str, ...]:
    """Return the names of what `validation_of` reports, the usual one first."""
    others = [name for name in METRICS_OF[kind] if name != DEFAULT_METRIC[kind]]
    return (DEFAULT_METRIC[kind], *others, "loss")
