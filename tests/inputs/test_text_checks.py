import pytest

from idbert.errors import ConfigError, DataError
from idbert.inputs.text import TextSettings, encode_texts
from idbert.inputs.text_checks import check_texts
from tests.inputs.tiny_tokenizers import bert


def test_empty_texts_are_refused_or_allowed():
    texts = ["hello", "", "world", " \n"]
    with pytest.raises(DataError, match="2 of 4 texts are empty: rows 1, 3"):
        encode_texts(texts, bert())
    allowed = encode_texts(texts, bert(), allow_empty=True)
    assert allowed.lengths.tolist() == [3, 2, 3, 2]
    assert allowed.ids[3:5].tolist() == [bert().cls_token_id, bert().sep_token_id]
    with pytest.raises(DataError, match="1 of 1 texts are empty: row 0"):
        encode_texts(["hello"], bert(), pairs=[""])
    with pytest.raises(DataError, match="rows 0, 1, 2, 3, 4, ..."):
        encode_texts([""] * 9, bert())


def test_texts_of_only_unknown_tokens_are_counted_and_warned_of(caplog):
    encoded = encode_texts(["hello", "ждём", "ж hello", "ж ж"], bert())
    assert encoded.num_unknown == 2
    assert "2 of 4 texts hold no token that the tokenizer knows, rows 1, 3" in caplog.text
    caplog.clear()
    assert encode_texts(["hello"], bert()).num_unknown == 0
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_text_without_any_token_counts_as_unknown():
    assert encode_texts(["\u200b\u0000", "hello"], bert()).num_unknown == 1


def test_an_unknown_second_text_is_counted():
    assert encode_texts(["hello", "hello"], bert(), pairs=["ж", "world"]).num_unknown == 1


@pytest.mark.parametrize("value", [None, float("nan"), 3])
def test_rows_that_hold_no_text_are_refused(value):
    with pytest.raises(DataError, match="1 of 2 rows hold no text: row 1 .the first holds"):
        check_texts.__wrapped__(["hello", value])  # past the checks of types


def test_half_a_character_is_named_by_its_row():
    with pytest.raises(DataError, match="1 of 2 texts hold half a character.*: row 1"):
        encode_texts(["hello", "hell\ud83d"], bert())


def test_one_text_instead_of_a_list_is_refused():
    with pytest.raises(DataError, match=r"not one text. Give \['hello'\]"):
        encode_texts("hello", bert())


def test_pairs_of_another_number_are_refused():
    with pytest.raises(DataError, match="2 texts and 1 second texts"):
        encode_texts(["hello", "world"], bert(), pairs=["hello"])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (TextSettings(truncation="windows"), "truncation 'windows'"),
        (TextSettings(truncation="head_tail", split_head_tail=True), "split_head_tail"),
    ],
)
def test_what_cannot_be_done_with_pairs_is_refused(settings, name):
    with pytest.raises(ConfigError, match=f"{name} is for single texts; these are pairs"):
        encode_texts(["hello"], bert(), settings, ["world"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_length": 0}, "max_length is 0; it must be at least 1"),
        ({"head_tokens": 5}, "head_tokens only acts with truncation 'head_tail', not with 'head'"),
        ({"window_stride": 5}, "window_stride only acts with truncation 'windows'"),
        ({"split_head_tail": True}, "split_head_tail only acts with truncation 'head_tail'"),
        (
            {"max_length": 10, "truncation": "head_tail", "head_tokens": 10},
            "head_tokens is 10; it must be from 1 to below max_length 10",
        ),
        (
            {"truncation": "windows", "window_stride": 0},
            "window_stride is 0; it must be from 1 to below max_length 128",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        TextSettings(**settings)


@pytest.mark.parametrize(("pairs", "least"), [(None, 3), (["world"], 5)])
def test_a_length_without_room_for_text_is_refused(pairs, least):
    words = f"max_length {least - 1} leaves . tokens .* must be at least {least}"
    with pytest.raises(ConfigError, match=words):
        encode_texts(["hello"], bert(), TextSettings(least - 1), pairs)
    assert len(encode_texts(["hello"], bert(), TextSettings(least), pairs).ids) == least


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (TextSettings(10, "windows", window_stride=9), "window_stride is 9, .* at most 8"),
        (TextSettings(10, "head_tail", head_tokens=8), "head_tokens is 8, .* at most 7"),
    ],
)
def test_settings_that_leave_no_room_beside_the_special_tokens_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        encode_texts(["hello"], bert(), settings)
