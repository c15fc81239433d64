"""Decoding: the spans of brute force, each once, and no answer where there is none."""

from itertools import product

import numpy as np
import pytest
import torch

from idbert.errors import ConfigError
from idbert.inputs.tokenizers import train_tokenizer
from nlp_tasks.mrc.decoding import DecodingSettings, answers_of, find_spans
from nlp_tasks.mrc.heads import ReaderOutput
from nlp_tasks.mrc.losses import build_span_loss
from nlp_tasks.mrc.reading import QuestionReader
from nlp_tasks.mrc.windows import WindowSettings

WORDS = [f"w{number}" for number in range(40)]
TOKENIZER = train_tokenizer([" ".join(WORDS)] * 3, vocab_size=300)


class Heads:
    def __init__(self, loss: str, has_answer: bool) -> None:
        self.loss = build_span_loss(loss, {})
        self.has_answer = True if has_answer else None


class Scripted(torch.nn.Module):
    """A model whose logits are a fixed function of the token alone."""

    device = torch.device("cpu")

    def __init__(self, loss: str = "softmax", has_answer: bool = False, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.start = torch.randn(len(TOKENIZER), generator=generator) * 2
        self.end = torch.randn(len(TOKENIZER), generator=generator) * 2
        self.heads = Heads(loss, has_answer)

    def forward(self, input_ids, attention_mask, **batch) -> ReaderOutput:
        answer = None
        if self.heads.has_answer:
            sums = (self.start[input_ids] * attention_mask).sum(dim=1)
            answer = sums / attention_mask.sum(dim=1)
        return ReaderOutput(
            start_logits=self.start[input_ids],
            end_logits=self.end[input_ids],
            answer_logits=answer,
        )


def reading(max_length: int = 100, stride: int = 4) -> QuestionReader:
    return QuestionReader(TOKENIZER, WindowSettings(max_length, stride, 3))


def contexts(count: int, seed: int = 0) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(3, 30))) for _ in range(count)]


def found(model, texts, settings=None, n_best=3, max_length=100, stride=4, **more):
    windows = reading(max_length, stride).windows(["w1"] * len(texts), texts)
    settings = settings or DecodingSettings()
    return find_spans(
        model, windows, settings, pad_id=TOKENIZER.pad_token_id, n_best=n_best, **more
    ), windows


def brute_force(model, windows, row: int, max_answer: int) -> dict[tuple[int, int], float]:
    """Return the score of every span of a question, by loops."""
    spans: dict[tuple[int, int], float] = {}
    for place in np.flatnonzero(windows.encoded.rows_N == row):
        low, high = windows.encoded.offsets[place : place + 2]
        ids = torch.from_numpy(windows.encoded.ids[low:high].astype(np.int64))
        begin = windows.context_starts_N[place]
        inside = range(begin, begin + windows.context_sizes_N[place])
        logits = [model.start[ids], model.end[ids]]
        if isinstance(model.heads.loss, type(build_span_loss("sigmoid", {}))):
            logits = [torch.nn.functional.logsigmoid(each) for each in logits]
        bonus = 0.0
        if model.heads.has_answer:
            bonus = float(torch.nn.functional.logsigmoid(model.start[ids].mean()))
        for first, last in product(inside, inside):
            if 0 <= last - first < max_answer:
                score = float(logits[0][first] + logits[1][last]) + bonus
                (start,), _ = windows.characters(np.array([place]), np.array([first]))
                _, (end,) = windows.characters(np.array([place]), np.array([last]))
                key = (int(start), int(end))
                spans[key] = max(score, spans.get(key, -np.inf))
    return spans


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("has_answer", [False, True])
@pytest.mark.parametrize("max_length", [100, 20])
def test_the_best_spans_are_those_of_brute_force_each_once(loss, has_answer, max_length):
    model, texts = Scripted(loss, has_answer), contexts(7)
    spans, windows = found(model, texts, DecodingSettings(6), n_best=5, max_length=max_length)
    assert max_length == 100 or len(windows) > len(texts)
    for row in range(len(texts)):
        expected = brute_force(model, windows, row, 6)
        best = sorted(expected.values(), reverse=True)[:5]
        bounds = slice(*spans.offsets[row : row + 2])
        keys = list(zip(spans.starts[bounds].tolist(), spans.ends[bounds].tolist(), strict=True))
        assert len(set(keys)) == len(keys) == min(5, len(expected))
        assert np.allclose(spans.scores[bounds], best, atol=1e-5)
        assert np.allclose([expected[key] for key in keys], best, atol=1e-5)


