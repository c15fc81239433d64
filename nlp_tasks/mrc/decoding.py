"""From logits to answers: the best spans of every window, then of every question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from idbert.errors import ConfigError
from idbert.nn.modes import evaluation_mode
from idbert.nn.products import fast_products
from nlp_tasks.mrc.answers import Answer
from nlp_tasks.mrc.batches import TOKEN_BUDGET, window_batches
from nlp_tasks.mrc.windows import ContextWindows


@dataclass(frozen=True)
class DecodingSettings:
    """Which spans can be answers, and when there is none."""

    max_answer_length: int = 50
    """Tokens of an answer."""

    threshold: float | int | None = None
    """A question has no answer where the best span is not better than "no answer" by so much.
    Default: found on the validation part, if there are questions without an answer in it; else all
    are answered. Where a head says whether there is an answer (span.answer_share), it is its logit
    that must be above this, and spans do not count."""

    def __post_init__(self) -> None:
        if self.max_answer_length < 1:
            raise ConfigError(
                f"max_answer_length is {self.max_answer_length}; it must be at least 1."
            )


@dataclass(frozen=True, eq=False)
class FoundSpans:
    """The best spans of all questions end to end, those of a question the best first.

    Attributes:
        offsets: Q + 1 bounds: question q's spans are `offsets[q] : offsets[q + 1]`.
        starts: first character of each span in its context.
        ends: the character behind its last.
        scores: logits of start and end, added, and log p(has answer) where a head tells it.
        log_probabilities: of each span in its window.
        null_scores_Q: score of "no answer" of each question: the lowest of its windows.
        margins_Q: by how much an answer is more likely than none, as a logit.
        losses_N: of each window; None where nobody asked.
    """

    offsets: Int64[np.ndarray, "_"]
    starts: Int64[np.ndarray, "_"]
    ends: Int64[np.ndarray, "_"]
    scores: Float64[np.ndarray, "_"]
    log_probabilities: Float64[np.ndarray, "_"]
    null_scores_Q: Float64[np.ndarray, "Q"]
    margins_Q: Float64[np.ndarray, "Q"]
    losses_N: Float64[np.ndarray, "N"] | None = None

    def best_texts(self, contexts: Sequence[str]) -> list[str]:
        """Return the best span of each question, "" where no token can be an answer."""
        firsts = self.offsets[:-1]
        return [
            context[self.starts[first] : self.ends[first]] if first < end else ""
            for context, first, end in zip(contexts, firsts, self.offsets[1:], strict=True)
        ]


@torch.inference_mode()
@fast_products()
def find_spans(
    model: Any,
    windows: ContextWindows,
    settings: DecodingSettings,
    *,
    pad_id: int,
    n_best: int = 1,
    token_budget: int = TOKEN_BUDGET,
    positions_N2: Int64[np.ndarray, "N 2"] | None = None,
) -> FoundSpans:
    """Read all windows, and return the best spans of every question.

    Spans are ranked by the scores of their start and end, added; with a head for has-answer the
    logarithm of its probability in their window is added too. A span that stands in several
    windows counts where its score is highest. "No answer" is as likely as in the window where it
    is least likely. Source: Devlin et al. 2019 (BERT), section 4.3.

    Args:
        model: A reader; left in the mode (training or not) that it is in.
        windows: Of the questions.
        settings: The longest answer.
        pad_id: The tokenizer's.
        n_best: Spans of each question, at most.
        token_budget: Positions of a batch, padding included.
        positions_N2: Of the right answers, where the losses are asked for.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    nulls_N, answers_N = np.zeros(len(windows)), np.zeros(len(windows))
    losses_N = None if positions_N2 is None else np.zeros(len(windows))
    with evaluation_mode(model):
        for places_B, batch in window_batches(windows, pad_id, token_budget):
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            output = model(**batch)
            mask_BL = batch["context_mask"].bool()
            found = best_spans(model, output, mask_BL, settings.max_answer_length, n_best)
            parts.append((np.repeat(places_B, found[0].shape[1]), *(t.ravel() for t in found[:-1])))
            nulls_N[places_B] = found[-1]
            if output.answer_logits is not None:
                answers_N[places_B] = output.answer_logits.cpu().double().numpy()
            if losses_N is not None and positions_N2 is not None:
                starts_B, ends_B = torch.from_numpy(positions_N2[places_B].T).to(model.device)
                losses_B = model.heads.losses(output, mask_BL, starts_B, ends_B)
                losses_N[places_B] = losses_B.cpu().double().numpy()
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    has_head = model.heads.has_answer is not None
    return _merged(windows, columns, nulls_N, answers_N if has_head else None, n_best, losses_N)


