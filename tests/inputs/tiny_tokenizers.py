"""Tokenizers of a few tokens, with the templates of BERT and of XLM-RoBERTa."""

import json
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerFast

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
CHINESE = list("我们喜欢电影来到北京清华大学好不看的书店服务员态度很。，！")
SPECIALS = ["[PAD]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [
    *SPECIALS,
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    *"0123456789.,!?'",
    *(f"##{digit}" for digit in "0123456789"),
    *("hello", "world", "play", "##ing", "##ed", "long", "text", "2021"),
    *CHINESE,
]


def write_vocabulary(folder: Path, vocabulary=VOCABULARY, name: str = "config.json") -> Path:
    """Write a folder as BERT's checkpoints have them: a vocabulary and a config, no tokenizer."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    if name:
        config = {"model_type": "bert", "vocab_size": len(vocabulary)}
        (folder / name).write_text(json.dumps(config))
    return folder


@cache
def bert() -> BertTokenizer:
    """[CLS] a [SEP] b [SEP]; Chinese characters stand alone; text in lower case."""
    return BertTokenizer(vocab={token: row for row, token in enumerate(VOCABULARY)})


@cache
def xlm_roberta() -> PreTrainedTokenizerFast:
    """<s> a </s></s> b </s>; pieces of several characters, blanks written as ▁."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS, *"0123456789.,!?", *CHINESE]
    pieces += ["▁hello", "▁wor", "ld", "▁play", "ing", "我们", "喜欢", "▁我们", "电影", "清华大学"]
    scores = [(piece, -10.0 if len(piece) == 1 else -2.0) for piece in pieces]
    backend = Tokenizer(models.Unigram(scores, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    roles = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>"}
    roles |= {"unk": "<unk>", "mask": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{role}_token": token for role, token in roles.items()}
    )
