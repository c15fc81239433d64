"""The reader without a pretrained encoder: characters that carry their words, and nothing leaks."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from idbert.errors import ConfigError, DataError
from idbert.inputs.words import pieces_of
from nlp_tasks.mrc.dgcnn import DgcnnReaderModel, DgcnnSettings
from nlp_tasks.mrc.losses import SpanSettings
from nlp_tasks.mrc.reader import load_reader_model
from nlp_tasks.mrc.word_vectors import check_coverage, read_word_vectors
from nlp_tasks.mrc.word_vocabulary import WordVocabulary, character_tokenizer

SMALL = {"width": 12, "word_width": 6, "dropout": 0.0, "gate_dropout": 0.0}


def build(span: SpanSettings | None = None, **settings: object) -> DgcnnReaderModel:
    torch.manual_seed(0)
    return DgcnnReaderModel.build(
        DgcnnSettings(**SMALL | settings), vocab_size=30, num_words=20, span=span
    ).eval()


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 30, (2, 20), generator=generator)
    types = (torch.arange(20) > 6).long().expand(2, -1).clone()
    mask = torch.ones_like(ids)
    mask[1, -4:] = 0
    context = types * mask
    context[:, 0] = 1
    return {
        "input_ids": ids,
        "word_ids": torch.randint(0, 20, (2, 20), generator=generator),
        "token_type_ids": types,
        "attention_mask": mask,
        "context_mask": context,
    }


POSITIONS = {"start_positions": torch.tensor([9, 0]), "end_positions": torch.tensor([11, 0])}


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).start_logits


def test_pieces_of_a_text_are_the_text_again():
    for text in ("Ada met Bo,  in 1843.\n", "这家店开在river street 12号，很好。", "", "  "):
        assert "".join(pieces_of(text)) == text
    assert "光荣" in pieces_of("由光荣公司开发") and "met" in pieces_of("Ada met Bo")


def test_words_are_counted_in_lower_case_and_the_most_frequent_kept():
    texts = ["Ada met Bo. ada met Cy", "met"]
    assert WordVocabulary.build(texts).words == ["met", "ada"]
    assert WordVocabulary.build(texts, max_words=1).words == ["met"]
    assert len(WordVocabulary.build(texts, min_count=1)) == 5 + 2
    vocabulary = WordVocabulary.build(texts)
    assert vocabulary.of_characters(["Met x"]).tolist() == [2, 2, 2, 0, 1]


def test_rare_characters_are_unknown():
    tokenizer = character_tokenizer(["aab b c"])
    assert tokenizer.convert_ids_to_tokens(tokenizer("A bc")["input_ids"]) == [
        "[CLS]", "a", "b", "[UNK]", "[SEP]"
    ]  # fmt: skip


def test_padding_changes_no_logit():
    model, inputs = build(), batch()
    longer = {name: functional.pad(tensor, (0, 9)) for name, tensor in inputs.items()}
    longer["input_ids"][:, 20:] = 7
    real = inputs["context_mask"].bool()
    torch.testing.assert_close(
        logits(model, inputs)[real], logits(model, longer)[:, :20][real], atol=1e-5, rtol=1e-5
    )


def test_rows_do_not_change_one_another():
    model, inputs = build(), batch()
    alone = {name: tensor[:1] for name, tensor in inputs.items()}
    torch.testing.assert_close(logits(model, inputs)[:1], logits(model, alone))


def test_question_words_and_characters_all_reach_the_logits():
    model, inputs = build(), batch()
    before = logits(model, inputs)[:, 7:16]
    for name, place in (("input_ids", 3), ("word_ids", 3), ("input_ids", 9), ("word_ids", 9)):
        changed = inputs | {name: inputs[name].clone()}
        changed[name][:, place] = 19 - changed[name][:, place] % 10
        assert not torch.allclose(before, logits(model, changed)[:, 7:16])


def test_what_context_and_question_share_is_seen():
    model, inputs = build(word_width=0), batch()
    with torch.no_grad():
        model.characters.weight.fill_(0.1)  # all characters look alike: only being shared differs
    inputs["input_ids"][:] = torch.arange(20) + 5
    apart = logits(model, inputs)
    inputs["input_ids"][:, 10] = inputs["input_ids"][:, 3]
    assert not torch.allclose(apart, logits(model, inputs))
    inputs["input_ids"][:, [3, 10]] = torch.tensor([1, 2])  # [UNK] and another without a text
    apart = logits(model, inputs)
    inputs["input_ids"][:, 10] = 1
    assert torch.allclose(apart, logits(model, inputs))


def test_no_answer_is_read_from_the_whole_context():
    model, inputs = build(), batch()
    before = logits(model, inputs)[:, 0]
    inputs["input_ids"][:, 15] = 6
    assert not torch.allclose(before, logits(model, inputs)[:, 0])


def test_a_reader_of_characters_alone_needs_no_words():
    model = build(word_width=0)
    inputs = batch()
    inputs.pop("word_ids")
    assert model(**inputs, **POSITIONS).loss.isfinite() and model.words is None
    with pytest.raises(ConfigError, match="reads words too, and the batch has no word_ids"):
        build()(**inputs)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 16},
        {"word_width": 8},
        {"question_dilations": (1,)},
        {"context_dilations": (1, 3)},
        {"kernel_width": 5},
        {"dropout": 0.5},
        {"gate_dropout": 0.5},
    ],
)
def test_every_setting_acts(change):
    losses = []
    for settings in ({}, change):
        model = build(**settings).train()
        torch.manual_seed(1)
        losses.append(model(**batch(), **POSITIONS).loss)
    assert not torch.isclose(*losses, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"word_width": -1}, "word_width is -1"),
        ({"context_dilations": ()}, "name dilations of at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0; choose from 0 to below 1"),
        ({"min_count": 0}, "min_count is 0"),
        ({"max_words": 0}, "max_words is 0"),
        ({"word_width": 0, "max_words": 9}, "max_words does not act where word_width is 0"),
        ({"word_width": 9, "word_vectors": "x"}, "word_width is that of the word_vectors"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        DgcnnSettings(**settings)


VECTORS = np.arange(1, 37, dtype=np.float32).reshape(18, 2)


def vectors_model() -> DgcnnReaderModel:
    torch.manual_seed(0)
    return DgcnnReaderModel.build(
        DgcnnSettings(width=12), vocab_size=30, num_words=20, word_vectors=VECTORS
    )


def test_pretrained_word_vectors_are_read_and_stay_as_they_are(tmp_path):
    model = vectors_model()
    assert model.config.word_width == 2 and not model.words.weight[:2].any()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.1)
    model(**batch(), **POSITIONS).loss.backward()
    optimizer.step()
    assert np.array_equal(model.words.weight[2:].numpy(), VECTORS)
    model.save_pretrained(tmp_path)
    opened = load_reader_model(tmp_path)
    assert torch.equal(opened.words.weight, model.words.weight)
    torch.testing.assert_close(logits(model.eval(), batch()), logits(opened, batch()))


@pytest.mark.parametrize("header", ["", "9 2\n"])
def test_word_vectors_are_read_in_lower_case_each_word_once(tmp_path, header):
    path = tmp_path / "vectors.txt"
    path.write_text(f"{header}Ada 3 0\nada 9 9\n光荣 0 -1e0\n. . 2 0\nmore 1 1\n", "utf-8")
    words, vectors = read_word_vectors(path, max_words=4)
    assert words == ["ada", "光荣", ". ."]
    np.testing.assert_allclose(vectors, [[1.5, 0], [0, -0.5], [1, 0]])
    vocabulary = WordVocabulary(words)
    assert check_coverage(vocabulary, ["ADA who"], "file") == 0.5
    with pytest.raises(DataError, match="file holds none of the words"):
        check_coverage(vocabulary, ["who is it"], "file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("ada 1 2\nbo 1\n", "line 2 is not a word and 2 numbers: 'bo 1'"),
        ("2 2\nada 1 2\nbo 1 x\n", "line 3 is not a word and 2 numbers"),
        ("ada nan 2\n", "line 1 is not a word"),
        ("ada\n", "line 1 is not a word and 1 numbers"),
        ("2 2\n", "holds no word vectors"),
        (b"1 1\nada \xff\xfe", "is not text in UTF-8.*save_word2vec_format"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_that_hold_no_word_vectors_are_refused(tmp_path, content, words):
    path = tmp_path / "vectors.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=words):
        read_word_vectors(path, max_words=10)


def test_it_can_be_saved_opened_and_trained(tmp_path):
    model = build(SpanSettings("sigmoid", {"positive_weight": 5.0}, answer_share=0.3))
    model.save_pretrained(tmp_path / "model")
    opened = load_reader_model(tmp_path / "model")
    assert isinstance(opened, DgcnnReaderModel)
    torch.testing.assert_close(logits(model, batch()), logits(opened, batch()))
    opened.train()
    optimizer = torch.optim.Adam(opened.parameters(), 0.01)
    losses = []
    for _ in range(30):
        loss = opened(**batch(), **POSITIONS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and np.isfinite(losses).all()
