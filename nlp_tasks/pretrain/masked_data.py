"""Documents made into masked sequences: windows of texts, or pairs of their segments."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32
from transformers import PreTrainedTokenizerBase

from idbert.errors import DataError
from idbert.inputs.label_tokens import UNKNOWN_LABEL, LabelledTextData, label_ids
from idbert.inputs.masked_texts import MaskedTextData
from idbert.inputs.sentence_pairs import Segments, SentencePairData
from idbert.inputs.special_tokens import SpecialTokens
from idbert.inputs.text import TextSettings, encode_texts
from idbert.inputs.word_masking import WordMaskingSettings, maskable_tokens
from nlp_tasks.pretrain.pairs import TextPairs

WordData = MaskedTextData | SentencePairData


def masked_data(
    documents: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    masking: WordMaskingSettings,
    *,
    max_length: int,
    next_sentence: bool,
    seed: int,
    num_token_types: int = 2,
) -> WordData:
    """Return sequences of at most `max_length` tokens, of which other ones are hidden every epoch.

    A long document becomes several windows that together hold all of it; they overlap only where
    the last one is moved back to be full. For next-sentence prediction documents are cut into pairs
    of segments of whole sentences (see `Segments.of`).

    Args:
        documents: the texts.
        tokenizer: of the model.
        masking: which tokens are hidden and by what.
        max_length: positions of a sequence, special tokens included.
        next_sentence: whether to make pairs.
        seed: of the masks, and of the pairs.
        num_token_types: segments that the encoder tells apart.

    Raises:
        ConfigError: no room for text beside the special tokens.
        CheckpointError: the tokenizer has no mask token.
        DataError: the tokenizer knows nothing of the texts, or too few documents have two
            sentences.
    """
    by_word = masking.unit != "token"
    if next_sentence:
        segments = Segments.of(documents, tokenizer, max_length=max_length, mark_words=by_word)
        _check_known(segments.tokens.ids, tokenizer)
        return SentencePairData(
            segments, tokenizer, masking, seed=seed, num_token_types=num_token_types
        )
    room = max_length - SpecialTokens.of(tokenizer).single.size
    encoded = encode_texts(
        documents,
        tokenizer,
        TextSettings(max_length, "windows", window_stride=room if room > 0 else None),
        mark_words=by_word,
        num_token_types=num_token_types,
    )
    _check_known(encoded.ids, tokenizer)
    return MaskedTextData(encoded, tokenizer, masking, seed=seed)


def masked_pairs(
    pairs: TextPairs,
    tokenizer: PreTrainedTokenizerBase,
    masking: WordMaskingSettings,
    *,
    max_length: int,
    label_probability: float | int,
    seed: int,
    num_token_types: int = 2,
) -> MaskedTextData:
    """Return pairs as sequences of at most `max_length` tokens; the longer text is cut first.

    With labels, each ends with the token of its label, which the tokenizer must have.

    Args:
        pairs: the texts, and their labels if they have any.
        tokenizer: of the model.
        masking: which tokens are hidden and by what.
        max_length: positions of a sequence, special tokens and label included.
        label_probability: chance of a known label to be hidden.
        seed: of the masks.
        num_token_types: segments that the encoder tells apart.

    Raises:
        ConfigError: no room for two texts beside the special tokens.
        CheckpointError: the tokenizer has no mask token.
        DataError: the tokenizer knows nothing of the texts.
    """
    is_labelled = pairs.labels is not None
    encoded = encode_texts(
        pairs.firsts,
        tokenizer,
        TextSettings(max_length - is_labelled),
        pairs.seconds,
        mark_words=masking.unit != "token",
        num_token_types=num_token_types,
    )
    _check_known(encoded.ids, tokenizer)
    if pairs.labels is None:
        return MaskedTextData(encoded, tokenizer, masking, seed=seed)
    ids = label_ids(tokenizer)
    unknown = int(tokenizer.convert_tokens_to_ids(UNKNOWN_LABEL))
    of_pairs = (unknown if label is None else ids[label] for label in pairs.labels)
    return LabelledTextData(
        encoded,
        tokenizer,
        masking,
        np.fromiter(of_pairs, np.int64, len(pairs)),
        label_probability=label_probability,
        seed=seed,
    )


def _check_known(ids: Int32[np.ndarray, "T"], tokenizer: PreTrainedTokenizerBase) -> None:
    if not maskable_tokens(tokenizer)[ids].any():
        raise DataError(
            "no text holds a token that the tokenizer knows, so there is nothing to learn. Is it a "
            "model of another language?"
        )
