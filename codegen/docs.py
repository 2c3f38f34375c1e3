"""Writes the pages of docs/ that are generated from tables: `python -m vitessera.codegen.docs`.

They are committed, since users read them on the web; tests/test_docs.py holds them to the tables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from .errors import OutputError, VitesseraError
from .isadoc import isa_markdown
from .registers import registers_markdown

FOLDER = Path(__file__).resolve().parents[1] / "docs"
PAGES: dict[str, Callable[[], str]] = {
    "isa.md": isa_markdown,
    "registers.md": registers_markdown,
}


def write_pages(folder: Path = FOLDER) -> tuple[Path, ...]:
    """Writes every page into `folder`; OutputError when it is not there or cannot be written."""
    if not folder.is_dir():
        raise OutputError(
            f"There is no folder {folder} to write the documentation into.",
            "Run this in a clone of the repository, installed with pip install -e.",
        )
    return tuple(_write(folder / name, text()) for name, text in PAGES.items())


def _write(path: Path, text: str) -> Path:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}).", "Make it writable."
        ) from error
    return path


def main() -> int:
    """Writes the pages and says which; the exit code."""
    try:
        for path in write_pages():
            print(path)
    except VitesseraError as error:
        print(f"vitessera: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
