"""Full-size models: every node accounted for, and a program comes out.

All blocks share one block's weights, which keeps the file small; the compiler does not know.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the zoo is exported where torch is installed")

from pipeline import exported, images
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.importer import Status, inspect_model
from vitessera.codegen.isa import End
from vitessera.codegen.quantize import quantize
from vitessera.codegen.schedule import schedule
from zoo import Export, full_size

pytestmark = pytest.mark.export

MEMORY_GIB = 12

# Left and right memories for 257 tokens of 1280 channels and 5120 hidden ones.
CONFIG = HardwareConfig(
    tile=16,
    depth=8,
    lanes=16,
    bus_bits=128,
    left_words=1 << 15,
    right_words=1 << 15,
    probability_words=512,
    residual_words=1 << 15,
    norm_words=512,
    norm_buffer_words=2048,
)
# Blocks, and weights in millions.
SIZES = {
    "beit_base_patch16_224": (12, 87),
    "vit_large_patch16_224": (24, 304),
    "vit_huge_patch14_224": (32, 632),
}


@pytest.mark.skipif(
    os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < MEMORY_GIB << 30,
    reason=f"needs {MEMORY_GIB} GiB of free memory",
)
@pytest.mark.parametrize("name", SIZES)
def test_full_size(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm", exc_type=ImportError)
    export: Export = full_size(name)
    inspection = inspect_model(exported(export, tmp_path))
    assert inspection.count(Status.REFUSED) == 0
    assert all(row.into for row in inspection.rows)
    assert inspection.graph is not None
    network = quantize(inspection.graph, images(inspection.graph, 1, seed=1))
    del inspection
    program = schedule(network, CONFIG)
    blocks, millions = SIZES[name]
    assert sum(layer.kind == "Attention" for layer in program.layers) == blocks
    assert len(program.weights) / 1e6 == pytest.approx(millions, rel=0.03)
    assert isinstance(program.instructions[-1], End)
