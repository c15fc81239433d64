"""A text cut into as few and as even parts as possible, at the ends of its sentences."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from idbert.inputs.key_sentences import split_sentences

Span = tuple[int, int]
"""First character, and the one behind the last."""

_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_UNIT = re.compile(rf"[{_CHINESE}]|[^\W{_CHINESE}]{{1,12}}|[^\w\s]")
"""What counts as one in a length: about a token of a BERT, whichever the language."""
_CLAUSE_END = re.compile(r"(?:[，、：]|[,:](?=\s)|——|\s[-–—]\s)[”’\"'」』）)\]]*\s*")


def cut_text(
    text: str, max_length: int | None, kept_whole: Sequence[Span] | None = None
) -> list[Span]:
    """Cut a text into as few paragraphs as possible, and among these into the most even ones.

    A dynamic programme over the ends of sentences: cost = (paragraphs, sum of squared lengths). Of
    a sentence that alone is longer, the ends of its clauses are such places too, and of a longer
    clause any character or word.

    Args:
        text: the document.
        max_length: of a paragraph, as in ParagraphSettings; None: the text stays whole.
        kept_whole: characters that are not to be parted. Where they alone are longer than
            max_length, so is their paragraph.

    Returns:
        The paragraphs, without the blanks at their ends; empty for a text of blanks.

    Source: the optimum-fit line breaking of Knuth and Plass 1981, with squared lengths.
    """
    if max_length is None:
        return _stripped(text, [0, len(text)])
    units = np.fromiter((match.start() for match in _UNIT.finditer(text)), np.int64)
    is_free = np.ones(len(text) + 1, bool)
    for start, end in kept_whole or ():
        is_free[start + 1 : end] = False
    cutter = _Cutter(text, units, is_free, max_length)
    sentences = np.cumsum([len(sentence) for sentence in split_sentences(text)])
    bounds = cutter.refined([0, *sentences.tolist()])
    return _stripped(text, cutter.chosen(np.array(bounds, np.int64)))


class _Cutter:
    """Places at which one text may be cut, and the best choice among them."""

    def __init__(
        self,
        text: str,
        units: Int64[np.ndarray, "_"],
        is_free: Bool[np.ndarray, "_"],
        max_length: int,
    ) -> None:
        self._text, self._units, self._is_free = text, units, is_free
        self._max_length = max_length

    def refined(self, bounds: list[int]) -> list[int]:
        """Add places to cut at where the text between two bounds is too long."""
        refined = [bounds[0]]
        for start, end in _between(self._allowed(bounds)):
            if self._length(start, end) > self._max_length:
                ends = [m.end() for m in _CLAUSE_END.finditer(self._text, start, end)]
                for first, last in _between(self._allowed([start, *ends, end])):
                    refined += [*self._hard(first, last), last]
            else:
                refined.append(end)
        return refined

    def chosen(self, bounds: Int64[np.ndarray, "_"]) -> list[int]:
        """Choose the bounds that make the fewest and then the most even paragraphs."""
        places = np.searchsorted(self._units, bounds)
        longest = max(int(np.diff(places).max(initial=0)), self._max_length)
        a_piece = int(places[-1] + 1) * longest  # above every sum of squares
        costs = np.zeros(len(bounds), np.int64)
        before = np.zeros(len(bounds), np.int64)
        firsts = np.searchsorted(places, places - self._max_length)
        for j in range(1, len(bounds)):
            first = min(int(firsts[j]), j - 1)
            options = costs[first:j] + (places[j] - places[first:j]) ** 2
            best = int(options.argmin())
            costs[j], before[j] = options[best] + a_piece, first + best
        path = [len(bounds) - 1]
        while path[-1] > 0:
            path.append(int(before[path[-1]]))
        return [int(bounds[place]) for place in reversed(path)]

    def _hard(self, start: int, end: int) -> list[int]:
        """Return cuts between any two units, about even, where a clause is too long."""
        cuts = []
        while (length := self._length(start, end)) > self._max_length:
            step = -(-length // -(-length // self._max_length))
            place = int(np.searchsorted(self._units, start)) + step
            cut = int(self._units[place]) if place < len(self._units) else end
            while cut > start and not self._is_free[cut]:
                cut -= 1
            if cut == start:  # an answer begins here, and is longer
                cut = start + 1
                while cut < end and not self._is_free[cut]:
                    cut += 1
            if cut >= end:
                break
            cuts.append(cut)
            start = cut
        return cuts

    def _length(self, start: int, end: int) -> int:
        first, last = np.searchsorted(self._units, [start, end])
        return int(last - first)

    def _allowed(self, bounds: list[int]) -> list[int]:
        inner = (bound for bound in bounds[1:-1] if bounds[0] < bound < bounds[-1])
        return [bounds[0], *(bound for bound in inner if self._is_free[bound]), bounds[-1]]


def _between(bounds: list[int]) -> list[Span]:
    return list(zip(bounds, bounds[1:], strict=False))


def _stripped(text: str, bounds: list[int]) -> list[Span]:
    spans = []
    for start, end in _between(bounds):
        piece = text[start:end]
        first = start + len(piece) - len(piece.lstrip())
        if stripped := piece.strip():
            spans.append((first, first + len(stripped)))
    return spans
