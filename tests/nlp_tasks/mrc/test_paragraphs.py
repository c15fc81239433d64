"""Documents are cut at sentences, evenly, never through an answer; no paragraph stands twice."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from idbert.errors import ConfigError, DataError
from nlp_tasks.mrc.cutting import cut_text
from nlp_tasks.mrc.documents import Document, DocumentColumns, read_documents
from nlp_tasks.mrc.formats import Question, Questions
from nlp_tasks.mrc.paragraphs import (
    Collection,
    ParagraphSettings,
    cut_questions,
)

ENGLISH = " ".join(f"Sentence number {n} has some words." for n in range(1, 21))
CHINESE = "".join(f"这是第{n}个句子，里面有字。" for n in range(1, 21))


def pieces(text: str, max_length: int | None, **kept: object) -> list[str]:
    return [text[start:end] for start, end in cut_text(text, max_length, **kept)]  # type: ignore[arg-type]


def without_blanks(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, ENGLISH + "\n\n" + CHINESE])
@pytest.mark.parametrize("max_length", [10, 25, 60, 1000])
def test_nothing_is_lost_and_nothing_is_too_long(text: str, max_length: int) -> None:
    cut = pieces(text, max_length)
    assert without_blanks("".join(cut)) == without_blanks(text)
    words = [len(re.findall(r"[\u4e00-\u9fff]|[A-Za-z0-9]+|[^\w\s]", piece)) for piece in cut]
    assert max(words) <= max_length
    assert all(piece == piece.strip() and piece for piece in cut)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_sentences_are_not_cut_where_they_fit(text: str) -> None:
    assert all(piece[-1] in ".。" for piece in pieces(text, 30))


def test_of_the_fewest_paragraphs_the_most_even_ones_are_taken() -> None:
    text = "a b c. d e f. g h i. j k l."  # four units a sentence
    assert pieces(text, 12) == ["a b c. d e f.", "g h i. j k l."]
    assert pieces(text, 15) == ["a b c. d e f.", "g h i. j k l."]
    assert pieces(text, 16) == [text]
    assert pieces("a. b. c. d e f g h i j.", 12) == ["a. b. c.", "d e f g h i j."]


def test_the_cut_is_as_good_as_that_of_trying_all() -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        sizes = draw.integers(1, 7, draw.integers(1, 9)).tolist()
        text = " ".join(" ".join("w" * size) + "." for size in sizes)
        lengths = [size + 1 for size in sizes]
        best = min(
            costs
            for cuts in range(2 ** (len(sizes) - 1))
            if (costs := _cost(lengths, cuts, 10)) is not None
        )
        made = [len(re.findall(r"\w|\.", piece)) for piece in pieces(text, 10)]
        assert (len(made), sum(length**2 for length in made)) == best


def _cost(lengths: list[int], cuts: int, most: int) -> tuple[int, int] | None:
    """Cost of the partition that a bit mask describes; None where a part is too long."""
    parts = [lengths[0]]
    for place, length in enumerate(lengths[1:]):
        if cuts >> place & 1:
            parts.append(length)
        else:
            parts[-1] += length
    return None if max(parts) > most else (len(parts), sum(part**2 for part in parts))


def test_a_sentence_that_is_too_long_is_cut_at_its_clauses() -> None:
    assert pieces("一二三四五，六七八九十，甲乙丙丁。", 12) == [
        "一二三四五，",
        "六七八九十，甲乙丙丁。",
    ]
    assert pieces("one two three, four five six, seven 1,000 eight.", 8) == [
        "one two three, four five six,",
        "seven 1,000 eight.",
    ]


def test_a_clause_that_is_too_long_is_cut_evenly_anywhere() -> None:
    assert pieces("一二三四五六七八九十", 4) == ["一二三四", "五六七", "八九十"]
    assert pieces("one two three four five", 3) == ["one two three", "four five"]
    assert all(len(piece) <= 120 for piece in pieces("x" * 1000, 10))


def test_no_cut_goes_through_an_answer() -> None:
    text = "一二三四五六七八九十。" * 4
    for start in range(0, len(text) - 15):
        span = (start, start + 15)
        bounds = cut_text(text, 12, [span])
        assert any(first <= span[0] and span[1] <= last for first, last in bounds)
        assert without_blanks("".join(text[a:b] for a, b in bounds)) == text
    assert pieces("一二三四五六七八九十", 4, kept_whole=[(2, 8)]) == [
        "一二",
        "三四五六七八",
        "九十",
    ]
    assert pieces("一二三四五六七八九十", 4, kept_whole=[(0, 10)]) == ["一二三四五六七八九十"]


def test_documents_stay_whole_on_demand_and_blank_ones_give_nothing() -> None:
    assert pieces(f"  {ENGLISH}\n", None) == [ENGLISH]
    assert cut_text(" \n\t", None) == cut_text("", 5) == cut_text(" \n ", 5) == []


def test_paragraphs_know_where_they_stand() -> None:
    documents = [Document("one.txt", f"\n{ENGLISH}"), Document("two.txt", CHINESE)]
    collection = Collection.of(documents, ParagraphSettings(max_length=40))
    texts = {document.id: document.text for document in documents}
    for paragraph in collection.paragraphs:
        text = texts[paragraph.document][paragraph.start :]
        assert text.startswith(paragraph.text)
    names = [paragraph.id for paragraph in collection.paragraphs]
    assert names[:2] == ["one.txt#1", "one.txt#2"] and len(set(names)) == len(names)
    assert collection.texts == [paragraph.text for paragraph in collection.paragraphs]


def test_equal_paragraphs_stand_there_once() -> None:
    documents = [Document("a", "Some  words.\n"), Document("b", "some words."), Document("c", "x")]
    collection = Collection.of(documents)
    assert [paragraph.id for paragraph in collection.paragraphs] == ["a#1", "c#1"]
    assert collection.num_duplicates == 1
    assert collection.rows_of(Question("q", "?", "some words.", ("words",), (5,))) == [0]


def test_empty_documents_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    collection = Collection.of([Document("a", ""), Document("b", " \n"), Document("c", "text")])
    assert len(collection) == 1 and collection.num_empty == 2
    assert "2 documents are empty: a, b" in caplog.text
    with pytest.raises(DataError, match="none of 2 documents of here holds a text"):
        Collection.of([Document("a", ""), Document("b", "\n")], source="here")


def test_the_paragraph_of_an_answer_is_known() -> None:
    text = "Pandas eat bamboo. Bears eat honey. Foxes eat mice."
    collection = Collection.of([Document("a", text)], ParagraphSettings(max_length=4))
    start = text.index("honey")
    assert collection.rows_of(Question("q", "?", text, ("honey",), (start,))) == [1]
    two = Question("q", "?", text, ("honey", "mice"), (start, text.index("mice")))
    assert collection.rows_of(two) == [1, 2]
    assert collection.rows_of(Question("q", "?", text)) == []
    assert collection.rows_of(Question("q", "?", "Another text.", ("text",), (8,))) is None
    assert collection.rows_of(Question("q", "?", "", ("honey",))) is None
    assert collection.holds(1, ["HONEY"]) and not collection.holds(0, ["honey"])


def test_questions_move_to_the_paragraph_of_their_answer() -> None:
    last = ENGLISH.index("20 has")
    rows = [
        Question("1", "?", ENGLISH, ("number 7",), (ENGLISH.index("number 7"),)),
        Question("2", "?", ENGLISH, ("has", "20 has", "some"), (18, last, last + 7)),
        Question("3", "?", ENGLISH),
        Question("4", "?", CHINESE, ("第4个",), (CHINESE.index("第4个"),)),
    ]
    questions, collection = cut_questions(Questions(rows, "file"), ParagraphSettings(20))
    assert len(collection) > 10
    for question, before in zip(questions, rows, strict=True):
        assert (question.id, question.text) == (before.id, before.text)
        assert question.context in collection.texts and question.context in before.context
        for answer, start in zip(question.answers, question.starts, strict=True):
            assert question.context[start : start + len(answer)] == answer
    assert questions[0].answers == ("number 7",) and questions[1].answers == ("20 has", "some")
    assert questions[2].answers == () and questions[3].answers == ("第4个",)


def test_an_answer_longer_than_a_paragraph_is_kept_whole() -> None:
    answer = CHINESE[3:60]
    questions = Questions([Question("1", "?", CHINESE, (answer,), (3,))], "file")
    cut, _ = cut_questions(questions, ParagraphSettings(max_length=8))
    assert cut[0].answers == (answer,) and answer in cut[0].context


def test_contexts_are_a_collection_with_each_once() -> None:
    rows = [Question(str(n), "?", context, (), ()) for n, context in enumerate("abab")]
    assert Collection.of_contexts(Questions(rows, "file")).texts == ["a", "b"]


def test_a_folder_and_a_table_give_the_same_documents(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "b.txt").write_text("second", encoding="utf-8")
    (folder / "inner" / "a.md").write_text("四川", encoding="utf-8-sig")
    (folder / "ignored.pdf").write_bytes(b"%PDF")
    documents = read_documents(folder)
    assert documents == [Document("b.txt", "second"), Document("inner/a.md", "四川")]
    table = pd.DataFrame({"name": [d.id for d in documents], "body": [d.text for d in documents]})
    for name, write in (("t.csv", "to_csv"), ("t.parquet", "to_parquet")):
        getattr(table, write)(tmp_path / name, index=False)
        columns = DocumentColumns(id="name", text="body")
        assert read_documents(tmp_path / name, columns) == documents
    assert read_documents(folder / "b.txt") == documents[:1]


def test_quotes_may_be_parts_of_the_documents(tmp_path: Path) -> None:
    path = tmp_path / "passages.tsv"
    path.write_text('id\ttext\na\t"Hello" he said\n', encoding="utf-8")
    columns = DocumentColumns(quotes=False)
    assert read_documents(path, columns) == [Document("a", '"Hello" he said')]


def test_rows_without_names_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}\n', encoding="utf-8")
    assert read_documents(path) == [Document("1", "a"), Document("2", "")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('{"text": 3}\n', "column 'text' holds no text in line 1"),
        ('{"text": "a"}\n{"text": "\\ud800b"}\n', "holds half a character.* in line 2"),
        ('{"body": "a"}\n', "has no column 'text'.*--columns.text"),
        ('{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}\n', "names a document.*line 2"),
        ('{"id": null, "text": "a"}\n{"id": 1, "text": "b"}\n', "column 'id' is empty in line 1"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, rows: str, words: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(rows, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_documents(path)


def test_a_folder_without_texts_and_a_length_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no .txt or .md files"):
        read_documents(tmp_path)
    with pytest.raises(DataError, match="there is no file"):
        read_documents(tmp_path / "absent")
    with pytest.raises(ConfigError, match="max_length is 0; it must be at least 1, or null"):
        ParagraphSettings(max_length=0)
