"""A classifier of texts whose label one word decides, trained by nlp_cls."""

from pathlib import Path

from tests.nlp_tasks.text_world import bert_folder, texts, write
from tests.pipelines.commands import succeed

SMALL = (
    "--text.max_length=16",
    "--training.learning_rate=0.01",
    "--batches.token_budget=200",
)


def trained_classifier(folder: Path) -> Path:
    """Write a BERT, texts to train and test on, and a finished run on them; return the folder."""
    bert_folder(folder / "bert")
    write(texts(300), folder / "train.jsonl")
    write(texts(60, seed=1), folder / "test.jsonl")
    succeed(
        *("nlp_cls", "--run", folder / "run", "--model", folder / "bert", *SMALL),
        *("--data.train", folder / "train.jsonl", "--data.test", folder / "test.jsonl"),
        "--training.epochs=8",
    )
    return folder
