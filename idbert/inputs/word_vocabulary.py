"""Vocabularies of whole words: what stands between blanks is a token, as ids in "12 34 5" are."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int64
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from idbert.errors import ConfigError, DataError
from idbert.inputs.tokenizers import MIN_VOCABULARY, SPECIAL_TOKENS, as_bert_tokenizer
from idbert.inputs.tokens import tokenize
from idbert.inputs.word_masking import maskable_tokens

logger = logging.getLogger(__name__)


def train_word_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 8000,
    *,
    lowercase: bool = False,
    min_frequency: int = 1,
) -> PreTrainedTokenizerFast:
    """Make a vocabulary of the words of texts, with BERT's special tokens and template.

    A word is what stands between blanks, and no word is cut: ids that stand for words, anonymised
    texts, or texts that were cut into words before. The most frequent ones come first, equal ones
    in alphabetical order; all others are unknown. `save_pretrained` saves what is returned,
    `open_tokenizer` opens it.

    Args:
        texts: kept in memory.
        vocab_size: the most tokens, special tokens included.
        lowercase: read capital letters as small ones.
        min_frequency: how often a word must occur.

    Raises:
        ConfigError: `vocab_size` has no room for a word.
        DataError: there is no text, or no word is frequent enough.
    """
    texts = texts if isinstance(texts, Sequence) else list(texts)
    if not any(text.strip() for text in texts):
        raise DataError(f"{len(texts)} texts hold nothing to make a vocabulary of.")
    if vocab_size < MIN_VOCABULARY:
        raise ConfigError(f"vocab_size is {vocab_size}; it must be at least {MIN_VOCABULARY}.")
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    settings = trainers.WordLevelTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    backend.train_from_iterator(texts, settings)
    num_words = backend.get_vocab_size() - len(SPECIAL_TOKENS)
    if num_words < 1:
        raise DataError(
            f"no word of {len(texts)} texts occurs {min_frequency} times. Lower min_frequency."
        )
    tokenizer = as_bert_tokenizer(backend)
    ids = tokenize(texts, tokenizer).ids
    logger.info(
        "a vocabulary of %d words; %.2f %% of the texts' words are unknown",
        num_words,
        100 * (ids == tokenizer.unk_token_id).mean(),
    )
    return tokenizer


def token_counts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, num_rows: int | None = None
) -> Int64[np.ndarray, "V"]:
    """Return how often each token occurs in texts; 0 for special and [unused] tokens.

    Args:
        texts: any strings.
        tokenizer: a fast one.
        num_rows: V, where a model has more rows than the tokenizer has tokens.
    """
    is_word_V = maskable_tokens(tokenizer)
    counts_V = np.bincount(tokenize(texts, tokenizer).ids, minlength=len(is_word_V))
    counts_V[~is_word_V] = 0
    missing = 0 if num_rows is None else max(0, num_rows - len(counts_V))
    padded_V: np.ndarray = np.pad(counts_V, (0, missing)).astype(np.int64)
    return padded_V
