"""A behaviour log on its way to batches: interactions, vocabulary, splits, sequences, masks."""
