"""Makes the random networks of tests/schedule and tests/quantize importable here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("quantize", "schedule")]
