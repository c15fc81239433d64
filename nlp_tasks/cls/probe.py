"""The start of a linear head: a logistic regression on what the pretrained encoder says already.

A head that starts at random first drags the encoder's vectors about, until it knows what it wants
of them. One that starts as the best linear head on the untouched vectors changes them only where
that helps.

Source: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution" (LP-FT). The regression is scikit-learn's, the penalty is in units of the
vectors' variance and of the number of rows.
"""

import logging
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from idbert.errors import ConfigError
from idbert.inputs.text import EncodedTexts
from idbert.inputs.text_batches import text_batches
from idbert.nn.heads.linear import LinearHead
from idbert.nn.modes import evaluation_mode
from idbert.training.precision import autocast
from nlp_tasks.cls.model import TextClassifier
from nlp_tasks.cls.prediction import TOKEN_BUDGET

logger = logging.getLogger(__name__)

HeadStart = Literal["auto", "probe", "random"]

PROBE_ROWS = 10_000
"""Most texts that the regression sees; more change little about so few weights."""

PENALTY = 0.05
"""Weight of |w|^2 / 2, w in units of the vectors' standard deviation, beside the mean loss."""

MAX_ITERATIONS = 300
MOST_LABELS = 256
"""Of several labels a text; each is a regression of its own, one after the other."""


def uses_probe(model: TextClassifier, start: HeadStart) -> bool:
    """Say whether the head is to start from a probe.

    Args:
        model: Before its training.
        start: auto: if the head is linear and nothing untrained stands below it, and a text has one
            label or up to 256.

    Raises:
        ConfigError: `start` is probe and the head cannot start so.
    """
    obstacle = _obstacle(model)
    if start == "probe" and obstacle is not None:
        raise ConfigError(
            f"head_start='probe' cannot act: {obstacle}. Set head_start to auto or random."
        )
    if start == "auto" and obstacle is None and model.config.label_kind == "multi":
        count = model.config.num_outputs
        if count > MOST_LABELS:
            logger.info(
                "the head of %d labels starts at random: head_start=probe would fit a regression "
                "to each",
                count,
            )
            return False
    return start != "random" and obstacle is None


def start_from_probe(
    model: TextClassifier,
    encoded: EncodedTexts,
    targets: np.ndarray,
    *,
    pad_id: int,
    precision: str = "float32",
    seed: int = 0,
) -> None:
    """Set the head's weights to those of the regression; the encoder stays as it is.

    Args:
        model: Its head is linear; see `uses_probe`.
        encoded: The training texts; each of several windows counts as a text.
        targets: Of the texts: Int64 [N], Float32 [N, C] of 0 and 1, or Float32 [N].
        pad_id: The tokenizer's.
        precision: float32, medium (here as float32) or bfloat16, for the encoder's products.
        seed: Chooses PROBE_ROWS texts where there are more.
    """
    chosen_N = np.random.default_rng(seed).permutation(len(encoded))[:PROBE_ROWS]
    vectors_ND = _pooled(model, encoded, chosen_N, pad_id, precision)
    targets = targets[encoded.rows_N[chosen_N]]
    if model.config.label_kind == "number":
        targets = (targets - model.config.target_mean) / model.config.target_scale
        weight_CD, bias_C = _ridge(vectors_ND, targets)
    elif model.config.label_kind == "multi":
        columns = [_logistic(vectors_ND, column_N) for column_N in targets.T]
        weight_CD = np.stack([weight_D for weight_D, _ in columns])
        bias_C = np.array([bias for _, bias in columns])
    else:
        weight_CD, bias_C = _multinomial(vectors_ND, targets, model.config.num_outputs)
    linear = _linear_head(model).output
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight_CD))
        linear.bias.copy_(torch.from_numpy(bias_C))
    logger.info("the head starts as a regression on the vectors of %d texts", len(chosen_N))


def _obstacle(model: TextClassifier) -> str | None:
    config = model.config
    if not isinstance(model.head.head, LinearHead):
        return f"the head is '{config.head}', not linear"
    if config.block != "none":
        return f"the untrained block '{config.block}' stands below the head"
    if config.fusion_width is not None:
        return "an untrained projection (fusion.width) stands below the head"
    if any(True for _ in model.pooling.parameters()) and not model.has_pretrained_pooler:
        return f"the untrained pooling '{config.pooling}' stands below the head"
    return None


def _linear_head(model: TextClassifier) -> LinearHead:
    head = model.head.head
    assert isinstance(head, LinearHead)
    return head


@torch.inference_mode()
def _pooled(
    model: TextClassifier,
    encoded: EncodedTexts,
    chosen_N: Int64[np.ndarray, "N"],
    pad_id: int,
    precision: str,
) -> Float32[np.ndarray, "N D"]:
    """Return what the head would read of each chosen sequence."""
    vectors_ND = np.zeros((len(encoded), model.pooling.width), np.float32)
    with evaluation_mode(model):
        for places_B, batch in text_batches(encoded, pad_id, TOKEN_BUDGET, chosen_N):
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with autocast(precision, model.device.type):
                fused_BLD: Tensor = model.backbone(**batch)
                pooled_BD = model.pooling(fused_BLD, batch["attention_mask"])
            vectors_ND[places_B] = pooled_BD.float().cpu().numpy()
    return vectors_ND[chosen_N]


def _inverse_penalty(vectors_ND: Float[np.ndarray, "N D"]) -> float:
    """Return scikit-learn's C, which weighs the summed loss against |w|^2 / 2."""
    variance = float(vectors_ND.var(axis=0).mean()) or 1.0
    return 1.0 / (PENALTY * len(vectors_ND) * variance)


def _multinomial(
    vectors_ND: np.ndarray, targets_N: np.ndarray, num_outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [C, D] and biases [C]; a class that does not occur gets an unlikely one."""
    classes = np.unique(targets_N)
    weight_CD = np.zeros((num_outputs, vectors_ND.shape[1]))
    bias_C = np.full(num_outputs, -np.log(len(targets_N) + 1.0))
    if len(classes) < 2:
        return weight_CD, bias_C
    fitted = LogisticRegression(C=_inverse_penalty(vectors_ND), max_iter=MAX_ITERATIONS).fit(
        vectors_ND, targets_N
    )
    if len(classes) == 2:  # one row of weights, for the second class
        weight_CD[classes] = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
        bias_C[classes] = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    else:
        weight_CD[classes], bias_C[classes] = fitted.coef_, fitted.intercept_
    return weight_CD, bias_C


def _logistic(vectors_ND: np.ndarray, column_N: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights [D] and the bias of one of several labels."""
    positives = int((column_N > 0.5).sum())
    if positives in (0, len(column_N)):
        odds = (positives + 0.5) / (len(column_N) - positives + 0.5)
        return np.zeros(vectors_ND.shape[1]), float(np.log(odds))
    fitted = LogisticRegression(C=_inverse_penalty(vectors_ND), max_iter=MAX_ITERATIONS).fit(
        vectors_ND, column_N > 0.5
    )
    return fitted.coef_[0], float(fitted.intercept_[0])


def _ridge(vectors_ND: np.ndarray, targets_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [1, D] and the bias [1] of a number."""
    fitted = Ridge(alpha=1.0 / _inverse_penalty(vectors_ND)).fit(vectors_ND, targets_N)
    return fitted.coef_[None], np.array([fitted.intercept_])
