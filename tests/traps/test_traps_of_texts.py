"""Traps of BERT fine-tuning code, each of which has been met in the wild: texts on their way in.

Every check is a law that sound code obeys; beside it stands faulty code that breaks it, so that the
check itself is known to bite.
"""

import re
from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
import pytest
from transformers import BertTokenizer

from idbert.inputs.batch_plan import BatchPlan, BatchSettings
from idbert.inputs.key_sentences import key_sentences, rank_sentences, split_sentences
from idbert.inputs.planned_loader import Batch, train_loader
from idbert.inputs.templates import Templates, TemplateSettings
from idbert.inputs.text import EncodedTexts, TextSettings, encode_texts
from idbert.inputs.text_batches import TextData
from idbert.inputs.tokenizers import open_tokenizer
from nlp_tasks.cls.parts import ClassificationData, read_parts
from nlp_tasks.cls.reading import TextReader
from tests.inputs.tiny_tokenizers import VOCABULARY, bert, write_vocabulary
from tests.nlp_tasks.text_world import texts, write

TEXTS = ["hello playing 2021", "long text", "我们喜欢电影!", "play"]
PAIRS = ["world", "hello world, long text", "不好看", "played"]


def sequences(encoded: EncodedTexts) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]


# 14. Characters for tokens, one [SEP] too many, padding to the maximum, inputs written over


Encode = Callable[[Sequence[str], Sequence[str] | None], list[list[int]]]


def check_tokens_are_those_of_the_tokenizer(encode: Encode) -> None:
    separator = bert().sep_token_id
    for pairs, separators in ((None, 1), (PAIRS, 2)):
        found = encode(TEXTS, pairs)
        assert found == bert()(TEXTS, pairs)["input_ids"]
        assert all(ids.count(separator) == separators for ids in found)


def test_texts_become_what_the_tokenizer_makes_of_them():
    check_tokens_are_those_of_the_tokenizer(
        lambda texts, pairs: sequences(encode_texts(texts, bert(), pairs=pairs))
    )

    def by_character(texts: Sequence[str], pairs: Sequence[str] | None) -> list[list[int]]:
        return [
            bert().convert_tokens_to_ids(["[CLS]", *text, "[SEP]", *(pair or ""), "[SEP]"])
            for text, pair in zip(texts, pairs or [""] * len(texts), strict=True)
        ]

    with pytest.raises(AssertionError):
        check_tokens_are_those_of_the_tokenizer(by_character)


def test_the_first_separator_belongs_to_the_first_segment():
    encoded = encode_texts(TEXTS, bert(), pairs=PAIRS)
    expected = np.concatenate(bert()(TEXTS, PAIRS)["token_type_ids"])
    assert encoded.type_ids.tolist() == expected.tolist()
    assert encode_texts(TEXTS, bert()).type_ids is None


def text_batches_of(data: TextData) -> list[Batch]:
    plan = BatchPlan(data.input_lengths, BatchSettings(token_budget=40), seed=0)
    return list(train_loader(data, plan))


def check_no_batch_is_wider_than_its_longest_text(batches: Sequence[Batch]) -> None:
    for batch in batches:
        assert batch["input_ids"].shape[1] == batch["attention_mask"].sum(1).max()


def test_batches_are_padded_to_their_longest_text_and_made_of_tokens_that_are_kept():
    labels = np.arange(4)
    data = TextData(encode_texts(TEXTS, bert(), TextSettings(512)), labels, pad_id=0)
    tokenizing = mock.patch("idbert.inputs.text.tokenize", side_effect=AssertionError("once more"))
    with tokenizing:
        for _ in range(2):  # epochs
            check_no_batch_is_wider_than_its_longest_text(text_batches_of(data))
        with pytest.raises(AssertionError, match="once more"):
            encode_texts(TEXTS, bert())
    padded = bert()(TEXTS, padding="max_length", max_length=512, return_tensors="pt")
    with pytest.raises(AssertionError):
        check_no_batch_is_wider_than_its_longest_text([padded])


def test_reading_a_file_leaves_it_as_it_was(tmp_path):
    file = write(texts(30), tmp_path / "train.jsonl")
    before, when = file.read_bytes(), file.stat().st_mtime_ns
    read_parts(ClassificationData(train=str(file)))
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (before, when)
    assert list(tmp_path.iterdir()) == [file]


LONG = "Cats like milk. Dogs like bones! Cats and dogs like milk and bones. It rains. Who cares?"
Shorten = Callable[[str, int], str]


def check_key_sentences_are_whole_and_in_order(shorten: Shorten) -> None:
    """Of one sentence, of two, and of many, in any number of words."""
    for text in (LONG, "Cats like milk. Dogs like bones!", "Cats like milk."):
        for budget in (3, 6, 9, 12, 99):
            found = shorten(text, budget)
            kept = [part for part in split_sentences(text) if part.strip() in found]
            assert found and "".join(kept).strip() == found.strip()


