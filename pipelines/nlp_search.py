"""python -m pipelines.nlp_search: texts by their meaning, from a file of them."""

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sentence_transformers import SentenceTransformer

from idbert.errors import CheckpointError, ConfigError
from idbert.files import digest_of
from idbert.retrieval.index_settings import SearchSettings
from idbert.run_dir import MARKER, RunDir
from idbert.tables import RANK, SCORE
from nlp_tasks.match.reranking import open_reranker
from nlp_tasks.match.search import (
    CLUSTER,
    INDEX_FOLDER,
    NEIGHBOUR,
    QUERY,
    TEXTS_FILE,
    TextSearch,
    VectorSettings,
    digest_of_model,
)
from nlp_tasks.match.texts import ID, TEXT, TextFileSettings, read_texts
from nlp_tasks.match.towers import open_towers, save_towers
from nlp_tasks.match.whitening import whitened
from pipelines.cli import logger, run_command, settings_from, stage
from pipelines.corridor import as_dict
from pipelines.nlp_search_output import FORMATS, give

STAGE = "nlp_search"
_ESSENTIAL = ("config.yaml", TEXTS_FILE, f"{INDEX_FOLDER}/manifest.json", "metrics.json")
_QUERY_ID, _VECTOR_SCORE = "query_id", "vector_score"


@dataclass(frozen=True)
class IndexedTexts:
    """Where the texts are. A base of its own, so that these settings stand before the others."""

    texts: str | None = None
    """A .jsonl, .csv, .tsv, .parquet or .txt file to index. Default: what the run has indexed."""
    model: str | None = None
    """What turns texts into vectors: a run of nlp_match, or a SentenceTransformer or bare encoder,
    its folder or its name on the Hugging Face hub. Needed where texts are indexed."""


