"""nlp_search: a file of texts becomes an index, and answers in words or in a file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from tests.nlp_tasks import text_world
from tests.nlp_tasks.match.vector_world import sentences, tower
from tests.pipelines.commands import Finished, run, succeed

TEXTS = [*dict.fromkeys(sentences(40)), "w1 w2 good", "w1 w2  good", "w1  w2 good"]


class SearchWorld:
    """Texts on disk, towers, and an index that the command made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frame = pd.DataFrame({"id": [f"t{n}" for n in range(len(TEXTS))], "text": TEXTS})
        self.texts = text_world.write(self.frame, folder / "texts.jsonl")
        self.model = folder / "towers"
        tower(folder / "bert").save_pretrained(str(self.model))
        self.run = folder / "runs/search"
        self.made = self.index()

    def index(self, *arguments: object) -> Finished:
        return succeed(
            *("nlp_search", "--run", self.run, f"--index.texts={self.texts}"),
            *(f"--index.model={self.model}", *arguments),
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SearchWorld:
    return SearchWorld(tmp_path_factory.mktemp("search"))


@pytest.fixture
def copied(world: SearchWorld, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.run, tmp_path / "copied"))


def test_the_index_is_a_folder_of_texts_vectors_and_figures(world: SearchWorld):
    names = {path.name for path in world.run.iterdir()}
    assert names == {"run.json", "config.yaml", "texts.parquet", "index", "metrics.json"}
    figures = json.loads((world.run / "metrics.json").read_text())
    assert figures["texts"] == len(TEXTS) and figures["components"] == text_world.HIDDEN
    assert figures["factory"] == "Flat" and figures["recall@10"] == 1
    assert pd.read_parquet(world.run / "texts.parquet").equals(world.frame)
    assert "texts in" in world.made.err


def test_a_query_is_answered_in_words(world: SearchWorld):
    found = succeed("nlp_search", "--run", world.run, "--query", TEXTS[5], "--k=3")
    lines = found.out.strip().splitlines()
    assert lines[0] == f"query {TEXTS[5]}"
    assert len(lines) == 5 and lines[2].split()[:3] == ["1", "t5", "1.000"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_file_of_queries_is_answered_in_a_file(world: SearchWorld, tmp_path: Path, ending: str):
    queries = tmp_path / "queries.csv"
    asked = world.frame.rename(columns={"text": "question"}).iloc[:6]
    asked.assign(id=[f"q{n}" for n in range(6)]).to_csv(queries, index=False)
    output = tmp_path / f"found.{ending}"
    succeed(
        *("nlp_search", "--run", world.run, f"--queries={queries}", f"--output={output}"),
        *("--queries_columns.text_column=question", "--k=4"),
    )
    readers = {"jsonl": lambda path: pd.read_json(path, lines=True), "csv": pd.read_csv}
    found = readers.get(ending, pd.read_parquet)(output)
    assert list(found.columns) == ["query_id", "query", "rank", "id", "score", "text"]
    assert len(found) == 24 and found["query_id"].tolist()[::4] == [f"q{n}" for n in range(6)]
    first = found[found["rank"] == 1]
    assert (first["query"] == first["text"]).all()


def test_the_same_command_opens_the_index_and_a_changed_file_makes_it_anew(
    world: SearchWorld, tmp_path: Path
):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS[:12]), encoding="utf-8")
    command = ("nlp_search", f"--run={tmp_path / 'run'}", f"--index.texts={texts}")
    command += (f"--index.model={world.model}", "--query=w1 good", "--k=20")
    first, second = succeed(*command), succeed(*command)
    assert first.out == second.out and "holds the index of 12 texts already" in second.err
    texts.write_text("\n".join(TEXTS[:15]), encoding="utf-8")
    third = succeed(*command)
    assert "have changed; indexing anew" in third.err
    assert len(third.out.splitlines()) == len(first.out.splitlines()) + 3


def test_the_same_command_mends_a_damaged_index(world: SearchWorld, tmp_path: Path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS[:12]), encoding="utf-8")
    command = ("nlp_search", f"--run={tmp_path / 'run'}", f"--index.texts={texts}")
    command += (f"--index.model={world.model}", "--query=w1 good")
    first = succeed(*command)
    (tmp_path / "run" / "texts.parquet").unlink()
    again = succeed(*command)
    assert "texts.parquet is missing" in again.err and again.out == first.out


def test_other_settings_need_another_folder(world: SearchWorld):
    failed = run(
        *("nlp_search", f"--run={world.run}", f"--index.texts={world.texts}"),
        *(f"--index.model={world.model}", "--index.cosine=false"),
    )
    assert failed.status == 2 and "cosine is True there and False here" in failed.message


def test_near_duplicates_are_printed_by_clusters(world: SearchWorld, tmp_path: Path):
    found = succeed("nlp_search", "--run", world.run, "--duplicates=0.99999")
    assert "3 of" in found.err and "in 1 clusters" in found.err
    assert found.out.count("w1 w2 good") == 3
    output = tmp_path / "clusters.csv"
    succeed("nlp_search", "--run", world.run, "--duplicates=1", f"--output={output}")
    assert list(pd.read_csv(output).columns) == ["cluster", "id", "text"]