def by_words(sentences: list[str]) -> list[int]:
    return [len(sentence.split()) for sentence in sentences]


def test_key_sentences_keep_their_characters_and_their_order_however_few_they_are():
    check_key_sentences_are_whole_and_in_order(
        lambda text, budget: key_sentences([text], [budget], by_words)[0]
    )

    def by_rank(text: str, budget: int) -> str:
        sentences = split_sentences(text)
        return "".join(sentences[place] for place in np.argsort(-rank_sentences(sentences)))

    def cut(text: str, budget: int) -> str:
        return "".join(sentence[:-2] for sentence in split_sentences(text))

    for faulty in (by_rank, cut):
        with pytest.raises(AssertionError):
            check_key_sentences_are_whole_and_in_order(faulty)


# 15. One tokenizer for training and another for prediction; offsets of another text


CASED = ["Hello World", "hello world", "PLAY long text"]
Reader = Callable[[Sequence[str]], EncodedTexts]


def check_both_read_alike(training: Reader, prediction: Reader) -> None:
    assert sequences(training(CASED)) == sequences(prediction(CASED))


@pytest.mark.parametrize("lower", [True, False])
def test_a_saved_reader_reads_as_the_one_that_trained(tmp_path, lower):
    capitals = [] if lower else ["H", "W", "##orld", "##ello"]
    write_vocabulary(tmp_path / "model", [*VOCABULARY, *capitals])
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "model", do_lower_case=lower)
    trained = TextReader(tokenizer, TextSettings(max_length=9, truncation="tail"))
    trained.save(tmp_path)
    loaded = TextReader.load(tmp_path)
    assert loaded.settings == trained.settings
    check_both_read_alike(trained.encode, loaded.encode)
    other = BertTokenizer.from_pretrained(tmp_path / "model", do_lower_case=not lower)
    with pytest.raises(AssertionError):
        check_both_read_alike(trained.encode, TextReader(other, trained.settings).encode)


def test_a_vocabulary_says_by_itself_whether_capitals_are_kept(tmp_path):
    folder = write_vocabulary(tmp_path / "lower")
    assert open_tokenizer(folder).tokenize("Hello") == ["hello"]
    letters = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    folder = write_vocabulary(tmp_path / "cased", [*VOCABULARY, *letters, "Hello"])
    assert open_tokenizer(folder).tokenize("Hello hello") == ["Hello", "hello"]


def check_words_begin_where_they_do(text: str, begins: Sequence[bool]) -> None:
    """Words in the text, counted without a tokenizer."""
    assert sum(begins) == len(re.findall(r"\w+|[^\w\s]", text))


def test_marks_of_words_are_those_of_the_same_tokens():
    text = "Playing, played: hello 2021 world!"
    encoded = encode_texts([text], bert(), mark_words=True)
    assert len(encoded.starts_word) == len(encoded.ids)
    check_words_begin_where_they_do(text, encoded.starts_word[1:-1])
    with pytest.raises(AssertionError):  # counted character by character
        check_words_begin_where_they_do(text, [True] * len(text.replace(" ", "")))


def test_sentences_that_are_dropped_are_gone_in_training_and_in_prediction(tmp_path):
    given = [f"dear all. text {number}. long play." for number in range(12)]
    templates = Templates.find(given, TemplateSettings(share=0.9))
    tokenizer = open_tokenizer(write_vocabulary(tmp_path / "model"))
    reader = TextReader(tokenizer, TextSettings(), templates=templates)
    plain = TextReader(tokenizer, TextSettings())
    reader.save(tmp_path)
    check_both_read_alike(reader.encode, TextReader.load(tmp_path).encode)
    assert sequences(TextReader.load(tmp_path).encode(given)) == sequences(
        plain.encode([f"text {number}." for number in range(12)])
    )
    with pytest.raises(AssertionError):  # what was changed and then not assigned
        assert sequences(reader.encode(given)) == sequences(plain.encode(given))


def check_truncation_is_counted(given: Sequence[str], settings: TextSettings, count: int) -> None:
    lengths = [len(ids) for ids in bert()(list(given))["input_ids"]]
    assert count == sum(length > settings.max_length for length in lengths)


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail", "key_sentences", "windows"])
def test_what_is_cut_off_is_counted(truncation):
    settings = TextSettings(max_length=8, truncation=truncation)
    given = ["hello " * number for number in range(1, 12)]
    encoded = encode_texts(given, bert(), settings)
    check_truncation_is_counted(given, settings, encoded.num_truncated)
    with pytest.raises(AssertionError):
        check_truncation_is_counted(given, settings, 0)
