"""Vocabularies of whole words."""

import numpy as np
import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs.tokenizers import SPECIAL_TOKENS, open_tokenizer
from idbert.inputs.word_vocabulary import token_counts, train_word_tokenizer
from tests.inputs.tiny_tokenizers import bert

TEXTS = ["12 34 5", "34 5 34", "9 5 B,b 34"]


def tokens(tokenizer) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


def test_words_stand_in_order_of_their_frequency_and_then_of_the_alphabet():
    assert tokens(train_word_tokenizer(TEXTS)) == [*SPECIAL_TOKENS, "34", "5", "12", "9", "B,b"]


def test_a_word_is_never_cut_and_an_unknown_one_stays_one_token(tmp_path):
    made = train_word_tokenizer(TEXTS)
    made.save_pretrained(tmp_path)
    opened = open_tokenizer(tmp_path)
    assert opened("34 345", "5")["input_ids"] == [2, 5, 1, 3, 6, 3]
    assert opened("34", "5")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert opened.decode([5, 9]) == "34 B,b" and tokens(opened) == tokens(made)


def test_each_setting_of_a_vocabulary_of_words_acts():
    assert tokens(train_word_tokenizer(TEXTS, 7))[5:] == ["34", "5"]
    assert tokens(train_word_tokenizer(TEXTS, min_frequency=2))[5:] == ["34", "5"]
    lower = train_word_tokenizer(TEXTS, lowercase=True)
    assert "b,b" in tokens(lower) and lower("B,B")["input_ids"] == lower("b,b")["input_ids"]


def test_texts_without_words_and_vocabularies_without_room_are_refused():
    with pytest.raises(DataError, match="2 texts hold nothing to make a vocabulary of"):
        train_word_tokenizer(["", " "])
    with pytest.raises(DataError, match="no word of 3 texts occurs 9 times. Lower min_frequency"):
        train_word_tokenizer(TEXTS, min_frequency=9)
    with pytest.raises(ConfigError, match="vocab_size is 5; it must be at least 6"):
        train_word_tokenizer(TEXTS, 5)


def test_counts_are_those_of_the_tokens_without_special_and_unused_ones():
    tokenizer = bert()
    counts_V = token_counts(["hello hello world", "[MASK] [unused1] hello"], tokenizer, 200)
    vocabulary = tokenizer.get_vocab()
    assert len(counts_V) == 200 and counts_V.dtype == np.int64
    assert counts_V[vocabulary["hello"]] == 3 and counts_V[vocabulary["world"]] == 1
    assert counts_V[tokenizer.mask_token_id] == 0 and counts_V[vocabulary["[unused1]"]] == 0
