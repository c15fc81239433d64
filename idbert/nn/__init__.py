"""The encoder, its fusion, and the item models that stand on it."""
