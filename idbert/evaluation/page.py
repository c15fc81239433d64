"""The frame of every report: one HTML page with its styles and charts inside, nothing loaded."""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

FRAME = "page.html"


def render_page(
    package: str,
    template: str,
    *,
    title: str,
    settings: Mapping[str, Any] | None = None,
    layer_weights: Mapping[str, float] | None = None,
    **values: Any,
) -> str:
    """Return a page; whatever comes from the data is escaped.

    Args:
        package: where the template lies, such as "nlp_tasks.cls".
        template: its file name; it extends "page.html" and fills the blocks `page` and `styles`.
        title: of the page.
        settings: the resolved configuration, shown last; groups may be nested.
        layer_weights: what a learned fusion multiplies each hidden state by, from the first layer.
        values: what else the template reads.
    """
    environment = Environment(
        loader=DictLoader({FRAME: _text("idbert.evaluation", FRAME)}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(_text(package, template)).render(
        values,
        title=title,
        settings=list(flat(settings or {})),
        layer_weights=layer_weights or {},
    )


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings with dotted names: {"model": {"norm": "pre"}} is model.norm, pre."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            empty = value is None or value in ({}, [], ())
            yield f"{prefix}{name}", "–" if empty else str(value)


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")
