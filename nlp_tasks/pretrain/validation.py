"""How well a model restores words that are hidden in texts it was not trained on."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedTokenizerBase

from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.label_tokens import LabelledTextData
from idbert.inputs.sentence_pairs import SentencePairData
from idbert.nn.products import fast_products
from idbert.nn.tied_scores import IGNORED
from idbert.nn.word_models import MaskedWordModel
from nlp_tasks.pretrain.answers import label_scores
from nlp_tasks.pretrain.masked_data import WordData

TOKEN_BUDGET = 4096
CHUNK = 512
"""Positions scored at a time."""


def validation_of(model: MaskedWordModel, data: WordData) -> Callable[[], dict[str, float]]:
    """Return what evaluates the model, as it is at the time, on the same masks again and again."""
    return lambda: word_metrics(model, data)


def metrics_of(data: WordData | None) -> tuple[str, ...]:
    """Return the names of what `validation_of` reports of such data, the usual one first."""
    names = ("loss", "accuracy", "perplexity")
    if isinstance(data, SentencePairData):
        return (*names, "next_sentence_loss", "next_sentence_accuracy")
    if isinstance(data, LabelledTextData):
        # The names of a figure are asked for before there is one: noughts stand for the scores.
        targets_M = _classes(data.labels_N[data.known_N], data.label_ids_C)
        scores_MC = np.zeros((len(targets_M), len(data.label_ids_C)))
        return (*names, *label_metrics(scores_MC, targets_M))
    return names


@torch.no_grad()
@fast_products()
def word_metrics(model: MaskedWordModel, data: WordData) -> dict[str, float]:
    """Return loss, accuracy and perplexity of the hidden words, and figures of pairs or labels.

    "loss" is what is trained on: the mean over hidden words and hidden labels, or with pairs of
    sentences the sum of both losses. "accuracy" is the share of hidden words that score highest,
    "perplexity" exp of their mean cross-entropy. Labels are asked for with no word hidden.

    Args:
        model: In evaluation mode.
        data: The masks are those of epoch 0.
    """
    word_loss, restored, words = 0.0, 0, 0
    pair_loss, told, pairs = 0.0, 0, 0
    label_ids_C = torch.from_numpy(
        data.label_ids_C if isinstance(data, LabelledTextData) else np.empty(0, np.int64)
    ).to(model.device)
    label_loss, labels = 0.0, 0
    for planned in fixed_batches(data.input_lengths):
        batch = {
            name: tensor.to(model.device) for name, tensor in data.__getitems__(planned).items()
        }
        labels_BL, pair_labels_B = batch.pop("labels"), batch.pop("next_sentence_labels", None)
        hidden_BLX, last_BLD = model.backbone.forward_with_last(**batch)
        is_target_BL = labels_BL != IGNORED
        chunks = zip(
            torch.split(hidden_BLX[is_target_BL], CHUNK),
            torch.split(labels_BL[is_target_BL], CHUNK),
            strict=True,
        )
        for hidden_MX, targets_M in chunks:
            scores_MV = model.scores(hidden_MX).float()
            loss_M = F.cross_entropy(scores_MV, targets_M, reduction="none")
            is_word_M = ~torch.isin(targets_M, label_ids_C)
            word_loss += float(loss_M[is_word_M].sum())
            restored += int((scores_MV.argmax(1) == targets_M)[is_word_M].sum())
            words += int(is_word_M.sum())
            label_loss += float(loss_M[~is_word_M].sum())
            labels += int((~is_word_M).sum())
        if pair_labels_B is not None:
            scores_BC = model.next_sentence_scores(last_BLD).float()
            pair_loss += float(F.cross_entropy(scores_BC, pair_labels_B, reduction="sum"))
            told += int((scores_BC.argmax(1) == pair_labels_B).sum())
            pairs += len(pair_labels_B)
    mean = word_loss / max(1, words)
    metrics = {
        "loss": (word_loss + label_loss) / max(1, words + labels),
        "accuracy": restored / max(1, words),
        "perplexity": math.exp(min(mean, 700.0)),  # a float ends at exp(709)
    }
    if pairs:
        metrics["loss"] += pair_loss / pairs
        metrics |= {"next_sentence_loss": pair_loss / pairs, "next_sentence_accuracy": told / pairs}
    if isinstance(data, LabelledTextData):
        scores_NC = label_scores(model, data.asked, data.label_ids_C, data.pad_id)
        targets_M = _classes(data.labels_N[data.known_N], data.label_ids_C)
        metrics |= label_metrics(scores_NC[data.known_N], targets_M)
    return metrics


def label_metrics(
    scores_MC: Float[np.ndarray, "M C"], targets_M: Int64[np.ndarray, "M"]
) -> dict[str, float]:
    """Return how often the label scores highest of all labels, and of two labels the AUC.

    Args:
        scores_MC: of each label, where a known one is hidden.
        targets_M: the right one's column.
    """
    if not len(targets_M):
        return {}
    metrics = {"label_accuracy": float((scores_MC.argmax(1) == targets_M).mean())}
    if scores_MC.shape[1] == 2 and len(np.unique(targets_M)) == 2:
        margins_M = scores_MC[:, 1] - scores_MC[:, 0]
        metrics["label_auc"] = float(roc_auc_score(targets_M, margins_M))
    return metrics


def _classes(
    tokens_M: Int64[np.ndarray, "M"], label_ids_C: Int64[np.ndarray, "C"]
) -> Int64[np.ndarray, "M"]:
    """Return the column of each label token."""
    columns_M: np.ndarray = (tokens_M[:, None] == label_ids_C).argmax(axis=1)
    return columns_M


def fixed_batches(
    lengths_N: Int64[np.ndarray, "N"], token_budget: int = TOKEN_BUDGET
) -> Iterator[PlannedBatch]:
    """Yield all sequences once, the longest first, as epoch 0 masks them."""
    order_N = np.argsort(-lengths_N, kind="stable")
    first = 0
    while first < len(order_N):
        size = max(1, token_budget // max(1, int(lengths_N[order_N[first]])))
        yield PlannedBatch(0, order_N[first : first + size])
        first += size


@dataclass(frozen=True)
class Piece:
    """A run of visible text, or one hidden token.

    Attributes:
        text: what stands there.
        restored: what the model takes a hidden token for; None: the text is visible.
        probability: that the model gives to what it takes it for.
    """

    text: str
    restored: str | None = None
    probability: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether a hidden token was restored."""
        return self.restored == self.text