def test_answers_do_not_depend_on_the_questions_beside():
    model, texts = Scripted(), contexts(9)
    whole, _ = found(model, texts)
    alone, _ = found(model, texts, token_budget=1)
    for name in ("offsets", "starts", "ends"):
        assert np.array_equal(getattr(whole, name), getattr(alone, name))
    assert np.allclose(whole.scores, alone.scores) and np.allclose(whole.margins_Q, alone.margins_Q)


def test_a_probability_is_that_of_start_and_end_in_their_window():
    model = Scripted()
    spans, windows = found(model, ["w3 w4 w5"], n_best=50)
    assert len(spans.starts) == 6
    ids = torch.from_numpy(windows.encoded.ids.astype(np.int64))
    can = torch.from_numpy(windows.can_hold_answer_T)
    parts = [
        each[ids].masked_fill(~can, -torch.inf).softmax(0) for each in (model.start, model.end)
    ]
    texts = {" ".join(["w3", "w4", "w5"][a : b + 1]): (a, b) for a in range(3) for b in range(a, 3)}
    begin = int(windows.context_starts_N[0])
    for answer in answers_of(spans, ["w3 w4 w5"], None, 50)[0]:
        first, last = texts[answer.text]
        expected = parts[0][begin + first] * parts[1][begin + last]
        assert answer.probability == pytest.approx(float(expected), abs=1e-6)
        assert "w3 w4 w5"[answer.start : answer.end] == answer.text


@pytest.mark.parametrize("longest", [1, 2, 4])
def test_no_answer_is_longer_than_allowed(longest):
    texts = contexts(8)
    spans, _ = found(Scripted(), texts, DecodingSettings(longest), n_best=20)
    answers = [answer for row in answers_of(spans, texts, None, 20) for answer in row]
    assert max(len(answer.text.split()) for answer in answers) == longest


def test_no_answer_comes_first_where_the_margin_is_not_above_the_threshold():
    texts = contexts(12)
    spans, _ = found(Scripted(), texts)
    threshold = float(np.median(spans.margins_Q))
    for margin, answers in zip(
        spans.margins_Q, answers_of(spans, texts, threshold, 2), strict=True
    ):
        assert (answers[0].text == "") == (margin <= threshold) and len(answers) == 2
        assert answers[0].has_answer == pytest.approx(1 / (1 + np.exp(-margin)))
        assert answers[1].text
    assert all(answers[0].text for answers in answers_of(spans, texts, None, 2))


def test_no_answer_is_as_likely_as_in_the_window_where_it_is_least_likely():
    model = Scripted()
    spans, windows = found(model, contexts(3), max_length=20)
    cls = TOKENIZER.cls_token_id
    null = float(model.start[cls] + model.end[cls])
    assert np.allclose(spans.null_scores_Q, null)
    firsts = spans.offsets[:-1]
    assert np.allclose(spans.margins_Q, spans.scores[firsts] - null)


def test_with_a_head_for_it_has_answer_is_that_of_the_surest_window():
    model = Scripted(has_answer=True)
    texts = contexts(3)
    spans, windows = found(model, texts, max_length=20)
    for row in range(3):
        places = np.flatnonzero(windows.encoded.rows_N == row)
        bounds = [windows.encoded.offsets[place : place + 2] for place in places]
        ids = [windows.encoded.ids[slice(*bound)].astype(np.int64) for bound in bounds]
        surest = max(float(model.start[torch.from_numpy(each)].mean()) for each in ids)
        assert spans.margins_Q[row] == pytest.approx(surest, abs=1e-5)


def test_a_context_without_any_token_has_no_answer():
    texts = ["\u200b", "w1 w2"]  # a space of no width, which the tokenizer drops
    spans, windows = found(Scripted(), texts)
    assert windows.context_sizes_N.tolist() == [0, 2]
    first, second = answers_of(spans, texts, None, 3)
    assert [answer.text for answer in first] == [""] and first[0].has_answer == 0.0
    assert second[0].text and spans.best_texts(texts)[0] == ""


def test_the_longest_answer_has_a_token():
    with pytest.raises(ConfigError, match="max_answer_length is 0; it must be at least 1"):
        DecodingSettings(0)
