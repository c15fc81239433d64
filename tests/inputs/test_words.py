import tempfile
from pathlib import Path

import pytest

from idbert.inputs.tokens import tokenize
from idbert.inputs.words import _Cutter, is_chinese, words_of
from tests.inputs.tiny_tokenizers import bert, xlm_roberta


def words(tokenizer, text: str) -> list[str]:
    """The tokens of a text, put together to words."""
    flat = tokenize([text], tokenizer, mark_words=True)
    found: list[str] = []
    for token, starts in zip(
        tokenizer.convert_ids_to_tokens(flat.ids.tolist()), flat.starts_word, strict=True
    ):
        piece = token.removeprefix("##").replace("▁", "")
        if starts:
            found.append(piece)
        else:
            found[-1] += piece
    return found


@pytest.mark.parametrize("tokenizer", [bert, xlm_roberta])
def test_chinese_words_are_those_of_jieba(tokenizer):
    assert words(tokenizer(), "我们来到北京清华大学") == ["我们", "来到", "北京", "清华大学"]


def test_words_of_letters_are_those_of_the_tokenizer():
    assert words(bert(), "playing hello, worlds 2021") == [
        "playing",
        "hello",
        ",",
        "worlds",
        "2021",
    ]
    assert words(xlm_roberta(), "playing world") == ["playing", "world"]


def test_words_begin_where_the_script_changes():
    assert words(bert(), "我们play电影hello") == ["我们", "play", "电影", "hello"]


@pytest.mark.parametrize("tokenizer", [bert, xlm_roberta])
def test_the_first_token_of_every_text_begins_a_word(tokenizer):
    texts = ["", "playing", "", "我们", "的", "hello", ""]
    flat = tokenize(texts, tokenizer(), mark_words=True)
    first = flat.offsets[:-1][flat.lengths > 0]
    assert flat.starts_word[first].all() and len(flat.starts_word) == len(flat.ids)


def test_texts_are_marked_alike_alone_and_among_others():
    texts = ["我们喜欢电影", "playing 2021", "清华大学 hello 🐼 x", "好"] * 3
    together = tokenize(texts, bert(), mark_words=True)
    alone = [tokenize([text], bert(), mark_words=True).starts_word.tolist() for text in texts]
    assert together.starts_word.tolist() == [mark for marks in alone for mark in marks]


def test_a_blank_of_its_own_belongs_to_the_word_behind_it():
    """XLM-RoBERTa writes a blank as a piece at the place of the character behind it."""
    tokens = tokenize(["清华大学"], xlm_roberta(), mark_words=True)
    names = xlm_roberta().convert_ids_to_tokens(tokens.ids.tolist())
    assert names == ["▁", "清华大学"] and tokens.starts_word.tolist() == [True, False]


def test_marks_do_not_change_the_tokens():
    texts = ["我们喜欢电影", "playing 2021", ""]
    plain, marked = (tokenize(texts, bert(), mark_words=mark) for mark in (False, True))
    assert plain.ids.tolist() == marked.ids.tolist() and plain.starts_word is None
    assert plain.offsets.tolist() == marked.offsets.tolist()


def test_words_are_found_without_blanks_and_punctuation():
    assert words_of("我们来到北京！Hello, World 2021") == [
        "我们",
        "来到",
        "北京",
        "hello",
        "world",
        "2021",
    ]
    assert words_of("It's FINE...") == ["it", "s", "fine"]
    assert words_of("，。!") == []


def test_chinese_is_known_by_its_characters():
    assert is_chinese("T恤") and not is_chinese("hello 2021 ж ！")


def test_jieba_leaves_and_reads_no_cache(tmp_path, monkeypatch):
    """Its own is a marshal file under a fixed name in the folder that everybody can write to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "jieba.cache").write_bytes(b"not a dictionary")
    assert _Cutter().lcut("我们喜欢电影") == ["我们", "喜欢", "电影"]
    assert [path.name for path in Path(tmp_path).iterdir()] == ["jieba.cache"]
    assert (tmp_path / "jieba.cache").read_bytes() == b"not a dictionary"
