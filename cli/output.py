"""Files that commands write where the user wants them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitessera.codegen.errors import OutputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}).", "Give a path in a writable folder."
        ) from error


def write_json(path: Path, value: object) -> None:
    """Writes `value`; OutputError when that is not possible."""
    with writing(path):
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def check_writable(path: Path) -> None:
    """Raises OutputError now rather than after minutes of work."""
    existed = path.exists()
    with writing(path):
        path.open("ab").close()
        if not existed:
            path.unlink()
