"""What happens in the field: files as others export them, boards and people as they are.

Each test is a small case of something that was met, or reported, outside of this project, with the
right value or the message. CONTRIBUTING.md says how to add one.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / folder) for folder in ("cli", "host", "importer")]

from command_line import command, needs_pynq, temporary  # noqa: E402 - from a folder that has just been added

__all__ = ["command", "needs_pynq", "temporary"]
