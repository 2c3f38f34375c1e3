"""Writing XML: elements from nested tuples, indented text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def element(
    name: str, content: str | Iterable[Element] = (), attributes: Mapping[str, str] | None = None
) -> Element:
    """An element with text, or with children."""
    made = Element(name, dict(attributes or {}))
    if isinstance(content, str):
        made.text = content
    else:
        made.extend(content)
    return made


def document(root: Element) -> str:
    """The text of the document."""
    ElementTree.indent(root)
    return DECLARATION + ElementTree.tostring(root, encoding="unicode") + "\n"