def best_spans(
    model: Any, output: Any, mask_BL: Bool[Tensor, "B L"], max_length: int, n_best: int
) -> tuple[np.ndarray, ...]:
    """Return the best spans of each window of a batch.

    All pairs of a start and an end at most `max_length` tokens on are compared, none is left out.

    Args:
        model: The reader.
        output: What it returned.
        mask_BL: Where an answer can begin or end; and position 0.
        max_length: Tokens of an answer.
        n_best: Spans of each window.

    Returns:
        Scores, starts, ends and log probabilities, [B, K] each, -inf where there are fewer spans;
        and the scores of "no answer", [B].
    """
    loss = model.heads.loss
    start_BL = loss.scores(output.start_logits, mask_BL)
    end_BL = loss.scores(output.end_logits, mask_BL)
    null_B = start_BL[:, 0] + end_BL[:, 0]
    if output.answer_logits is not None:
        start_BL = start_BL + functional.logsigmoid(output.answer_logits)[:, None]
    start_BL = start_BL.index_fill(1, torch.tensor([0], device=start_BL.device), -torch.inf)
    max_length = min(max_length, start_BL.shape[1])
    padded_BL = functional.pad(end_BL, (0, max_length - 1), value=-torch.inf)
    sums_BLK = start_BL[:, :, None] + padded_BL.unfold(1, max_length, 1)
    scores_BK, places_BK = sums_BLK.flatten(1).topk(min(n_best, sums_BLK[0].numel()), dim=1)
    starts_BK = places_BK // max_length
    ends_BK = (starts_BK + places_BK % max_length).clamp(max=start_BL.shape[1] - 1)
    log_BK = loss.log_probabilities(output.start_logits, mask_BL).gather(
        1, starts_BK
    ) + loss.log_probabilities(output.end_logits, mask_BL).gather(1, ends_BK)
    numbers = [tensor.cpu().double().numpy() for tensor in (scores_BK, log_BK, null_B)]
    return numbers[0], starts_BK.cpu().numpy(), ends_BK.cpu().numpy(), *numbers[1:]


def _merged(
    windows: ContextWindows,
    columns: list[np.ndarray],
    nulls_N: Float[np.ndarray, "N"],
    answers_N: Float[np.ndarray, "N"] | None,
    n_best: int,
    losses_N: Float[np.ndarray, "N"] | None,
) -> FoundSpans:
    """Join the windows of each question, keep each span once and the best of them."""
    window, scores, starts, ends, log_probabilities = (
        column[np.isfinite(columns[1])] for column in columns
    )
    rows_N, num_questions = windows.encoded.rows_N, windows.num_questions
    question = rows_N[window]
    begins, _ = windows.characters(window, starts)
    _, stops = windows.characters(window, ends)

    order = np.lexsort((stops, begins, -scores, question))
    keys = np.stack([question, begins, stops], axis=1)[order]
    _, firsts = np.unique(keys, axis=0, return_index=True)
    order = order[np.sort(firsts)]
    sizes = np.bincount(question[order], minlength=num_questions)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    order = order[rank < n_best]
    sizes = np.minimum(sizes, n_best)

    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    nulls_Q = np.full(num_questions, np.inf)
    np.minimum.at(nulls_Q, rows_N, nulls_N)
    margins_Q = np.full(num_questions, -np.inf)
    if answers_N is not None:
        np.maximum.at(margins_Q, rows_N, answers_N)
    else:
        some_Q = sizes > 0
        margins_Q[some_Q] = scores[order][offsets[:-1][some_Q]] - nulls_Q[some_Q]
    return FoundSpans(
        offsets,
        begins[order],
        stops[order],
        scores[order],
        log_probabilities[order],
        nulls_Q,
        margins_Q,
        losses_N,
    )


def answers_of(
    found: FoundSpans, contexts: Sequence[str], threshold: float | int | None, n_best: int
) -> list[list[Answer]]:
    """Return the found spans as answers, each question's best first.

    Args:
        found: The spans.
        contexts: Of each question.
        threshold: Where the margin is not above it, the empty answer comes first; None: it comes
            only where no span was found.
        n_best: Answers of each question, at most.
    """
    with np.errstate(over="ignore"):
        has_answer_Q = 1 / (1 + np.exp(-found.margins_Q))
    answers = []
    for place, context in enumerate(contexts):
        first, end = found.offsets[place : place + 2].tolist()
        has_answer = float(has_answer_Q[place])
        spans = [
            Answer(
                context[start:stop], start, stop, score, float(np.exp(log_probability)), has_answer
            )
            for start, stop, score, log_probability in zip(
                found.starts[first:end].tolist(),
                found.ends[first:end].tolist(),
                found.scores[first:end].tolist(),
                found.log_probabilities[first:end].tolist(),
                strict=True,
            )
        ]
        if not spans or (threshold is not None and found.margins_Q[place] <= threshold):
            null = float(found.null_scores_Q[place])
            spans.insert(0, Answer("", 0, 0, null, 1 - has_answer, has_answer))
        answers.append(spans[:n_best])
    return answers
