"""Every export of the zoo: each node accounted for, compiled as it is, and the numbers agree.

Of each architecture one export also runs on the RTL; all do if VITESSERA_ZOO_ON_RTL is set. What a
machine lacks is skipped by name.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import onnx
import pytest
from zoo import FAMILIES, MAPPED, ON_RTL, REFUSED, ZOO, Export

pytest.importorskip("torch", reason="the zoo is exported where torch is installed")

from exporters import UnsupportedOpsetError
from pipeline import compare, exported, images, quantized
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import UnsupportedModelError
from vitessera.codegen.importer import Inspection, Status, import_model, inspect_model
from vitessera.codegen.preprocess import patches
from vitessera.codegen.schedule import schedule

pytestmark = pytest.mark.export

LEAST_COSINE = 0.99
ALL_ON_RTL = "VITESSERA_ZOO_ON_RTL"


def written(export: Export, folder: Path) -> Path:
    """The file; skips what is not installed or what this torch cannot write."""
    for module in export.needs:
        pytest.importorskip(module, exc_type=ImportError)
    try:
        return exported(export, folder)
    except UnsupportedOpsetError as error:
        pytest.skip(str(error))


def inspected(path: Path) -> Inspection:
    """The account of the model, which names every node once."""
    inspection = inspect_model(path)
    nodes = len(onnx.load(path, load_external_data=False).graph.node)
    assert sum(row.op_type != "(output)" for row in inspection.rows) == nodes
    return inspection


def test_names_are_unique() -> None:
    assert len({export.name for export in ZOO}) == len(ZOO)
    assert len(MAPPED) >= 40


def test_every_family_is_on_the_rtl() -> None:
    assert set(ON_RTL) == {export.architecture for export in MAPPED}
    missing = [family for family in FAMILIES if not any(a.startswith(family) for a in ON_RTL)]
    assert not missing


@pytest.mark.parametrize("export", MAPPED, ids=lambda export: export.name)
def test_the_stock_file_compiles(export: Export, tmp_path: Path) -> None:
    path = written(export, tmp_path)
    inspection = inspected(path)
    refused = [row for row in inspection.rows if row.status is Status.REFUSED]
    assert not refused, refused
    assert inspection.graph is not None
    assert all(row.into for row in inspection.rows), "a node vanished without account"
    agreement = compare(path, inspection.graph, HardwareConfig(**export.memory))
    assert len(agreement) == len(onnx.load(path, load_external_data=False).graph.output)
    assert min(agreement.values()) >= LEAST_COSINE, agreement


@pytest.mark.parametrize("export", REFUSED, ids=lambda export: export.name)
def test_what_cannot_be_mapped_is_refused_as_a_whole(export: Export, tmp_path: Path) -> None:
    path = written(export, tmp_path)
    with pytest.raises(UnsupportedModelError) as caught:
        quantized(import_model(path))
    assert caught.value.remedy
    reasons = [caught.value.culprit]
    if export.inspected:
        inspection = inspected(path)
        assert inspection.graph is None
        refused = [row for row in inspection.rows if row.status is Status.REFUSED]
        assert all(row.reason and row.remedy for row in refused)
        reasons += [row.reason for row in refused if not row.consequence]
    assert any(export.refused in reason for reason in reasons), reasons


@pytest.mark.accelerator
@pytest.mark.parametrize(
    "export",
    MAPPED if ALL_ON_RTL in os.environ else ON_RTL.values(),
    ids=lambda export: export.name,
)
def test_the_rtl_gives_the_reference_bits(export: Export, tmp_path: Path) -> None:
    pytest.importorskip("cocotb", reason="RTL is simulated where cocotb is installed")
    from whole import SMALL, Workload, check

    graph = import_model(written(export, tmp_path))
    network = quantized(graph)
    rows = [patches(network.source, image) for image in images(graph, 1, seed=3)]
    config = dataclasses.replace(SMALL, **export.memory)
    work = Workload.of(schedule(network, config), rows)
    simulation = check(work)
    print(f"{simulation.runs[0].counters['CYCLES']} cycles")