@torch.no_grad()
def restored_examples(
    model: MaskedWordModel, data: WordData, tokenizer: PreTrainedTokenizerBase, count: int = 6
) -> list[list[Piece]]:
    """Return some sequences in words, with what the model takes their hidden tokens for.

    Args:
        model: In evaluation mode.
        data: Texts that it was not trained on; `count` of them are taken, evenly spread.
        tokenizer: Of the model.
        count: How many at most.
    """
    places = np.unique(np.linspace(0, len(data) - 1, count).round().astype(np.int64))
    planned = PlannedBatch(0, places)
    batch = {name: tensor.to(model.device) for name, tensor in data.__getitems__(planned).items()}
    labels_BL = batch.pop("labels")
    batch.pop("next_sentence_labels", None)
    hidden_BLX, _ = model.backbone.forward_with_last(**batch)
    examples = []
    for hidden_LX, ids_L, labels_L in zip(hidden_BLX, batch["input_ids"], labels_BL, strict=True):
        hidden = (labels_L != IGNORED).nonzero()[:, 0]
        probability_M, best_M = model.scores(hidden_LX[hidden]).float().softmax(1).max(1)
        answers = zip(probability_M.tolist(), best_M.tolist(), strict=True)
        found = dict(zip(hidden.tolist(), answers, strict=True))
        examples.append(_pieces(ids_L.tolist(), labels_L.tolist(), found, tokenizer))
    return examples


def _pieces(
    ids: list[int],
    labels: list[int],
    found: dict[int, tuple[float, int]],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Piece]:
    pieces: list[Piece] = []
    run: list[int] = []

    def in_words(tokens: list[int], skip_special_tokens: bool = False) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)).strip()

    def end_run() -> None:
        text = in_words(run, skip_special_tokens=True)
        if text:
            pieces.append(Piece(text))
        run.clear()

    for place, (shown, true) in enumerate(zip(ids, labels, strict=True)):
        if place in found:
            end_run()
            probability, best = found[place]
            # A token that is nothing but a blank is shown as the vocabulary writes it.
            words = [
                in_words([token]) or str(tokenizer.convert_ids_to_tokens(token))
                for token in (true, best)
            ]
            pieces.append(Piece(words[0], words[1], probability))
        else:
            run.append(shown)
    end_run()
    return pieces
