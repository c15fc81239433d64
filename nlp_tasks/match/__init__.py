"""Matching: two texts read by towers, compared as vectors, and searched among many."""

from nlp_tasks.match.pairs import PairExamples, PairSettings, read_pairs

__all__ = ["PairExamples", "PairSettings", "read_pairs"]
