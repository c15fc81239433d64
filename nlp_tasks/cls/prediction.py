"""What trained classifiers say of encoded texts: by batches of like length, without gradients."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from idbert.inputs.text import EncodedTexts
from idbert.inputs.text_batches import text_batches
from idbert.nn.modes import evaluation_mode
from idbert.nn.products import fast_products
from nlp_tasks.cls.model import TextClassifier

TOKEN_BUDGET = 8192
"""Positions of a batch, padding included."""

Decisions = Int64[np.ndarray, "N"] | Bool[np.ndarray, "N C"] | Float32[np.ndarray, "N"]


@torch.inference_mode()
@fast_products()
def text_logits(
    model: TextClassifier,
    encoded: EncodedTexts,
    *,
    pad_id: int,
    token_budget: int = TOKEN_BUDGET,
) -> Float32[Tensor, "N C"]:
    """Return the logits of every text, on the CPU; those of several windows are averaged.

    Args:
        model: Left in the mode (training or not) that it is in.
        encoded: The texts.
        pad_id: The tokenizer's.
        token_budget: Positions of a batch, padding included.
    """
    sums_NC = torch.zeros(encoded.num_texts, model.config.num_outputs)
    with evaluation_mode(model):
        for places_B, batch in text_batches(encoded, pad_id, token_budget):
            logits_BC = model(**{name: t.to(model.device) for name, t in batch.items()}).logits
            rows_B = torch.from_numpy(encoded.rows_N[places_B])
            sums_NC.index_add_(0, rows_B, logits_BC.float().cpu())
    windows_N = torch.from_numpy(encoded.rows_N).bincount(minlength=encoded.num_texts)
    return sums_NC / windows_N[:, None]


def decide(
    models: Sequence[TextClassifier], logits: Sequence[Float32[Tensor, "N C"]]
) -> tuple[Decisions, Float32[np.ndarray, "N C"] | None]:
    """Return predictions and probabilities, those of several models averaged.

    Args:
        models: All of the same labels.
        logits: Each model's.

    Returns:
        Labels, which labels, or numbers; and the probability of each label, None for numbers.
    """
    first = models[0]
    logits = [each_NC.to(model.device) for model, each_NC in zip(models, logits, strict=True)]
    with torch.no_grad():
        if first.config.label_kind == "number":
            numbers = [m.decide(each_NC) for m, each_NC in zip(models, logits, strict=True)]
            return torch.stack(numbers).mean(dim=0).cpu().numpy(), None
        probabilities_NC = torch.stack(
            [m.probabilities(each_NC) for m, each_NC in zip(models, logits, strict=True)]
        ).mean(dim=0)
        if len(models) == 1:
            decisions = first.decide(logits[0])
        elif first.config.label_kind == "single":
            decisions = probabilities_NC.argmax(dim=1)
        else:
            decisions = probabilities_NC > 0.5
    return decisions.cpu().numpy(), probabilities_NC.cpu().numpy()
