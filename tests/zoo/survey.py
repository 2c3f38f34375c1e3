"""What becomes of every export: `python tests/zoo/survey.py [name ...]`, one line each."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from pipeline import compare, exported
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import VitesseraError
from vitessera.codegen.importer import Status, inspect_model
from zoo import ZOO


def line(name: str, verdict: str, seconds: float) -> str:
    return f"{name:28} {seconds:5.1f} s  {verdict}"


def survey(wanted: list[str]) -> None:
    for export in ZOO:
        if wanted and not any(part in export.name for part in wanted):
            continue
        start = time.time()
        with tempfile.TemporaryDirectory() as folder:
            try:
                verdict = verdict_on(
                    exported(export, Path(folder)), HardwareConfig(**export.memory)
                )
            except Exception as error:  # whatever a library raises is the verdict
                verdict = f"EXPORT {type(error).__name__}: {str(error)[:150]}"
        print(line(export.name, verdict, time.time() - start), flush=True)


def verdict_on(path: Path, config: HardwareConfig) -> str:
    try:
        inspection = inspect_model(path)
    except VitesseraError as error:
        return f"REFUSED {error}"
    if inspection.graph is None:
        rows = [r for r in inspection.rows if r.status is Status.REFUSED and not r.consequence]
        return "IMPORT " + " | ".join(
            dict.fromkeys(f"{r.op_type} {r.name[-30:]}: {r.reason[:90]}" for r in rows[:4])
        )
    try:
        agreement = compare(path, inspection.graph, config)
    except VitesseraError as error:
        return f"LATER {error}"
    return "ok " + ", ".join(f"{name} {cosine:.5f}" for name, cosine in agreement.items())


if __name__ == "__main__":
    survey(sys.argv[1:])
