"""Tokenizers: opened from any published folder, or trained on texts."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from idbert.errors import CheckpointError, ConfigError, DataError

logger = logging.getLogger(__name__)

MIN_VOCABULARY = 6
"""The five special tokens of BERT and one more: with fewer, every text would be unknown."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's, in the order of their ids in every vocabulary that is made here."""

ROLES = ("pad", "unk", "cls", "sep", "mask")
"""What the special tokens are for, in the same order; a tokenizer has `pad_token_id` and so on."""

_USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}


def open_tokenizer(
    folder_or_name: str | Path, *, vocab_size: int | None = None
) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a published checkpoint or of a run.

    A folder holds `tokenizer.json`, or `vocab.txt` as BERT's do (with `config.json`, with the older
    `bert_config.json`, or alone). Where nothing says whether a `vocab.txt` is for lower-cased text,
    it is unless it holds capital letters.

    Args:
        folder_or_name: A folder, or a name on the hub.
        vocab_size: Rows of the model's embedding table; None: those of the config in the folder, if
            there is one.

    Raises:
        CheckpointError: there is no tokenizer, it is damaged, has a vocabulary that cannot be
            right (almost nothing in it, special tokens missing, more tokens than the model has
            rows), or exists only in slow Python.
    """
    folder = Path(folder_or_name)
    if folder.is_dir():
        tokenizer = _open_folder(folder)
        vocab_size = vocab_size or _vocab_size_beside(folder)
    elif folder.is_absolute() or len(folder.parts) > 2:
        raise CheckpointError(f"{folder} does not exist, so no tokenizer can be opened there.")
    else:
        tokenizer = _open_auto(str(folder_or_name))
    _check(tokenizer, str(folder_or_name), vocab_size)
    return tokenizer


def train_tokenizer(
    texts: Iterable[str],
    kind: Literal["wordpiece", "bpe"] = "wordpiece",
    vocab_size: int = 8000,
    *,
    lowercase: bool = True,
    min_frequency: int = 2,
) -> PreTrainedTokenizerFast:
    """Train a tokenizer with BERT's special tokens and template on texts.

    The same texts give the same vocabulary. "wordpiece" is BERT's: blanks, punctuation and every
    Chinese character part words, rare words are cut into pieces. "bpe" works on bytes as GPT-2's
    and RoBERTa's does, so no text is unknown to it, and Chinese words become tokens too.
    `save_pretrained` saves what is returned, `open_tokenizer` opens it.

    Args:
        texts: kept in memory.
        kind: how words are cut into pieces.
        vocab_size: the most tokens, special tokens included.
        lowercase: read capital letters as small ones (and, with "wordpiece", drop accents).
        min_frequency: how often a pair of pieces must occur to become one.

    Raises:
        ConfigError: `vocab_size` has no room for the letters (of "bpe", the 256 bytes).
        DataError: there is no text.

    Source: Devlin et al. 2019 (BERT); Radford et al. 2019 (GPT-2), section 2.2.
    """
    texts = texts if isinstance(texts, Sequence) else list(texts)
    if not any(text.strip() for text in texts):
        raise DataError(f"{len(texts)} texts hold nothing to train a vocabulary on.")
    backend = _untrained(kind, {}, lowercase)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bpe" else []
    specials = list(SPECIAL_TOKENS)
    _train(backend, kind, texts, specials, alphabet, 0, min_frequency)  # to the letters only
    letters = sorted(set(backend.get_vocab()) - set(specials))
    least = len(specials) + len(letters)
    if vocab_size < least:
        raise ConfigError(
            f"vocab_size is {vocab_size}; the letters of these texts and the special tokens are "
            f"{least} already. Raise it."
        )
    if kind == "wordpiece":
        # tokenizers numbers the letters inside words as it meets them, in an order that differs
        # from run to run and decides between pairs of equal count. As special tokens they are
        # numbered in advance; the vocabulary then goes into a tokenizer where they are none.
        numbered = specials + [letter for letter in letters if letter.startswith("##")]
        _train(backend, kind, texts, numbered, alphabet, vocab_size, min_frequency)
        backend = _untrained(kind, backend.get_vocab(), lowercase)
        backend.add_special_tokens(specials)
    else:
        _train(backend, kind, texts, specials, alphabet, vocab_size, min_frequency)
    logger.info("trained a %s vocabulary of %d tokens", kind, backend.get_vocab_size())
    return as_bert_tokenizer(backend)


def as_bert_tokenizer(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """Put BERT's template round a vocabulary that begins with SPECIAL_TOKENS."""
    ids = [(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=ids,
    )
    roles = zip(ROLES, SPECIAL_TOKENS, strict=True)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{role}_token": token for role, token in roles},
    )


