"""The rows of an item vocabulary that are no items."""

PAD, MASK, UNK, CLS = 0, 1, 2, 3
FIRST_ITEM = 4
"""Rows below this one are special tokens, which are never ranked; rows from it on are items."""
