"""Ranks over the full catalogue, metrics with intervals, baselines, the report."""