def _untrained(kind: str, vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    """Return a tokenizer without its template, of a vocabulary or of none yet."""
    if kind == "wordpiece":
        backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
    else:
        backend = Tokenizer(models.BPE(unk_token="[UNK]"))
        steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
        backend.normalizer = normalizers.Sequence(steps)
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
    return backend


def _train(
    backend: Tokenizer,
    kind: str,
    texts: Sequence[str],
    specials: list[str],
    alphabet: list[str],
    vocab_size: int,
    min_frequency: int,
) -> None:
    trainer = trainers.WordPieceTrainer if kind == "wordpiece" else trainers.BpeTrainer
    settings = trainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=specials,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(texts, settings)


def _open_folder(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase
    if (folder / "tokenizer.json").is_file():
        tokenizer = _open_auto(str(folder))
        for role in ROLES:  # a tokenizer.json alone does not say which token is which
            usual = [token for token in _USUAL[role] if token in tokenizer.get_vocab()]
            if getattr(tokenizer, f"{role}_token") is None and usual:
                tokenizer.add_special_tokens({f"{role}_token": usual[0]})
        return tokenizer
    vocabulary = folder / "vocab.txt"
    if not vocabulary.is_file():
        return _open_auto(str(folder))
    # BertTokenizer's own argument `vocab_file` would be ignored, and every token be unknown.
    try:
        lines = vocabulary.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{vocabulary} is not UTF-8 ({error}). Copy it again.") from None
    is_configured = (folder / "tokenizer_config.json").is_file()
    guess: dict[str, Any] = {} if is_configured else {"do_lower_case": _lower(lines)}
    tokenizer = BertTokenizer.from_pretrained(folder, **guess)
    tokens = {getattr(tokenizer, f"{role}_token") for role in ROLES}
    added = tokens - set(lines)  # transformers added them behind the vocabulary's end
    if added:
        raise CheckpointError(
            f"{vocabulary} lacks the special token{'s' if len(added) > 1 else ''} "
            f"{', '.join(sorted(added))}: it is cut off, or not a BERT vocabulary. Copy it again."
        )
    return tokenizer


def _lower(lines: list[str]) -> bool:
    """Say whether a vocabulary is for lower-cased text: those of cased text hold all capitals."""
    return not {chr(code) for code in range(ord("A"), ord("Z") + 1)} <= set(lines)


def _open_auto(name: str) -> PreTrainedTokenizerBase:
    """Open by transformers' rules; code that a checkpoint brings along is never run."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, use_fast=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{name} holds no tokenizer that can be opened ({reason}). It needs tokenizer.json or "
            "vocab.txt; name a folder that has one."
        ) from error
    return tokenizer


def _vocab_size_beside(folder: Path) -> int | None:
    """Return the rows of the model in the same folder, if a config says so."""
    for name in ("config.json", "bert_config.json"):
        if (folder / name).is_file():
            try:
                size = json.loads((folder / name).read_text(encoding="utf-8")).get("vocab_size")
            except ValueError as error:
                raise CheckpointError(
                    f"{folder / name} is no JSON ({error}). Copy it again."
                ) from None
            return size if isinstance(size, int) else None
    return None


def _check(tokenizer: PreTrainedTokenizerBase, name: str, vocab_size: int | None) -> None:
    """Refuse a tokenizer whose ids cannot be right."""
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{name} has only a slow tokenizer in Python. Give a folder with a tokenizer.json."
        )
    size = len(tokenizer)
    if size < MIN_VOCABULARY:
        raise CheckpointError(
            f"{name} has a vocabulary of {size} tokens, so every text is unknown. "
            "Is its vocab.txt or tokenizer.json complete? Copy it again."
        )
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    if ids["pad"] is None:
        raise CheckpointError(
            f"{name} has no padding token; name one in its tokenizer_config.json."
        )
    if vocab_size is not None and size > vocab_size:
        raise CheckpointError(
            f"{name} has a vocabulary of {size} tokens, the model has rows for {vocab_size}. "
            "Tokenizer and model are of two checkpoints, or tokens were added: "
            "give the tokenizer of this model."
        )
