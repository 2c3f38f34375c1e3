"""Tables as text: one style for all, on terminals of any width and in files.

Words stand left and numbers right, units stand in the heads, and nothing but a space separates
columns. Where a table is wider than the terminal, heads and words are folded: between words, and
long names after a separator. Numbers never are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ..host.text import printable

GAP = "  "
# After one of these a long name goes on in the next line, but not within a number.
BREAK = re.compile(r"(?<=[/._:])(?=[^\d\s])")


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        head: what its cells are, with the unit of numbers.
        words: whether they are words, not numbers.
    """

    head: str
    words: bool = False


def text_table(
    columns: Sequence[Column], rows: Sequence[Sequence[object]], width: int | None = None
) -> str:
    """The table, line by line.

    Args:
        columns: one for each cell of a row.
        rows: their cells, shown as str has them; control characters are escaped.
        width: characters of a line, if that is limited. A table whose numbers and parts of names
            need more is wider.
    """
    heads = [column.head for column in columns]
    cells = [[printable(cell) for cell in row] for row in rows]
    sides = list(zip(heads, *cells, strict=True))
    widths = [max(map(len, side)) for side in sides]
    if width is not None:
        widths = _narrowed(columns, sides, widths, width)
    folded = [_folded_row(row, widths) for row in (heads, *cells)]
    widths = [
        max(len(line) for cell in side for line in cell) for side in zip(*folded, strict=True)
    ]
    height = max(map(len, folded[0]))
    folded[0] = [[""] * (height - len(head)) + head for head in folded[0]]
    return "\n".join(line for row in folded for line in _aligned(row, columns, widths))


def grouped(value: float) -> str:
    """A number with its thousands apart; a half stays one."""
    return f"{value:,.1f}".removesuffix(".0")


def _narrowed(
    columns: Sequence[Column], sides: Sequence[Sequence[str]], widths: Sequence[int], width: int
) -> list[int]:
    """`widths`, made as small as a line of `width` asks for, the largest first."""
    least = [
        max(_longest_part(side[0]), *map(_longest_part if column.words else len, side[1:]), 0)
        for column, side in zip(columns, sides, strict=True)
    ]
    found = list(widths)
    while sum(found) + len(GAP) * (len(found) - 1) > width:
        spare = [taken if taken > low else 0 for taken, low in zip(found, least, strict=True)]
        if not any(spare):
            break
        found[spare.index(max(spare))] -= 1
    return found


def _longest_part(text: str) -> int:
    return max(len(part) for word in text.split(" ") for part in BREAK.split(word))


def _folded_row(cells: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    """The lines of each cell."""
    return [list(_folded(cell, width)) for cell, width in zip(cells, widths, strict=True)]


def _aligned(
    cells: Sequence[Sequence[str]], columns: Sequence[Column], widths: Sequence[int]
) -> list[str]:
    """A row, of as many lines as its cells have."""
    return [
        GAP.join(
            f"{part:{'<' if column.words else '>'}{width}}"
            for part, column, width in zip(line, columns, widths, strict=True)
        ).rstrip()
        for line in zip_longest(*cells, fillvalue="")
    ]


def _folded(text: str, width: int) -> Iterator[str]:
    """`text` in lines of `width`, broken between words, and in words that are longer than that."""
    line = ""
    for word in text.split(" "):
        parts = [word] if len(word) <= width else BREAK.split(word)
        for index, part in enumerate(parts):
            joint = " " if line and index == 0 else ""
            if line and len(line) + len(joint) + len(part) > width:
                yield line
                line = part
            else:
                line += joint + part
    yield line
