"""From an entry of the zoo to its file, and from the file to integers that are compared."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from exporters import AFTERWARDS, EXPORTERS
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.graph import Graph
from vitessera.codegen.preprocess import patches
from vitessera.codegen.program import Program
from vitessera.codegen.quantexec import execute
from vitessera.codegen.quantgraph import QuantGraph
from vitessera.codegen.quantize import quantize
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import schedule
from weights import trained_like
from zoo import Export

FloatArray = npt.NDArray[np.float32]

CALIBRATION, IMAGES = 32, 4


def _know_torchvision() -> torch.library.Library | None:
    """Declares the compiled operators that torchvision names when it is imported.

    Builds of torch and torchvision do not always match; no ViT runs these. The declaration lives
    as long as what is returned.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not torch._C._dispatch_has_kernel(f"torchvision::{name}"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


TORCHVISION = _know_torchvision()


def exported(export: Export, folder: Path) -> Path:
    """The ONNX file of `export`."""
    torch.manual_seed(0)
    model = trained_like(export.build())
    path = folder / "model.onnx"
    image = torch.randn(export.batch, *export.image)
    EXPORTERS[export.exporter](model, image, path, export.opset, export.symbolic)
    AFTERWARDS[export.after](path)
    return path


def images(graph: Graph, count: int, seed: int) -> FloatArray:
    """Images whose neighbouring pixels resemble each other."""
    generator = np.random.default_rng(seed)
    shape = (count, *graph.image.shape)
    noise = generator.standard_normal(shape) + 2 * generator.standard_normal((*shape[:-2], 1, 1))
    return (noise / 2).astype(np.float32)


def quantized(graph: Graph) -> QuantGraph:
    """The network in integers, calibrated with images of its kind."""
    return quantize(graph, images(graph, CALIBRATION, seed=1))


def wanted(path: Path, batch: FloatArray) -> dict[str, FloatArray]:
    """What ONNX Runtime says, image by image: [images, tokens, channels] by output name.

    Where the file takes several at once, those that follow come along.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    names = [output.name for output in session.get_outputs()]
    dtype = np.float16 if "float16" in source.type else np.float32
    count = source.shape[0] if isinstance(source.shape[0], int) else 1
    runs = [
        session.run(names, {source.name: np.roll(batch, -first, 0)[:count].astype(dtype)})
        for first in range(len(batch))
    ]
    stacked = zip(names, zip(*runs, strict=True), strict=True)
    return {
        name: np.stack(
            [np.asarray(r, np.float32).reshape(count, -1, r.shape[-1])[0] for r in results]
        )
        for name, results in stacked
    }


def cosine(found: FloatArray, expected: FloatArray) -> float:
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.vdot(found, expected) / (np.linalg.norm(found) * np.linalg.norm(expected)))


def integers(graph: QuantGraph, program: Program, image: FloatArray) -> None:
    """The program's results must be the network's, bit by bit."""
    values = execute(graph, image[None], lanes=program.config.lanes)
    results = Reference(program).run(patches(graph.source, image))
    for name, value in graph.outputs:
        np.testing.assert_array_equal(results[name], values[value][0])


def compare(path: Path, graph: Graph, config: HardwareConfig) -> dict[str, float]:
    """The cosine of every output of the integer network with ONNX Runtime's."""
    network = quantized(graph)
    program = schedule(network, config)
    batch = images(graph, IMAGES, seed=2)
    integers(network, program, batch[0])
    expected = wanted(path, batch)
    values = execute(network, batch, lanes=config.lanes)
    return {
        name: cosine(network[value].value.dequantize(values[value]), expected[name])
        for name, value in network.outputs
    }
