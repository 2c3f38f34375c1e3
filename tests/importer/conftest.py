"""Models are exported at test time only where torch is installed."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["test_exported_models.py"]
