"""Tiny contexts that hold an animal, a colour or both, and questions about one of them."""

import json
from pathlib import Path

import numpy as np

from nlp_tasks.mrc.formats import Question, Questions
from tests.nlp_tasks.text_world import SPECIAL, bert_folder

ANIMALS = ("cat", "dog", "owl", "fox")
COLOURS = ("red", "blue", "green", "grey")
FILLERS = tuple(f"w{number}" for number in range(12))
ASKED = {"animal": ANIMALS, "colour": COLOURS}
VOCABULARY = (*SPECIAL, "which", "?", *ASKED, *ANIMALS, *COLOURS, *FILLERS)


def reading_bert(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """Write a BERT with random weights and a vocabulary of this world's words."""
    changes = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 64} | changes
    bert_folder(folder, seed=seed, **changes)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


def questions(count: int, *, seed: int = 0, unanswerable: float = 0.0) -> Questions:
    """Return questions whose answer is the one word, or the two, of the kind that is asked for."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        kinds = list(ASKED)
        asked = kinds[number % 2]
        other = kinds[1 - number % 2]
        words = draw.choice(FILLERS, draw.integers(4, 10)).tolist()
        words.insert(int(draw.integers(0, len(words) + 1)), str(draw.choice(ASKED[other])))
        answers, starts = (), ()
        if draw.random() >= unanswerable:
            answer = draw.choice(ASKED[asked], draw.integers(1, 3), replace=False).tolist()
            place = int(draw.integers(0, len(words) + 1))
            answers = (" ".join(answer),)
            starts = (len(" ".join([*words[:place], ""])),)
            words[place:place] = answer
        rows.append(Question(f"q{number}", f"which {asked} ?", " ".join(words), answers, starts))
    return Questions(rows, "world")


def write_questions(asked: Questions, path: Path) -> Path:
    """Write questions as JSON lines."""
    lines = [
        json.dumps(
            {
                "id": question.id,
                "question": question.text,
                "context": question.context,
                "answers": {"text": question.answers, "answer_start": question.starts},
            }
        )
        for question in asked
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