@dataclass(frozen=True)
class IndexTextsSettings(VectorSettings, TextFileSettings, IndexedTexts):
    """Which texts are indexed, by which vectors."""

    whitening: int | None = None
    """Whiten the vectors by what these texts are like, and keep so many components; the model of
    the run, RUN/model, then does so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whitening is not None and self.whitening < 1:
            raise ConfigError(f"index.whitening is {self.whitening}; it must be at least 1.")


@dataclass(frozen=True)
class NlpSearchSettings:
    """What is indexed, and what is looked for in it."""

    run: str = "runs/nlp_search"
    """The folder of the index: made where texts are given, else opened."""
    index: IndexTextsSettings = field(default_factory=IndexTextsSettings)
    """The texts, and their vectors; only where they are indexed"""
    query: str | None = None
    """A text to look for."""
    queries: str | None = None
    """A file of texts to look for, of the same formats."""
    queries_columns: TextFileSettings = field(default_factory=TextFileSettings)
    """Its columns"""
    k: int = 10
    """Texts wanted of each query."""
    search: SearchSettings = field(default_factory=SearchSettings)
    """How thoroughly an approximate index is searched"""
    rerank: str | None = None
    """A cross-encoder that orders what was found anew: a run of nlp_cls on pairs, or a CrossEncoder
    of sentence-transformers."""
    candidates: int | None = None
    """Texts of each query that it reads. Default: 50, and never fewer than k."""
    neighbours: int | None = None
    """In place of queries: so many nearest other texts of each text, exactly."""
    duplicates: float | int | None = None
    """In place of queries: clusters of texts joined by pairs with at least this score, such as
    0.95."""
    output: str | None = None
    """A .jsonl, .csv or .parquet file for what was found. Default: print it."""
    device: str = "auto"
    """auto: the GPU where there is one; cpu."""

    def __post_init__(self) -> None:
        asked = [name for name in _ASKED if getattr(self, name) is not None]
        if len(asked) > 1:
            raise ConfigError(f"{asked[0]} and {asked[1]} are two questions. Ask one at a time.")
        if not asked and self.index.texts is None:
            raise ConfigError(
                "nothing is asked. Give --index.texts FILE to index, or one of --query TEXT, "
                "--queries FILE, --neighbours K and --duplicates SCORE."
            )
        if self.index.texts is not None and self.index.model is None:
            raise ConfigError("--index.texts needs --index.model, which turns them into vectors.")
        if self.index.texts is None and self.index != IndexTextsSettings():
            raise ConfigError("the settings of --index act only with --index.texts FILE.")
        if self.output is not None and Path(self.output).suffix not in FORMATS:
            raise ConfigError(f"output is {self.output}; it must end in .jsonl, .csv or .parquet.")
        searches = self.query is not None or self.queries is not None
        for name, acts, where in (
            ("output", bool(asked), "something is asked"),
            ("k", searches, "there are queries"),
            ("search", searches, "there are queries"),
            ("rerank", searches, "there are queries"),
            ("queries_columns", self.queries is not None, "there is a file of queries"),
            ("candidates", self.rerank is not None, "there is a reranker"),
        ):
            if not acts and getattr(self, name) != _default(name):
                raise ConfigError(f"{name} acts only where {where}. Leave it out.")
        for name in ("k", "candidates", "neighbours"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")


_ASKED = ("query", "queries", "neighbours", "duplicates")


def _default(name: str) -> Any:
    setting = NlpSearchSettings.__dataclass_fields__[name]
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def main(config: NlpSearchSettings) -> None:
    """Index a file of texts by their vectors, and find the nearest texts of queries.

    The index is made once: RUN holds texts.parquet, index/, metrics.json. It is made anew when the
    file or the model has changed. With --neighbours or --duplicates the texts are compared with one
    another instead.
    """
    if config.index.texts is not None:
        search = _indexed(config)
    else:
        search = _opened(config)
    if config.query is not None or config.queries is not None:
        _answer(search, config)
    elif config.neighbours is not None:
        with stage("find the neighbours"):
            table = search.neighbours(config.neighbours, progress=True)
        texts = dict(zip(search.texts.ids.to_pylist(), search.texts.texts, strict=True))
        give(table, config.output, ID, [RANK, NEIGHBOUR, SCORE, TEXT], texts)
    elif config.duplicates is not None:
        with stage("find the duplicates"):
            table = search.duplicates(config.duplicates, progress=True)
        logger.info(
            "%d of %d texts are near-duplicates, in %d clusters",
            *(len(table), len(search.texts), table[CLUSTER].nunique()),
        )
        give(table, config.output, CLUSTER, [ID, TEXT], {})


def _indexed(config: NlpSearchSettings) -> TextSearch:
    """Index the texts, or open the index that the same command made of the same texts before."""
    settings = config.index
    run = RunDir.create(config.run, STAGE, as_dict(settings))
    with stage("read the texts and the model"):
        texts = read_texts(str(settings.texts), settings, prefix="index.")
        model = _open_model(str(settings.model), config.device)
    made_of = {"texts": digest_of(Path(str(settings.texts)).expanduser())["sha256"]}
    made_of["model"] = digest_of_model(model)
    if _is_whole(run):
        if run.read_json("metrics.json")["made_of"] == made_of:
            logger.info("%s holds the index of %d texts already", run.path, len(texts))
            return _opened(config, model)
        logger.info("%s: the texts or the model have changed; indexing anew", run.path)
    if settings.whitening is not None:
        with stage("whiten"):
            model = whitened(
                model,
                texts.texts,
                width=settings.whitening,
                precision=settings.precision,
                prompt=settings.prompt,
                task="document",
                progress=True,
            )
            with run.writing("model") as aside:
                save_towers(model, aside)
    with stage("index the texts"):
        search = TextSearch.build(model, texts, settings, progress=True)
        search.save(run.path)
    figures: dict[str, Any] = {
        "texts": len(texts),
        "components": search.index.dimension,
        "factory": search.index.factory,
        "bytes": search.index.num_bytes,
        "recall@10": search.recall(min(10, len(texts))),
        "made_of": made_of,
    }
    run.write_json("metrics.json", figures)
    run.finish(_ESSENTIAL)
    logger.info(
        "%d texts in %s: %d components, %.1f MiB, recall@10 %.3f",
        *(len(texts), run.index, figures["components"], figures["bytes"] / 2**20),
        figures["recall@10"],
    )
    return search


def _is_whole(run: RunDir) -> bool:
    """Say whether the run holds an index whose files are as they were written."""
    try:
        RunDir.open(run.path)
    except CheckpointError as error:
        if run.is_complete:
            logger.warning("%s It is made anew.", error)
        return False
    return True


def _opened(config: NlpSearchSettings, model: SentenceTransformer | None = None) -> TextSearch:
    """Open the index of a run, and the model that it was made with unless it is open already."""
    if not (Path(config.run) / MARKER).is_file() and Path(config.run).is_dir():
        raise CheckpointError(f"{config.run} holds no index. Make one with --index.texts FILE.")
    run = RunDir.open(config.run, [STAGE])
    try:
        settings = settings_from(IndexTextsSettings, run.read_config())
    except ConfigError as error:
        raise CheckpointError(f"{run.config} is not the config of an index: {error}") from None
    with stage("open the index"):
        if settings.whitening is not None:
            model = _open_model(str(run.model), config.device)
        elif model is None:
            model = _open_model(str(settings.model), config.device)
        return TextSearch.load(run.path, model, settings)


def _open_model(name: str, device: str) -> SentenceTransformer:
    return open_towers(name, device=None if device == "auto" else device)


def _answer(search: TextSearch, config: NlpSearchSettings) -> None:
    """Find the texts of one query or of a file of them."""
    if config.query is not None:
        if not config.query.strip():
            raise ConfigError("query is empty. Give a text.")
        texts, ids = [config.query], None
    else:
        read = read_texts(str(config.queries), config.queries_columns, prefix="queries_columns.")
        texts, ids = read.texts, read.ids.to_pandas()
    reranker = None
    if config.rerank is not None:
        reranker = open_reranker(config.rerank, device=config.device)
    with stage("search"):
        wanted = config.k if reranker is None else max(config.k, config.candidates or 50)
        table = search.search(texts, wanted, config.search)
    if reranker is not None:
        with stage("rerank"):
            table = _reranked(table, texts, reranker, config.k)
    numbers = table[QUERY].to_numpy()
    queries = [texts[number] for number in numbers.tolist()]
    shown = [RANK, ID, SCORE, TEXT]
    if ids is None:
        table[QUERY] = queries
        give(table, config.output, QUERY, shown, {})
        return
    table.insert(0, _QUERY_ID, ids[numbers].to_numpy())
    table[QUERY] = queries
    named = dict(zip(ids.tolist(), texts, strict=True))
    give(table, config.output, _QUERY_ID, shown, named)


def _reranked(table: pd.DataFrame, texts: list[str], reranker: Any, k: int) -> pd.DataFrame:
    """Order each query's candidates by the reranker, and keep the best k."""
    numbers = table[QUERY].to_numpy()
    queries = [texts[number] for number in numbers.tolist()]
    scores = reranker.scores(queries, table[TEXT].tolist())
    table = table.rename(columns={SCORE: _VECTOR_SCORE})
    table.insert(3, SCORE, scores)
    order = np.lexsort((table[RANK].to_numpy(), -scores, numbers))
    table = table.iloc[order].reset_index(drop=True)
    table[RANK] = table.groupby(QUERY).cumcount() + 1
    return table[table[RANK] <= k].reset_index(drop=True)


if __name__ == "__main__":
    run_command(main, NlpSearchSettings)
