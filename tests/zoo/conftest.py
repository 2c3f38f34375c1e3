"""Makes the accelerator's helpers (tests/accelerator/whole.py) importable here."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "accelerator"), str(TESTS / "schedule")]
