"""On the way to batches: interactions, vocabulary, splits, sequences; or texts, tokens; masks."""
