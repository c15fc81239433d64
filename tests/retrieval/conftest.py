"""A small model that has learned the circle of items, and its run folder."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from idbert.inputs.interactions import read_interactions
from idbert.inputs.sequences import build_sequences
from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.config import EncoderSettings
from idbert.nn.item_models import NextItemModel
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.recommender import Recommender
from idbert.rows import FIRST_ITEM
from idbert.run_dir import RunDir
from tests.worlds import cycle_world


@pytest.fixture(scope="session")
def log() -> pd.DataFrame:
    return cycle_world(num_users=64, num_items=12)


@pytest.fixture(scope="session")
def vocabulary(log: pd.DataFrame) -> Vocabulary:
    return Vocabulary.from_interactions(read_interactions(log))


@pytest.fixture(scope="session")
def model(log: pd.DataFrame, vocabulary: Vocabulary) -> NextItemModel:
    """After item i comes item i + 1: learned in a second."""
    torch.manual_seed(0)
    settings = EncoderSettings(
        hidden_size=32, num_layers=2, num_heads=2, max_length=12, hidden_dropout=0.0
    )
    model = NextItemModel.build(settings, vocab_size=len(vocabulary))
    sequences = build_sequences(read_interactions(log), vocabulary)
    lengths = sequences.lengths
    is_real = np.arange(lengths.max()) < lengths[:, None]
    rows = np.zeros(is_real.shape, np.int64)
    rows[is_real] = sequences.items
    input_ids, labels = torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])
    labels = labels.masked_fill(labels == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(input_ids, attention_mask=(input_ids > 0).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def run(tmp_path: Path, model: NextItemModel, vocabulary: Vocabulary) -> RunDir:
    """A finished run with a flat index."""
    return finished_run(tmp_path / "run", model, vocabulary)


def finished_run(
    path: Path, model: NextItemModel, vocabulary: Vocabulary, **settings: object
) -> RunDir:
    """Write a run with a flat index."""
    run = RunDir.create(path, "finetune", {"sequences": {"max_length": 12}, **settings})
    vocabulary.save(run.path)
    with run.writing("model") as aside:
        model.save_pretrained(aside)
    run.finish()
    vectors = model.item_vectors()[FIRST_ITEM:].numpy()
    VectorIndex.build(vectors, vocabulary.ids).save(run.index, run.model_sha256)
    return run


@pytest.fixture(scope="session")
def recommender(model: NextItemModel, vocabulary: Vocabulary) -> Recommender:
    return Recommender(model, vocabulary)
