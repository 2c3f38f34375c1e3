"""Makes the scheduler's random networks (tests/schedule/builders.py) importable here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "schedule"))
