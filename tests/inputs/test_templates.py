import json
import logging

import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs.templates import Templates, TemplateSettings

GREETING, BYE = "亲爱的顾客您好。", "谢谢您的支持！"
TEXTS = [f"{GREETING}房间{number}号很好。{BYE}" for number in range(20)] + ["很好。"] * 3
SETTINGS = TemplateSettings(share=0.5)


def test_sentences_of_many_texts_are_found_and_dropped():
    templates = Templates.find(TEXTS, SETTINGS)
    assert templates.sentences == {GREETING, BYE}
    assert templates.drop(TEXTS)[:2] == ["房间0号很好。", "房间1号很好。"]


def test_nothing_is_dropped_by_default():
    templates = Templates.find(TEXTS, TemplateSettings())
    assert templates == Templates() and templates.drop(TEXTS) == TEXTS


def test_a_text_of_nothing_but_templates_is_kept():
    templates = Templates.find(TEXTS, SETTINGS)
    assert templates.drop([GREETING + BYE, GREETING, "。" + GREETING]) == [
        GREETING + BYE,
        GREETING,
        "。" + GREETING,
    ]


def test_new_texts_lose_the_templates_of_the_training_texts():
    templates = Templates.find(TEXTS, SETTINGS)
    assert templates.drop([f" {GREETING} \n新的一天。", "没有。"]) == ["新的一天。", "没有。"]


def test_a_sentence_counts_once_a_text():
    texts = ["again. " * 20 + "end."] + [f"text {number}." for number in range(15)]
    assert not Templates.find(texts, SETTINGS).sentences


def test_the_least_number_of_texts_is_exact():
    def found(num_with: int, num_all: int, **settings) -> bool:
        texts = ["same. other"] * num_with + ["none."] * (num_all - num_with)
        texts = [f"{text} {number}" for number, text in enumerate(texts)]
        return "same." in Templates.find(texts, TemplateSettings(**settings)).sentences

    assert found(20, 40, share=0.5) and not found(19, 40, share=0.5)
    assert not found(9, 10, share=0.5) and found(9, 10, share=0.5, min_texts=9)


def test_marks_alone_are_no_template():
    texts = [f"text {number} !!! \n ..." for number in range(30)]
    assert not Templates.find(texts, TemplateSettings(share=0.1)).sentences


def test_what_is_dropped_is_counted(caplog):
    templates = Templates.find(TEXTS, SETTINGS)
    with caplog.at_level(logging.INFO):
        templates.drop(TEXTS)
    assert "40 sentences left out of 20 of 23 texts" in caplog.text


def test_templates_are_saved_and_loaded(tmp_path):
    templates = Templates.find(TEXTS, SETTINGS)
    templates.save(tmp_path)
    assert Templates.load(tmp_path) == templates


@pytest.mark.parametrize("content", [None, "{", json.dumps({"a": 1}), "[1]"])
def test_a_file_that_holds_no_templates_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "templates.json").write_text(content)
    with pytest.raises(DataError, match="templates.json"):
        Templates.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"share": 0}, "share is 0; it must be above 0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"share": 0.5, "min_texts": 1}, "min_texts is 1; it must be at least 2"),
        ({"min_texts": 5}, "min_texts only acts beside a share"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        TemplateSettings(**settings)
