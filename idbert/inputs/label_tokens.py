"""Labels as words: one more token behind a text or a pair, hidden and restored like any other."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64
from transformers import PreTrainedTokenizerBase

from idbert.errors import ConfigError, DataError
from idbert.inputs.batch_plan import PlannedBatch
from idbert.inputs.masked_texts import MaskedTextData
from idbert.inputs.masking import draws, sequence_keys
from idbert.inputs.planned_loader import Batch
from idbert.inputs.text import EncodedTexts
from idbert.inputs.word_masking import WordMaskingSettings

UNKNOWN_LABEL = "[LABEL_?]"
"""Stands behind texts whose label nobody knows; it is never to be restored."""

_LABEL = re.compile(r"\[LABEL_(.+)\]", re.DOTALL)
_TARGETS = 3
"""The purpose of the draws that choose the texts whose label is hidden."""


def label_token(name: str) -> str:
    """Return the token of a label, such as [LABEL_1]."""
    return f"[LABEL_{name}]"


def add_label_tokens(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> None:
    """Add the tokens of labels, and UNKNOWN_LABEL, to a tokenizer; those that it has stay.

    They are special tokens: never hidden as words, and never put in place of one.

    Raises:
        DataError: a label is called "?", or is empty.
    """
    wrong = [name for name in names if name == "?" or not name]
    if wrong:
        raise DataError(
            f"a label is called '{wrong[0]}', which stands for texts without a label. Rename it, "
            "or leave the cell empty."
        )
    known = tokenizer.get_vocab()
    tokens = [token for token in [*map(label_token, names), UNKNOWN_LABEL] if token not in known]
    if tokens:
        tokenizer.add_special_tokens(
            {"extra_special_tokens": tokens}, replace_extra_special_tokens=False
        )


def label_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the ids of the labels that a tokenizer has tokens of, by name, in order of the ids."""
    found = {
        matched[1]: row
        for token, row in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        if token != UNKNOWN_LABEL and (matched := _LABEL.fullmatch(token))
    }
    return found


def with_last_token(encoded: EncodedTexts, tokens_N: Int64[np.ndarray, "N"]) -> EncodedTexts:
    """Return sequences with one more token at the end of each, of the type of the one before it.

    Args:
        encoded: N sequences.
        tokens_N: the id that each ends with.
    """
    ends = encoded.offsets[1:]
    types, marks = encoded.type_ids, encoded.starts_word
    return replace(
        encoded,
        ids=np.insert(encoded.ids, ends, tokens_N.astype(np.int32)),
        offsets=encoded.offsets + np.arange(len(encoded.offsets)),
        type_ids=None if types is None else np.insert(types, ends, types[ends - 1]),
        starts_word=None if marks is None else np.insert(marks, ends, True),
    )


class LabelledTextData(MaskedTextData):
    """Masked texts, or pairs, that end with the token of their label.

    In a share of the sequences, drawn anew every epoch, the label is replaced by the mask and to be
    restored. In the others it is seen, and helps to restore words. A label that nobody knows is
    always seen, as [LABEL_?].

    Args:
        encoded: the texts, without labels; one position below what the model reads.
        tokenizer: that encoded them and has the tokens of the labels.
        masking: which words are hidden and by what.
        labels_N: the token of each text's label; that of UNKNOWN_LABEL where nobody knows it.
        label_probability: chance of a known label to be a target.
        seed: of the run.

    Raises:
        ConfigError: the probability is none, or words are to be hidden that nobody marked.
        DataError: there are more or fewer labels than texts.
        CheckpointError: the tokenizer has no mask token.

    Source: BERT's masked words (Devlin et al. 2019, section 3.1), with the class as a word of the
        text, as in pattern-exploiting training (Schick and Schuetze 2021).
    """

    def __init__(
        self,
        encoded: EncodedTexts,
        tokenizer: PreTrainedTokenizerBase,
        masking: WordMaskingSettings,
        labels_N: Int64[np.ndarray, "N"],
        *,
        label_probability: float | int,
        seed: int,
    ) -> None:
        check_label_probability(label_probability)
        if len(labels_N) != encoded.num_texts:
            raise DataError(f"{encoded.num_texts} texts have {len(labels_N)} labels.")
        labels_N = labels_N[encoded.rows_N]
        super().__init__(with_last_token(encoded, labels_N), tokenizer, masking, seed=seed)
        unknown = tokenizer.convert_tokens_to_ids(UNKNOWN_LABEL)
        self.label_ids_C = np.array(list(label_ids(tokenizer).values()), np.int64)
        """The tokens of the labels, in the order of `label_ids`."""
        self.known_N = labels_N != unknown
        """Of which sequences the label is known."""
        self.labels_N = labels_N
        self.pad_id = int(tokenizer.pad_token_id)
        self._probability, self._seed = label_probability, seed
        self._mask_id = int(tokenizer.mask_token_id)

    @property
    def asked(self) -> EncodedTexts:
        """The sequences with every label hidden, known or not, and no word."""
        ids = self.encoded.ids.copy()
        ids[self.encoded.offsets[1:] - 1] = self._mask_id
        return replace(self.encoded, ids=ids)

    def __getitems__(self, planned: PlannedBatch) -> Batch:
        """Build one batch: that of masked texts, with labels hidden too."""
        batch = super().__getitems__(planned)
        places_B = planned.sequences
        key_B = sequence_keys(self._seed, planned.epoch, places_B)
        drawn_B = draws(key_B, _TARGETS, 1)[:, 0] < self._probability
        rows_M = np.flatnonzero(drawn_B & self.known_N[places_B])
        hidden = (torch.from_numpy(rows_M), torch.from_numpy(self._last(places_B[rows_M])))
        batch["labels"][hidden] = torch.from_numpy(self.labels_N[places_B[rows_M]])
        batch["input_ids"][hidden] = self._mask_id
        return batch

    def _last(self, places_M: Int64[np.ndarray, "M"]) -> Int64[np.ndarray, "M"]:
        last_M: np.ndarray = self.input_lengths[places_M] - 1
        return last_M


def check_label_probability(probability: float | int) -> None:
    """Refuse what is no chance of a label to be hidden.

    Raises:
        ConfigError: it is 0, so that no label is ever asked for, or outside 0 to 1.
    """
    if not 0 < probability <= 1:
        raise ConfigError(
            f"label_probability is {probability}; it must be above 0 and at most 1. To learn "
            "without labels, leave label_column out."
        )
