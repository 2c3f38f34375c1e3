"""Makes this folder's modules, and the networks of tests/schedule, importable here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("campaign", "schedule")]
