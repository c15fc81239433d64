"""A text is found by itself, and what was saved finds the same."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

from idbert.errors import CheckpointError, ConfigError, DataError
from nlp_tasks.match.encoding import encode_sentences
from nlp_tasks.match.search import TextSearch, VectorSettings, digest_of_model
from nlp_tasks.match.texts import TextCollection
from tests.nlp_tasks.match.vector_world import sentences, tower, two_towers

TEXTS = list(dict.fromkeys(sentences(80)))


def collection(texts: list[str] = TEXTS) -> TextCollection:
    return TextCollection(pa.array([f"t{row}" for row in range(len(texts))]), texts, "here")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return tower(tmp_path_factory.mktemp("tower"), normalize=False)


@pytest.fixture(scope="module")
def search(model: SentenceTransformer) -> TextSearch:
    return TextSearch.build(model, collection(), VectorSettings(precision="float32"))


def test_every_text_finds_itself_first(search: TextSearch):
    found = search.search(TEXTS[:30], k=3)
    assert list(found.columns) == ["query", "rank", "id", "score", "text"]
    first = found[found["rank"] == 1]
    assert first["text"].tolist() == TEXTS[:30]
    assert first["id"].tolist() == [f"t{row}" for row in range(30)]
    np.testing.assert_allclose(first["score"], 1, atol=1e-5)
    assert len(found) == 90 and found["query"].tolist() == np.repeat(np.arange(30), 3).tolist()


def test_more_texts_than_there_are_cannot_be_found(model: SentenceTransformer):
    search = TextSearch.build(model, collection(TEXTS[:4]))
    assert len(search.search(["w1"], k=10)) == 4


def test_what_was_saved_finds_the_same(search: TextSearch, tmp_path: Path):
    search.save(tmp_path / "saved")
    opened = TextSearch.load(tmp_path / "saved", search.model, search.settings)
    queries = sentences(5, seed=3)
    found, again = search.search(queries), opened.search(queries)
    np.testing.assert_array_equal(found.to_numpy(), again.to_numpy())
    for one, other in [
        (search.neighbours(2), opened.neighbours(2)),
        (search.duplicates(0.9), opened.duplicates(0.9)),
    ]:
        assert one["id"].tolist() == other["id"].tolist()
        assert one["text"].tolist() == other["text"].tolist()


def test_two_towers_index_documents_and_ask_by_queries(tmp_path: Path):
    model = two_towers(tmp_path)
    search = TextSearch.build(model, collection(), VectorSettings(precision="float32"))
    documents = encode_sentences(model, TEXTS, task="document")
    query = encode_sentences(model, ["w1 good"], task="query")[0]
    cosines = documents @ query / np.linalg.norm(documents, axis=1) / np.linalg.norm(query)
    found = search.search(["w1 good"], k=5)
    np.testing.assert_allclose(found["score"], np.sort(cosines)[::-1][:5], atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"cosine": False},
        {"vectors": "int4"},
        {"factory": "SQ4"},
        {"prompt": "good bad odd "},
        {"precision": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_acts(search: TextSearch, change: dict):
    settings = dataclasses.replace(VectorSettings(precision="float32"), **change)
    changed = TextSearch.build(search.model, collection(), settings)
    queries = sentences(5, seed=3)
    assert changed.search(queries)["score"].tolist() != search.search(queries)["score"].tolist()
    names = {field.name for field in dataclasses.fields(VectorSettings)}
    assert names == {"cosine", "vectors", "factory", "prompt", "precision"}


def test_near_duplicates_come_in_clusters(model: SentenceTransformer):
    texts = ["w1 w2 w3 good", "w9 bad", "w1 w2 w3  good", "w7", "w9 bad ", " w1 w2 w3 good"]
    found = TextSearch.build(model, collection(texts)).duplicates(0.9999)
    assert list(found.columns) == ["cluster", "id", "text"]
    assert found["cluster"].tolist() == [1, 1, 1, 2, 2]
    assert found["id"].tolist() == ["t0", "t2", "t5", "t1", "t4"]


def test_neighbours_are_other_texts(search: TextSearch):
    found = search.neighbours(2)
    assert list(found.columns) == ["id", "rank", "neighbour_id", "score", "text"]
    assert len(found) == 2 * len(TEXTS) and (found["id"] != found["neighbour_id"]).all()
    named = dict(zip([f"t{row}" for row in range(len(TEXTS))], TEXTS, strict=True))
    assert [named[one] for one in found["neighbour_id"]] == found["text"].tolist()


def test_recall_is_measured_where_the_index_is_built(search: TextSearch, tmp_path: Path):
    assert search.recall() == 1
    rough = TextSearch.build(search.model, collection(), VectorSettings(vectors="binary"))
    assert 0.3 < rough.recall() < 1
    rough.save(tmp_path / "rough")
    with pytest.raises(ConfigError, match="measured when the index is built"):
        TextSearch.load(tmp_path / "rough", search.model).recall()


def test_an_index_of_another_model_or_of_other_texts_is_refused(search: TextSearch, tmp_path: Path):
    search.save(tmp_path / "saved")
    other = tower(tmp_path / "other")
    other[0].model.embeddings.word_embeddings.weight.data[7, 0] += 1
    assert digest_of_model(other) != digest_of_model(search.model)
    with pytest.raises(CheckpointError, match="is the index of another model"):
        TextSearch.load(tmp_path / "saved", other)
    file = tmp_path / "saved" / "texts.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(CheckpointError, match="are of different texts"):
        TextSearch.load(tmp_path / "saved", search.model)
    file.unlink()
    with pytest.raises(CheckpointError, match="texts.parquet cannot be read"):
        TextSearch.load(tmp_path / "saved", search.model)


def test_queries_that_are_no_texts_and_settings_that_contradict_are_refused(search: TextSearch):
    with pytest.raises(DataError, match="not one text"):
        search.search("w1")
    with pytest.raises(DataError, match="1 of 2 texts are empty: row 1"):
        search.search(["w1", " "])
    with pytest.raises(ConfigError, match="vectors=int8 cannot act beside factory=HNSW32"):
        VectorSettings(vectors="int8", factory="HNSW32")
