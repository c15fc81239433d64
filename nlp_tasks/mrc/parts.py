"""The parts of a reader's data: questions to train on, and questions to evaluate on."""

import logging
from dataclasses import dataclass, field
from typing import Literal

from idbert.errors import ConfigError, DataError
from nlp_tasks.held_out import check_dev_share
from nlp_tasks.mrc.answers import AnswerSettings
from nlp_tasks.mrc.formats import Questions, hold_out_contexts, read_questions
from nlp_tasks.mrc.metrics import Language, language_of
from nlp_tasks.mrc.negatives import NegativeSettings, with_negatives
from nlp_tasks.mrc.paragraphs import ParagraphSettings, cut_questions

logger = logging.getLogger(__name__)

DEV_SHARE = 0.1


@dataclass(frozen=True)
class QuestionFiles:
    """Where the questions are. A base of its own, so that these settings stand before the others.

    The files may be .json in the layout of SQuAD, DRCD or CMRC2018, or .jsonl or .parquet.
    """

    train: str = "data/samples/questions.jsonl"
    """Questions to train on, with their contexts and answers: .json as SQuAD, DRCD or CMRC2018,
    .jsonl or .parquet."""
    dev: str | None = None
    """Questions that choose the best weights, and the threshold below which there is no answer.
    Default: the questions of some contexts of train are held out."""
    test: str | None = None
    """Questions for the last evaluation alone."""
    dev_share: float | None = None
    """Share of the training questions that is held out where there is no dev file, whole contexts
    at a time; 0: none, and the last weights are kept. Default: 0.1."""
    split_seed: int = 0
    """Decides which contexts are held out, and which negatives are drawn. Runs of other training
    seeds have the same."""


@dataclass(frozen=True)
class QuestionData(AnswerSettings, QuestionFiles):
    """The questions, and how to read them."""

    language: Literal["auto", "english", "chinese"] = "auto"
    """Decides how answers are compared: by words without articles and punctuation, or by
    characters. auto: chinese where most contexts hold a Chinese character."""
    paragraphs: ParagraphSettings = field(default=ParagraphSettings(max_length=None))
    """How the contexts to train on are cut, never through an answer; each question keeps the
    paragraph of its answer, the others may become negatives. Default: they stay whole"""
    negatives: NegativeSettings = field(default_factory=NegativeSettings)
    """Paragraphs that do not answer a question, for training"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.language not in ("auto", "english", "chinese"):
            raise ConfigError(f"language is '{self.language}'; choose auto, english or chinese.")
        check_dev_share(self.dev_share, self.dev)


@dataclass(frozen=True, eq=False)
class QuestionParts:
    """All questions of a run, read and checked.

    Attributes:
        train: those to train on, negatives among them.
        evaluated: those to evaluate on by the name of their part: "validation" and "test", as far
            as they are there.
        language: by which answers are compared.
    """

    train: Questions
    evaluated: dict[str, Questions]
    language: Language

    @property
    def validation(self) -> Questions | None:
        """The questions that choose the best weights; None: the last ones are kept."""
        return self.evaluated.get("validation")


def read_parts(data: QuestionData) -> QuestionParts:
    """Read all files, hold out what validates, cut what trains, and draw the negatives.

    Raises:
        DataError: a file cannot be read or holds wrong questions, or no question to train on has an
            answer.
    """
    train = read_questions(data.train, data)
    evaluated = {
        name: read_questions(path, data)
        for name, path in (("validation", data.dev), ("test", data.test))
        if path is not None
    }
    language = language_of(train.rows) if data.language == "auto" else data.language
    share = DEV_SHARE if data.dev_share is None else data.dev_share
    if data.dev is None and share:
        train, held_out = hold_out_contexts(train, share, seed=data.split_seed)
        evaluated = {"validation": held_out} | evaluated
    if train.num_unanswerable == len(train):
        raise DataError(
            f"{train.source}: none of the {len(train)} questions to train on has an answer."
        )
    whole, collection = train, None
    if data.paragraphs.max_length is not None:
        train, collection = cut_questions(whole, data.paragraphs)
    train = with_negatives(train, collection, data.negatives, data.split_seed, uncut=whole)
    sizes = {"training": train} | evaluated
    logger.info(
        "%s; answers are compared as %s",
        ", ".join(f"{len(part):,} questions of {name}" for name, part in sizes.items()),
        language,
    )
    return QuestionParts(train, evaluated, language)
