"""The report of a small product program."""

from __future__ import annotations

import json

from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.report import report
from vitessera.codegen.schedule.product import product_program

CONFIG = HardwareConfig(tile=8, depth=4, lanes=8)


def test_report_counts_true_and_padded_work() -> None:
    summary = report(product_program(CONFIG, rows=10, depth=16, columns=20))
    assert summary.macs == 10 * 16 * 20
    assert summary.padded_macs == 16 * 16 * 24
    assert summary.ideal_cycles == 10 * 16 * 20 / 256
    assert summary.instructions == {
        "load": 3,
        "compute": 1,
        "epilogue": 1,
        "store": 1,
        "control": 1,
    }
    right = next(memory for memory in summary.memories if memory.memory == "right")
    assert (right.used, right.depth) == (3 * 4, 8192)
    assert right.largest == (("result/weight[1]", 12),)


def test_report_as_json_and_text() -> None:
    summary = report(product_program(CONFIG, 64, 64, 64), cycles={"patches": 100, "result": 1100})
    assert json.loads(summary.to_json())["cycles"] == 1200
    text = summary.to_text()
    assert "256 MACs a cycle at 100 MHz, 64-bit bus, board custom" in " ".join(text.split())
    assert "262,144 true, 262,144 in whole tiles (100.0% true)" in text
    assert "1,200 measured, 85.3% of the MACs busy" in text
    assert max(map(len, summary.to_text(80).splitlines())) <= 80


def test_report_without_cycles_leaves_them_out() -> None:
    summary = report(product_program(CONFIG, 64, 64, 64))
    assert summary.cycles is None
    assert "measured" not in summary.to_text()
