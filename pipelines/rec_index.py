"""python -m pipelines.rec_index: the vectors of a run in a FAISS index."""

from dataclasses import dataclass

from idbert.inputs.vocabulary import Vocabulary
from idbert.nn.item_models import load_item_model
from idbert.retrieval.index import VectorIndex
from idbert.retrieval.recommender import Recommender
from idbert.rows import FIRST_ITEM
from idbert.run_dir import RunDir
from pipelines.cli import naming_plugins_of, run_command, stage
from pipelines.corridor import STAGES, log_settings_of, read_log

USER_INDEX = "user_index"
"""Folder of the users' index inside a run."""


@dataclass(frozen=True)
class RecIndexSettings:
    """What is indexed, and how."""

    run: str = "runs/rec_finetune"
    """The finished run; the index becomes its folder `index`."""
    factory: str = "Flat"
    """A FAISS factory string: Flat is exact; HNSW32, IVF1024,Flat, HNSW32,SQ8, ... trade recall for
    speed or memory."""
    users: bool = False
    """Whether the vectors of the log's users are indexed too, as the folder `user_index`."""


def main(config: RecIndexSettings) -> None:
    """Export the item vectors of a finished run to a FAISS index.

    A vector's last component is the item's bias, so that the inner product with a user's vector is
    the model's score. rec_recommend and Recommender.load then search the index.
    """
    run = RunDir.open(config.run, STAGES)
    with naming_plugins_of(run):
        vectors_VD = load_item_model(run.model).item_vectors().numpy()
    with stage("index the items"):
        items = Vocabulary.load(run.path).ids
        index = VectorIndex.build(vectors_VD[FIRST_ITEM:], items, factory=config.factory)
        index.save(run.index, run.model_sha256)
    if config.users:
        with stage("index the users"):
            _index_users(run, config.factory)


def _index_users(run: RunDir, factory: str) -> None:
    """Index one vector a user, made of the user's whole log."""
    log = read_log(log_settings_of(run).data)
    users, vectors_UD = Recommender.load(run.path, index=False).user_vectors(log)
    index = VectorIndex.build(vectors_UD, users, factory=factory)
    index.save(run.path / USER_INDEX, run.model_sha256)


if __name__ == "__main__":
    run_command(main, RecIndexSettings)
