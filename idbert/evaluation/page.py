"""The frame of every report: one HTML page with its styles and charts inside, nothing loaded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined


@dataclass(frozen=True)
class PageContent:
    """What the report of every run shows; a part without content is left out.

    Attributes:
        title: of the page, such as the model and the data.
        curve: training curve, points with "epoch" and "loss" or a figure of the validation.
        settings: the resolved configuration, shown last; groups may be nested.
        facts: what was trained on what, by name, such as rows and duration.
        layer_weights: what a learned fusion multiplies each hidden state by, by name, from the
            first layer up; of any sign and size.
    """

    title: str
    _: KW_ONLY
    curve: Sequence[Mapping[str, float]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    layer_weights: Mapping[str, float] = field(default_factory=dict)


def render_page(template: str, content: PageContent, **values: Any) -> str:
    """Return a page; whatever comes from the data is escaped.

    Args:
        template: its package and file, such as "nlp_tasks/cls/report.html". It extends another by
            such a name: "idbert/evaluation/run.html" for a run, or "idbert/evaluation/page.html",
            the bare frame.
        content: what it shows, which the template reads as `content`.
        values: what else the template reads.
    """
    environment = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    settings = list(flat(content.settings))
    return environment.get_template(template).render(values, content=content, settings=settings)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings with dotted names: {"model": {"norm": "pre"}} is model.norm, pre."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            empty = value is None or value in ({}, [], ())
            yield f"{prefix}{name}", "–" if empty else str(value)


def _text(template: str) -> str:
    package, _, name = template.rpartition("/")
    return files(package.replace("/", ".")).joinpath(name).read_text(encoding="utf-8")
