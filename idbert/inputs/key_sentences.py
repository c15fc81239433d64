"""The sentences that say most of a long text, found by TextRank."""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64
from scipy import sparse

from idbert.inputs.words import words_of

DAMPING, TOLERANCE, MOST_ROUNDS = 0.85, 1e-6, 100
_SENTENCE = re.compile(
    r"""(?: [^。！？!?；;…\n.]               # anything but the end of a sentence,
          | \.(?!\s|$)                      # a dot inside a number or a name,
        )*
        (?: [。！？!?；;…\n.]+ [”’"'」』）)\]]* # the end, with the quotes that close there,
          | $ )
        \s*                                # and the blanks up to the next
    """,
    re.VERBOSE,
)


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences, each with its end mark and the blanks behind it.

    Nothing is lost: the sentences joined are the text.
    """
    return [sentence for sentence in _SENTENCE.findall(text) if sentence]


def key_sentences(
    texts: Sequence[str],
    budgets: Sequence[int],
    count_tokens: Callable[[list[str]], Sequence[int]],
) -> list[str]:
    """Shorten each text to its most important sentences, in their old order.

    The best sentence is always taken (and must be cut where it alone is too long), then in order of
    rank each one that still fits.

    Args:
        texts: the long texts.
        budgets: the tokens that each may keep.
        count_tokens: the number of tokens of each of some sentences.
    """
    sentences_of = [split_sentences(text) for text in texts]
    lengths = iter(count_tokens([s for sentences in sentences_of for s in sentences]))
    shortened = []
    for sentences, budget in zip(sentences_of, budgets, strict=True):
        sizes = [next(lengths) for _ in sentences]
        best = np.argsort(-rank_sentences(sentences), kind="stable")
        chosen, left = [], math.inf  # the first fits whatever its length
        for place in best.tolist():
            if sizes[place] <= left:
                chosen.append(place)
                left = min(left, budget) - sizes[place]
        shortened.append("".join(sentences[place] for place in sorted(chosen)))
    return shortened


def rank_sentences(sentences: Sequence[str]) -> Float64[np.ndarray, "_"]:
    """Return the importance of each sentence: its PageRank among sentences that share words.

    similarity(a, b) = |words of both| / (log(1 + |a|) + log(1 + |b|)); the 1 keeps sentences of one
    word, for which the published formula divides by 0.

    Source: Mihalcea and Tarau 2004 (TextRank), section 4.1.
    """
    words = [sorted(set(words_of(sentence))) for sentence in sentences]
    columns = {word: place for place, word in enumerate(sorted({w for ws in words for w in ws}))}
    indices = [columns[word] for ws in words for word in ws]
    offsets = np.cumsum([0, *(len(ws) for ws in words)])
    holds = sparse.csr_array(
        (np.ones(len(indices)), indices, offsets), shape=(len(words), len(columns))
    )
    sizes = np.log1p(np.diff(offsets))
    similarity = (holds @ holds.T).tocoo()
    row, column = similarity.coords
    values = np.where(row == column, 0.0, similarity.data)
    values /= np.maximum(sizes[row] + sizes[column], np.log(2))
    return _pagerank(sparse.csr_array((values, (row, column)), shape=similarity.shape))


def _pagerank(weights_NN: sparse.csr_array) -> Float64[np.ndarray, "N"]:
    """Return the PageRank of each node; a node without edges hands its rank on to all alike.

    r = d (P^T r + lost / N) + (1 - d) / N, to a change below N * 1e-6, as networkx has it; without
    its objects for each edge, of which sentences have nearly as many as there are pairs.

    Source: Page, Brin, Motwani and Winograd 1999.
    """
    count = weights_NN.shape[0]
    if count == 0:
        return np.zeros(0)
    totals_N = weights_NN.sum(axis=1)
    shares_N = np.divide(1.0, totals_N, out=np.zeros(count), where=totals_N > 0)
    ranks_N = np.full(count, 1 / count)
    for _ in range(MOST_ROUNDS):
        before_N = ranks_N
        lost = before_N[totals_N == 0].sum()
        handed_on_N = weights_NN.T @ (before_N * shares_N)
        ranks_N = DAMPING * (handed_on_N + lost / count) + (1 - DAMPING) / count
        if np.abs(ranks_N - before_N).sum() < count * TOLERANCE:
            break
    return ranks_N
