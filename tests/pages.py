"""What holds for every report: one well-formed page that runs nothing and loads nothing."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects the tags of a page; one that closes another than the last opened fails.

    Attributes:
        tags: In their order.
        attributes: Of all tags.
    """

    VOID = {"meta", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def check_page(text: str, *, charts: int) -> None:
    """Check that a page is well formed, holds no script and so many charts, and loads nothing."""
    page = Page(text)
    assert "script" not in page.tags and "<script" not in text
    assert page.tags.count("svg") == charts
    links = [value for name, value in page.attributes if name.split(":")[-1] in ("href", "src")]
    assert all(value and value.startswith("#") for value in links)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "@import" not in text and "<link" not in text
