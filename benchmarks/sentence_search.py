"""Vectors of sentences and the nearest neighbours of each: how long, beside sentence-transformers?

    python -m benchmarks.sentence_search --model FOLDER --texts train.jsonl dev.jsonl

One process, the same weights, the same sentences. CPU seconds are those of this process, so that on
a busy machine they still tell: with --threads 1 they are what an idle core would take. Recall is
against the neighbours that sentence-transformers finds at float32.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search
from transformers.utils import logging

from nlp_tasks.match.encoding import encode_sentences
from nlp_tasks.match.neighbours import all_pairs_neighbours
from nlp_tasks.match.quantising import FACTORIES, measure_types, recall_of

TEXT_COLUMNS = ("text", "text_a", "text_b")
FACTORIES_MEASURED = {**FACTORIES, "binary, int8 again": "RaBitQ,Refine(SQ8)"}


def read_sentences(files: list[Path], count: int, seed: int) -> list[str]:
    """Return different sentences of jsonl files, drawn at random."""
    found: dict[str, None] = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found |= {row[name]: None for name in TEXT_COLUMNS if name in row}
    if len(found) < count:
        raise SystemExit(f"the files hold {len(found)} different sentences, not {count}.")
    sentences = list(found)
    drawn = np.random.default_rng(seed).permutation(len(sentences))[:count]
    return [sentences[place] for place in drawn]


def theirs(model: SentenceTransformer, texts: list[str], k: int, batch_size: int) -> np.ndarray:
    """Return each sentence's neighbours, as sentence-transformers' documentation finds them."""
    vectors = model.encode(texts, batch_size=batch_size, convert_to_tensor=True).float()
    found = semantic_search(vectors, vectors, top_k=k + 1)
    rows = [[hit["corpus_id"] for hit in hits] for hits in found]
    others = [[row for row in best if row != own][:k] for own, best in enumerate(rows)]
    return np.array(others)


def ours(model: SentenceTransformer, texts: list[str], k: int, precision: str) -> np.ndarray:
    """Return each sentence's neighbours."""
    vectors_ND = encode_sentences(model, texts, precision=precision)  # type: ignore[arg-type]
    return all_pairs_neighbours(vectors_ND, k)[1]


def timed(work: Callable[[], np.ndarray], rounds: int) -> tuple[np.ndarray, float, float]:
    """Return what work returns, and its least CPU and wall seconds."""
    seconds = []
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.perf_counter()
        found = work()
        seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
    return found, *np.min(seconds, axis=0).tolist()


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="the folder of a SentenceTransformer")
    parser.add_argument("--texts", required=True, nargs="+", type=Path, help="jsonl files")
    parser.add_argument("--count", type=int, default=10_000, help="sentences")
    parser.add_argument("--k", type=int, default=10, help="neighbours of each")
    parser.add_argument("--rounds", type=int, default=1, help="the least time of so many")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=32, help="of sentence-transformers")
    parser.add_argument("--types", action="store_true", help="measure vectors of fewer bits too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()

    texts = read_sentences(options.texts, options.count, options.seed)
    models = {
        name: SentenceTransformer(
            options.model, device="cpu", model_kwargs={"dtype": getattr(torch, name)}
        ).eval()
        for name in ("float32", "bfloat16")
    }
    for model in models.values():
        model.encode(texts[:64])
    ways: dict[tuple[str, str], Callable[[], np.ndarray]] = {
        ("sentence-transformers", "float32"): lambda: theirs(
            models["float32"], texts, options.k, options.batch_size
        ),
        ("idbert", "float32"): lambda: ours(models["float32"], texts, options.k, "float32"),
        ("sentence-transformers", "bfloat16"): lambda: theirs(
            models["bfloat16"], texts, options.k, options.batch_size
        ),
        ("idbert", "bfloat16"): lambda: ours(models["float32"], texts, options.k, "bfloat16"),
    }
    print(f"{len(texts):,} sentences, {options.k} neighbours each, {options.threads} threads\n")
    last = f"recall@{options.k}"
    print(f"| {'by':21} | {'type':8} | CPU s | wall s | times | recall@1 | {last:>9} |")
    print(f"|{'-' * 23}|{'-' * 10}|------:|-------:|------:|---------:|{'-' * 10}:|")
    right: np.ndarray | None = None
    first = 0.0
    for (by, name), work in ways.items():
        found, cpu, wall = timed(work, options.rounds)
        if right is None:
            right, first = found, cpu
        recalls = [recall_of(found[:, :k], right[:, :k]) for k in (1, options.k)]
        print(
            f"| {by:21} | {name:8} | {cpu:5.1f} | {wall:6.1f} | {first / cpu:5.2f} | "
            f"{recalls[0]:8.4f} | {recalls[1]:9.4f} |",
            flush=True,
        )
    if options.types:
        vectors_ND = encode_sentences(models["float32"], texts)
        queries_QD = vectors_ND[: min(1000, len(texts))]
        measured = measure_types(vectors_ND, queries_QD, options.k, factories=FACTORIES_MEASURED)
        print(f"\n| {'vectors':18} | {'factory':18} | bytes each | {last:>9} | seconds |")
        print(f"|{'-' * 20}|{'-' * 20}|-----------:|{'-' * 10}:|--------:|")
        for row in measured.itertuples():
            print(
                f"| {row.vectors:18} | {row.factory:18} | {row.bytes_a_vector:10} | "
                f"{row.recall:9.4f} | {row.seconds:7.2f} |"
            )


if __name__ == "__main__":
    main()
