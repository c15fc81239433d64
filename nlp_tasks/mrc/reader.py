"""A trained reader as a library: questions and contexts in, answers out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from idbert.errors import CheckpointError, ConfigError
from idbert.files import written_aside
from idbert.nn.saved_models import open_saved
from idbert.run_dir import RunDir
from nlp_tasks.cls.classifier import usable_device
from nlp_tasks.cls.encoders import read_model_config
from nlp_tasks.mrc.answers import Answer
from nlp_tasks.mrc.batches import TOKEN_BUDGET
from nlp_tasks.mrc.decoding import DecodingSettings, FoundSpans, answers_of, find_spans
from nlp_tasks.mrc.dgcnn import DgcnnReaderModel
from nlp_tasks.mrc.model import ReaderModel
from nlp_tasks.mrc.reading import QuestionReader
from nlp_tasks.mrc.windows import ContextWindows

STAGE = "nlp_mrc"
DECODING_FILE = "decoding.json"

AnyReaderModel: TypeAlias = ReaderModel | DgcnnReaderModel

MODELS: dict[str, type[AnyReaderModel]] = {
    "idbert_reader": ReaderModel,
    "idbert_dgcnn_reader": DgcnnReaderModel,
}
"""The models that can read, by the model_type of their config."""


class Reader:
    """Answers questions by spans of their contexts.

    Example:
        >>> reader = Reader.load("runs/squad")
        >>> reader.answer(["Who wrote it?"], ["It was written by Ada in 1843."])[0][0].text
        'Ada'

    Args:
        model: A trained reader.
        reading: How questions become windows.
        decoding: Which spans can be answers; its threshold says when there is none.
        device: auto (the GPU where there is one), or torch's name of a device.
        token_budget: Positions of a batch, padding included.

    Raises:
        ConfigError: there is no such device here.
    """

    def __init__(
        self,
        model: AnyReaderModel,
        reading: QuestionReader,
        decoding: DecodingSettings = DecodingSettings(),  # noqa: B008 (frozen)
        *,
        device: str = "auto",
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        self.model: Any = model.to(usable_device(device)).eval()
        self.reading, self.decoding = reading, decoding
        self._token_budget = token_budget

    @classmethod
    def load(
        cls, run: str | Path, *, device: str = "auto", token_budget: int = TOKEN_BUDGET
    ) -> "Reader":
        """Open a finished run of nlp_mrc.

        Args:
            run: The run's folder.
            device: auto (the GPU where there is one), or torch's name of a device.
            token_budget: Positions of a batch, padding included.

        Raises:
            CheckpointError: the folder is no finished run of nlp_mrc, or a file is damaged.
            ConfigError: there is no such device here.
        """
        opened = RunDir.open(run, [STAGE])
        return cls(
            load_reader_model(opened.model),
            QuestionReader.load(opened.path),
            load_decoding(opened.path),
            device=device,
            token_budget=token_budget,
        )

    def answer(
        self, questions: Sequence[str], contexts: Sequence[str], *, n_best: int = 1
    ) -> list[list[Answer]]:
        """Return the answers to each question, the best first.

        Where the reader holds that there is none, the first answer is empty and has the text "";
        the spans that come nearest follow it, if `n_best` is above 1.

        Args:
            questions: One a row.
            contexts: What is read for the answer of each.
            n_best: Answers of each question, at most.

        Raises:
            ConfigError: n_best is below 1.
            DataError: a question or context is empty, or there is another number of contexts.
        """
        questions, contexts = list(questions), list(contexts)
        if n_best < 1:
            raise ConfigError(f"n_best is {n_best}; it must be at least 1.")
        if not questions and not contexts:
            return []
        found = self.find(self.reading.windows(questions, contexts), n_best=n_best)
        return answers_of(found, contexts, self.decoding.threshold, n_best)

    def find(self, windows: ContextWindows, *, n_best: int = 1) -> FoundSpans:
        """Return the best spans of windows, whether or not there seems to be an answer."""
        return find_spans(
            self.model,
            windows,
            self.decoding,
            pad_id=self.reading.pad_id,
            n_best=n_best,
            token_budget=self._token_budget,
        )


def load_reader_model(folder: str | Path) -> AnyReaderModel:
    """Open a folder that `save_pretrained` of a reader wrote, in evaluation mode.

    Raises:
        CheckpointError: the folder is missing, holds another kind of model, or its weights are
            not all there.
    """
    folder = Path(folder)
    model_type = read_model_config(folder).get("model_type")
    if model_type not in MODELS:
        raise CheckpointError(
            f"{folder} holds a model of type '{model_type}', not a reader. Give the folder of a "
            "finished run of nlp_mrc."
        )
    return open_saved(MODELS[model_type], folder)


def save_decoding(run: Path, decoding: DecodingSettings) -> None:
    """Write into a run's folder which spans can be answers, and the threshold that was found."""
    value = {
        "max_answer_length": decoding.max_answer_length,
        "threshold": decoding.threshold,
    }
    with written_aside(run / DECODING_FILE) as aside:
        aside.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def load_decoding(run: Path) -> DecodingSettings:
    """Read what `save_decoding` wrote.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    file = run / DECODING_FILE
    try:
        return DecodingSettings(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{file} does not say which spans can be answers: {error}. Copy the run again."
        ) from error
