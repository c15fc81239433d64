"""Whitened vectors vary alike in every direction, and the folder is an ordinary one."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from idbert.errors import ConfigError, DataError
from nlp_tasks.match.encoding import encode_sentences
from nlp_tasks.match.whitening import Whitening, whitened
from tests.nlp_tasks.match.vector_world import clustered, sentences, tower, two_towers


@pytest.mark.parametrize("width", [None, 16, 5, 1])
def test_whitened_vectors_have_mean_zero_and_covariance_one(width: int | None):
    vectors = clustered(400) * np.linspace(0.1, 3, 16, dtype=np.float32) + 7
    found = Whitening.fit(vectors, width).apply(vectors)
    assert found.shape == (400, width or 16)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(width or 16), atol=1e-3)


def test_the_first_components_are_those_of_most_variance():
    vectors = clustered(400)
    narrow, wide = Whitening.fit(vectors, 3), Whitening.fit(vectors)
    np.testing.assert_allclose(wide.kernel[:, :3], narrow.kernel)
    lengths = np.linalg.norm(wide.kernel, axis=0)
    assert (np.diff(lengths) > 0).all()  # 1 / sqrt(variance)


def test_the_module_is_the_whitening():
    import torch

    vectors = clustered(100)
    whitening = Whitening.fit(vectors, 6)
    found = whitening.dense()({"sentence_embedding": torch.from_numpy(vectors)})
    np.testing.assert_allclose(
        found["sentence_embedding"].detach().numpy(), whitening.apply(vectors), atol=1e-4
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_a_whitened_folder_opens_in_plain_sentence_transformers(tmp_path: Path, normalize: bool):
    model, texts = tower(tmp_path / "bert", normalize=normalize), sentences(100)
    made = whitened(model, texts, width=8)
    made.save_pretrained(str(tmp_path / "whitened"))
    opened = SentenceTransformer(str(tmp_path / "whitened"), device="cpu")
    vectors = opened.encode(texts)
    np.testing.assert_allclose(vectors, encode_sentences(made, texts), atol=1e-5)
    kinds = [type(module).__name__ for module in opened]
    assert kinds == ["Transformer", "Pooling", "Dense", *(["Normalize"] if normalize else [])]
    if normalize:
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    else:
        np.testing.assert_allclose(np.cov(vectors.T, bias=True), np.eye(8), atol=1e-3)
    assert len(list(model)) == 2 + normalize  # the given one is untouched


def test_two_towers_are_whitened_by_one_layer(tmp_path: Path):
    model, texts = two_towers(tmp_path), sentences(100)
    made = whitened(model, texts, width=4, task="document")
    found = encode_sentences(made, texts, task="document")
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(4), atol=1e-3)
    assert encode_sentences(made, texts, task="query").shape == (100, 4)


def test_what_cannot_be_whitened_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"10 vectors vary in 9 directions, and 16 are wanted"):
        Whitening.fit(clustered(10))
    with pytest.raises(DataError, match="vary in 0 directions"):
        Whitening.fit(np.ones((20, 4), np.float32), 1)
    for width in (0, 17):
        with pytest.raises(ConfigError, match="these vectors allow 1 to 16"):
            Whitening.fit(clustered(40), width)
    model = tower(tmp_path / "bert")
    model.truncate_dim = 4
    with pytest.raises(ConfigError, match="keeps 4 components"):
        whitened(model, sentences(50))
