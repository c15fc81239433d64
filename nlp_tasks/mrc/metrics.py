"""Official figures of reading comprehension: exact match and F1, English and Chinese.

All are shares from 0 to 1; the official programs print them times 100.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64

from idbert.errors import DataError
from idbert.inputs.words import is_chinese
from nlp_tasks.mrc.formats import Question

Language = Literal["english", "chinese"]

EXACT_MATCH, F1 = "exact_match", "f1"

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What the program of CMRC2018 takes for punctuation: not the English stop, comma and brackets; nor
the ellipsis, which its list holds as two characters, while it looks for single ones."""
_HAN = re.compile("[\u4e00-\u9fa5]")
_OTHER_WORDS = re.compile(r"\w+(?:\.\w+|(?<=\d),(?=\d)\w+)*|…+|[^\w\s]")
"""Words and marks between Chinese characters; 3.14 and 1,000 are one word. The program of CMRC2018
asks nltk for them, which parts some English words further (don't, iphone's)."""


@dataclass(frozen=True, eq=False)
class ReadingScores:
    """How good the answers to questions are, one by one.

    Attributes:
        exact_match_Q: 1 where the answer is one of those accepted, else 0.
        f1_Q: the overlap with the nearest of them.
        has_answer_Q: whether the question has an answer.
    """

    exact_match_Q: Float64[np.ndarray, "Q"]
    f1_Q: Float64[np.ndarray, "Q"]
    has_answer_Q: Bool[np.ndarray, "Q"]

    def means(self) -> dict[str, float]:
        """Return the figures of all questions.

        Where some have no answer, also of those with and of those without: the share of the latter
        that got none is their exact match.
        """
        figures = {
            EXACT_MATCH: float(self.exact_match_Q.mean()),
            F1: float(self.f1_Q.mean()),
        }
        has_Q = self.has_answer_Q
        if has_Q.all() or not has_Q.any():
            return figures
        return figures | {
            f"answerable_{EXACT_MATCH}": float(self.exact_match_Q[has_Q].mean()),
            f"answerable_{F1}": float(self.f1_Q[has_Q].mean()),
            f"unanswerable_{EXACT_MATCH}": float(self.exact_match_Q[~has_Q].mean()),
        }


def language_of(questions: Sequence[Question]) -> Language:
    """Return the language of the contexts: Chinese where most hold a Chinese character."""
    contexts = {question.context for question in questions}
    return "chinese" if sum(map(is_chinese, contexts)) > len(contexts) / 2 else "english"


def score_answers(
    predictions: Sequence[str], questions: Sequence[Question], language: Language
) -> ReadingScores:
    """Compare answers with those that are accepted; the best of several counts.

    Args:
        predictions: an answer to each question; "" where there is said to be none.
        questions: with the answers that are accepted.
        language: decides what is compared.

    Raises:
        DataError: there are more or fewer answers than questions, or none.

    Sources: Rajpurkar et al. 2016 and 2018 (SQuAD 1.1 and 2.0); Cui et al. 2019 (CMRC2018).
    """
    if len(predictions) != len(questions) or not predictions:
        raise DataError(f"{len(questions)} questions have {len(predictions)} answers.")
    exact = np.zeros(len(questions))
    overlap = np.zeros(len(questions))
    for place, (prediction, question) in enumerate(zip(predictions, questions, strict=True)):
        accepted = dict.fromkeys(question.answers or ("",))
        exact[place] = max(exact_match(prediction, answer, language) for answer in accepted)
        overlap[place] = max(f1(prediction, answer, language) for answer in accepted)
    has_answer_Q = np.array([question.has_answer for question in questions], bool)
    return ReadingScores(exact, overlap, has_answer_Q)


def exact_match(prediction: str, answer: str, language: Language) -> float:
    """Return 1 where two answers are the same but for what is not compared.

    English: upper case, punctuation, articles and blanks. Chinese: upper case and the marks that
    the program of CMRC2018 removes.
    """
    if language == "english":
        return float(_english_words(prediction) == _english_words(answer))
    return float(_without_marks(prediction) == _without_marks(answer))


