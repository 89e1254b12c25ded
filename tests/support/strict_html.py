"""A reader of HTML that forgives nothing: every tag closed in order, every id once."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})
DRAWN = frozenset({"svg", "path", "polygon", "rect", "text", "desc", "title", "g", "style"})


@dataclass
class Node:
    """An element."""

    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its text and that of what is in it."""
        return "".join(part if isinstance(part, str) else part.text for part in self.children)

    def all(self, tag: str) -> list[Node]:
        """Elements of that name in it, in order."""
        inside = [part for part in self.children if isinstance(part, Node)]
        return [found for node in inside for found in ([node] if node.tag == tag else [])
                + node.all(tag)]  # fmt: skip


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.ids: list[str] = []
        self.doctype = ""

    def handle_decl(self, decl: str) -> None:
        self.doctype = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        assert all(value is not None for _, value in attrs), f"<{tag}> has a bare attribute"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.ids += [value for name, value in node.attributes.items() if name == "id"]
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert any(node.tag == "svg" for node in self.open), f"<{tag}/> outside of a drawing"
        self.open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert len(self.open) > 1 and self.open[-1].tag == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"a processing instruction: {data}")


def read(page: str) -> Node:
    """The document; raises AssertionError where it is not well formed or repeats an id."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.doctype == "doctype html"
    assert len(reader.open) == 1, f"never closed: {[node.tag for node in reader.open[1:]]}"
    assert len(reader.ids) == len(set(reader.ids)), reader.ids
    return reader.root
