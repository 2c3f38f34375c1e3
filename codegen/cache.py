"""The build cache: generated Verilog and simulator binaries, by the hash of what made them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """The cache's folder: $VITESSERA_CACHE, or vitessera in the user's cache folder."""
    chosen = os.environ.get("VITESSERA_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "vitessera"


def cached_text(name: str, make: Callable[[], str]) -> str:
    """The cached text `name`, made on first use; safe against concurrent processes."""
    path = cache_folder() / name
    if path.is_file():
        return path.read_text()
    text = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
    return text
