"""What the tests of the host runtime share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from vitessera.codegen.config import HardwareConfig
from vitessera.host import Accelerator

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
# The design that the tests of the accelerator simulate as well.
SMALL = HardwareConfig(tile=4, depth=4, lanes=4, board="pynq-z2")
NO_PYNQ = "pynq is not installed: pip install pynq"

Compile = Callable[[HardwareConfig], Path]
Open = Callable[..., Accelerator]


def vouch(folder: Path, name: str, content: bytes) -> None:
    """Replaces a file of a build directory, and its checksum with it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