def test_neighbours_of_all_texts(world: SearchWorld, tmp_path: Path):
    found = succeed("nlp_search", "--run", world.run, "--neighbours=2")
    assert f"and {len(TEXTS) - 20} more; --output FILE writes all" in found.out
    assert f"id t0: {TEXTS[0]}" in found.out
    output = tmp_path / "neighbours.parquet"
    succeed("nlp_search", "--run", world.run, "--neighbours=2", f"--output={output}")
    table = pd.read_parquet(output)
    assert len(table) == 2 * len(TEXTS)
    assert list(table.columns) == ["id", "rank", "neighbour_id", "score", "text"]


def test_a_whitened_index_keeps_its_model(world: SearchWorld, tmp_path: Path):
    folder = tmp_path / "run"
    command = ("nlp_search", f"--run={folder}", f"--index.texts={world.texts}")
    command += (f"--index.model={world.model}", "--index.whitening=4", f"--query={TEXTS[3]}")
    first, second = succeed(*command), succeed(*command)
    assert first.out == second.out and " t3 " in first.out.splitlines()[3]
    assert json.loads((folder / "metrics.json").read_text())["components"] == 4
    vectors = SentenceTransformer(str(folder / "model"), device="cpu").encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_few_bits_are_measured(world: SearchWorld, tmp_path: Path):
    folder = tmp_path / "run"
    succeed(
        *("nlp_search", f"--run={folder}", f"--index.texts={world.texts}"),
        *(f"--index.model={world.model}", "--index.vectors=binary"),
    )
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["factory"] == "RaBitQ" and 0.2 < figures["recall@10"] < 1
    small, large = figures["bytes"], json.loads((world.run / "metrics.json").read_text())["bytes"]
    assert small < large


def test_a_cross_encoder_orders_anew(world: SearchWorld, tmp_path: Path):
    folder = text_world.bert_folder(tmp_path / "bert", seed=5)
    CrossEncoder(str(folder), num_labels=1, max_length=30).save_pretrained(str(tmp_path / "cross"))
    output = tmp_path / "found.jsonl"
    ask = ("nlp_search", "--run", world.run, "--query=w1 w2", "--k=5", f"--output={output}")
    succeed(*ask, f"--rerank={tmp_path / 'cross'}", "--candidates=20")
    found = pd.read_json(output, lines=True)
    assert {"score", "vector_score"} < set(found.columns) and found["rank"].tolist() == [
        *range(1, 6)
    ]
    assert found["score"].is_monotonic_decreasing
    cross = CrossEncoder(str(tmp_path / "cross"))
    right = cross.predict([("w1 w2", text) for text in found["text"]])
    np.testing.assert_allclose(found["score"], right, atol=1e-5)
    succeed(*ask)
    assert pd.read_json(output, lines=True)["id"].tolist() != found["id"].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing is asked"),
        (("--query=a", "--neighbours=2"), "query and neighbours are two questions"),
        (("--index.texts=a.txt",), "needs --index.model"),
        (("--query=a", "--index.cosine=false"), "act only with --index.texts"),
        (("--query=a", "--output=a.xlsx"), "must end in .jsonl, .csv or .parquet"),
        (("--index.texts=a.txt", "--index.model=m", "--output=a.csv"), "output acts only where"),
        (("--neighbours=2", "--rerank=m"), "rerank acts only where there are queries"),
        (("--neighbours=2", "--k=3"), "k acts only where there are queries"),
        (("--duplicates=1", "--search.nprobe=3"), "search acts only where there are queries"),
        (("--query=a", "--queries_columns.id_column=x"), "acts only where there is a file"),
        (("--query=a", "--candidates=9"), "candidates acts only where there is a reranker"),
        (("--query=a", "--k=0"), "k is 0; it must be at least 1"),
        (("--neighbours=0",), "neighbours is 0; it must be at least 1"),
        (("--query= ",), "query is empty"),
        (("--query=a", "--search.nprobe=3"), "nprobe cannot act on an index 'Flat'"),
        (("--duplicates=2",), "threshold is 2.0; a cosine is from -1 to 1"),
    ],
)
def test_settings_that_cannot_act_are_refused(
    world: SearchWorld, arguments: tuple[str, ...], message: str
):
    failed = run("nlp_search", "--run", world.run, *arguments)
    assert failed.status == 2 and message in failed.message


def test_a_folder_without_an_index_and_a_damaged_one_are_refused(
    world: SearchWorld, copied: Path, tmp_path: Path
):
    failed = run("nlp_search", "--run", tmp_path / "none", "--query=a")
    assert failed.status == 1 and "no run at" in failed.message
    failed = run("nlp_search", "--run", world.model, "--query=a")
    assert failed.status == 1 and "holds no index" in failed.message
    (copied / "texts.parquet").write_bytes(b"")
    failed = run("nlp_search", "--run", copied, "--query=a")
    assert failed.status == 1 and "texts.parquet has 0 bytes instead of" in failed.message
    failed = run(
        *("nlp_search", "--run", tmp_path / "new", f"--index.texts={world.texts}"),
        "--index.model=missing/model",
    )
    assert failed.status == 1 and "missing/model" in failed.message
