"""The texts of a pretraining: from files to documents, held out, and a vocabulary of them."""

import logging
from pathlib import Path

import pandas as pd
import pytest

from idbert.errors import DataError
from nlp_tasks.pretrain.corpus import CorpusSettings, documents_of, hold_out, read_corpus
from nlp_tasks.pretrain.vocabulary import VocabularySettings


def test_one_blank_line_among_many_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = tmp_path / "domain.txt"
    file.write_text("\n".join(["line"] * 3000 + [""] + ["line"] * 3000))
    assert len(CorpusSettings().read(str(file))) == 2
    assert "part its 6000 lines into 2 documents" in caplog.text
    caplog.clear()
    file.write_text("\n\n".join(["line\nline"] * 3000))
    assert len(CorpusSettings().read(str(file))) == 3000 and "part its" not in caplog.text


def test_documents_are_lines_or_what_stands_between_blank_lines():
    assert documents_of("one\ntwo\r\nthree\n") == ["one", "two", "three"]
    assert documents_of("\n\nfirst.\nsecond.\n \n\nthird.\n") == ["first.\nsecond.", "third."]
    assert documents_of("a\u2028b") == ["a\u2028b"]


def test_texts_come_from_any_file_any_columns_and_any_number_of_files(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    table = pd.DataFrame({"q": ["one", "two"], "a": ["three", ""], "label": [0, 1]})
    table.to_csv(tmp_path / "part-1.csv", index=False)
    table.to_parquet(tmp_path / "part-2.parquet")
    columns = CorpusSettings(train="", text_columns=("q", "a"))
    assert columns.read(str(tmp_path / "part-1.csv")) == ["one", "three", "two"]
    assert columns.read(str(tmp_path / "part-*")) == ["one", "three", "two"] * 2
    assert "2 empty ones" not in caplog.text and "1 empty ones" in caplog.text
    (tmp_path / "glue.tsv").write_text('text\tlabel\nsay "no\t1\n')
    assert CorpusSettings(quotes=False).read(str(tmp_path / "glue.tsv")) == ['say "no']
    dev = CorpusSettings(train=str(tmp_path / "part-1.csv"), text_columns=("q",))
    assert read_corpus(dev, least_held_out=1).dev in (["one"], ["two"])
    with_dev = CorpusSettings(
        train=str(tmp_path / "part-1.csv"),
        dev=str(tmp_path / "part-2.parquet"),
        text_columns=("q",),
    )
    assert list(read_corpus(with_dev).dev) == ["one", "two"]


def test_what_is_held_out_is_never_trained_on_and_depends_on_the_seed_alone():
    documents = [f"text {n % 50}" for n in range(80)]
    parts = hold_out(documents, 0.2, seed=0)
    assert sorted([*parts.train, *parts.dev]) == sorted(documents)
    assert not set(parts.train) & set(parts.dev) and len(set(parts.dev)) == 10
    assert hold_out(documents, 0.2, seed=0).dev == parts.dev != hold_out(documents, 0.2, seed=1).dev
    assert len(hold_out(documents, 0.001, seed=0, least=2).dev) >= 2
    with pytest.raises(DataError, match="of 3 different texts, 3 cannot be held out"):
        hold_out(["one", "two", "three"], 0.9, seed=0)


def test_each_setting_of_the_vocabulary_acts():
    documents = ["Banana bandana banner", "band BAN"] * 2
    plain = VocabularySettings(size=60).train(documents).get_vocab()
    assert "banana" in plain
    assert len(VocabularySettings(size=20).train(documents).get_vocab()) < len(plain)
    assert "B" in VocabularySettings(size=60, lowercase=False).train(documents).get_vocab()
    assert "banana" not in VocabularySettings(size=60, min_frequency=9).train(documents).get_vocab()
    assert len(VocabularySettings(kind="bpe", size=300).train(documents).get_vocab()) > 256
