"""The card of towers: what they are, how they are used, what they were trained on, how good."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from nlp_tasks.match.encoder_module import OWN_MODULES

CARD_FILE = "README.md"


@dataclass(frozen=True)
class CardFacts:
    """What a card tells of a training.

    Attributes:
        title: of the card.
        base: the model that training began with, by its last name.
        data: the training file, by its last name.
        pairs: trained on.
        loss: by its name.
        settings: of the training, by name.
        figures: by the name of the part, then of the metric.
        examples: texts for the example.
        languages: of the texts, as ISO codes.
    """

    title: str
    base: str
    data: str
    pairs: int
    loss: str
    settings: Mapping[str, object] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    examples: Sequence[str] = ()
    languages: Sequence[str] = ()


def is_standard(towers: SentenceTransformer) -> bool:
    """Say whether sentence-transformers alone opens these towers."""
    names = {f"{type(module).__module__}.{type(module).__name__}" for module in towers.modules()}
    return not names & OWN_MODULES.keys()


def model_card(towers: SentenceTransformer, facts: CardFacts) -> str:
    """Return the card in Markdown, under the head that the Hugging Face hub reads."""
    return "\n".join([*_head(facts), "", *_description(towers, facts), "", *_usage(towers, facts)])


def _head(facts: CardFacts) -> list[str]:
    lines = ["---"]
    if facts.languages:
        lines += ["language:", *(f"- {language}" for language in facts.languages)]
    return [
        *lines,
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags:",
        "- sentence-transformers",
        "- feature-extraction",
        "- sentence-similarity",
        "- idbert",
        "---",
    ]


def _description(towers: SentenceTransformer, facts: CardFacts) -> list[str]:
    count = sum(parameter.numel() for parameter in towers.parameters())
    has_pair = isinstance(towers[0], Router)
    rows = [
        ("Vector width", f"{towers.get_embedding_dimension()}"),
        ("Longest text", f"{towers.max_seq_length} tokens"),
        ("Towers", "two: query and document" if has_pair else "one for all texts"),
        ("Parameters", f"{count:,}"),
        ("Begun with", facts.base),
        ("Trained on", f"{facts.pairs:,} pairs of {facts.data}"),
        ("Loss", facts.loss),
        *((name, str(value)) for name, value in facts.settings.items()),
        ("Made by", f"idbert {version('idbert')}"),
    ]
    lines = [
        f"# {facts.title}",
        "",
        "Turns texts into vectors whose cosine says how alike the texts are.",
        "",
        *_table(("", ""), rows),
    ]
    for part, figures in facts.figures.items():
        values = [(name, f"{value:.4f}") for name, value in figures.items()]
        lines += ["", f"## Figures of the {part} part", "", *_table(("Metric", "Value"), values)]
    return lines


def _usage(towers: SentenceTransformer, facts: CardFacts) -> list[str]:
    texts = [" ".join(text.split())[:80] for text in facts.examples] or ["one text", "another"]
    listed = ", ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    if is_standard(towers):
        opening = [
            "from sentence_transformers import SentenceTransformer",
            "",
            'towers = SentenceTransformer("path/of/this/folder")',
        ]
        note = "The folder opens without idbert."
    else:
        opening = [
            "from nlp_tasks.match.towers import open_towers",
            "",
            'towers = open_towers("path/of/this/folder")',
        ]
        note = (
            "A part of the model is idbert's, which checks what the folder names before it opens "
            "it: `pip install idbert`."
        )
    task = ', task="query"' if isinstance(towers[0], Router) else ""
    return [
        "## Use",
        "",
        note,
        "",
        "```python",
        *opening,
        f"vectors = towers.encode([{listed}]{task})",
        "print(towers.similarity(vectors, vectors))",
        "```",
        "",
        "## Limits",
        "",
        "Figures hold for texts like those of the training pairs. Longer texts are cut off.",
        "",
    ]


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    escaped = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return [
        f"| {head[0]} | {head[1]} |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in escaped),
    ]