def f1(prediction: str, answer: str, language: Language) -> float:
    """Return the harmonic mean of precision and recall of what two answers have in common.

    English: words, in any order. Chinese: the longest run of characters (of words, where these are
    not Chinese). Where one of them is empty: whether both are.
    """
    parts_of: Callable[[str], list[str]] = (
        _english_words if language == "english" else _chinese_parts
    )
    given, wanted = parts_of(prediction), parts_of(answer)
    if not given or not wanted:
        return float(given == wanted)
    if language == "english":
        common = sum((Counter(given) & Counter(wanted)).values())
    else:
        common = SequenceMatcher(None, given, wanted, autojunk=False).find_longest_match().size
    return 2 * common / (len(given) + len(wanted))


def best_threshold(
    margins_Q: Float[np.ndarray, "Q"], answered: ReadingScores
) -> tuple[float, ReadingScores]:
    """Find above which margin a question is best answered, by F1 of all questions.

    Args:
        margins_Q: by how much an answer is more likely than none.
        answered: the scores of the best spans, as if every question were answered. Questions
            without an answer score 1 where they are not answered and 0 where they are.

    Returns:
        The threshold, half-way between two margins, or below all of them where every question is
        best answered; and the scores with it.

    Source: Rajpurkar et al. 2018 (SQuAD 2.0), whose program searches the same way.
    """
    has_Q = answered.has_answer_Q
    order = np.argsort(-margins_Q, kind="stable")
    # gains[n]: the sum of scores where the n questions of the highest margins are answered
    gain_Q = np.where(has_Q, answered.f1_Q, -1.0)[order]
    totals = np.concatenate([[0.0], np.cumsum(gain_Q)])
    sorted_margins = margins_Q[order]
    can_cut = np.concatenate([[True], sorted_margins[1:] < sorted_margins[:-1], [True]])
    best = int(np.argmax(np.where(can_cut, totals, -np.inf)))
    threshold = _between(sorted_margins, best)
    return threshold, with_threshold(answered, margins_Q, threshold)


def with_threshold(
    answered: ReadingScores, margins_Q: Float[np.ndarray, "Q"], threshold: float | int | None
) -> ReadingScores:
    """Return the scores where questions with a margin up to the threshold get no answer.

    Args:
        answered: the scores of the best spans.
        margins_Q: by how much an answer is more likely than none.
        threshold: None: all are answered.
    """
    if threshold is None:
        return answered
    no_answer_Q = margins_Q <= threshold
    right_Q = (~answered.has_answer_Q).astype(np.float64)
    return ReadingScores(
        np.where(no_answer_Q, right_Q, answered.exact_match_Q),
        np.where(no_answer_Q, right_Q, answered.f1_Q),
        answered.has_answer_Q,
    )


def _between(sorted_margins: Float[np.ndarray, "Q"], count: int) -> float:
    """Return a threshold that the first `count` margins, in descending order, lie above."""
    if count == len(sorted_margins):
        finite = sorted_margins[np.isfinite(sorted_margins)]
        return float(finite.min() - 1) if len(finite) else 0.0
    below = float(sorted_margins[count])
    if count == 0 or not np.isfinite(below):
        return below if np.isfinite(below) else float(sorted_margins[count - 1]) - 1
    return (below + float(sorted_margins[count - 1])) / 2


def _english_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _without_marks(text: str) -> str:
    return "".join(c for c in text.lower().strip() if c not in _CHINESE_MARKS)


def _chinese_parts(text: str) -> list[str]:
    """Return Chinese characters one by one, and what stands between them as words."""
    spaced = _HAN.sub(lambda found: f" {found[0]} ", _without_marks(text))
    return _OTHER_WORDS.findall(spaced)
