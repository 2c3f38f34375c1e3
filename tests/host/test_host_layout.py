"""The host's tables against the functions that define the layout; no pynq, no simulator."""

from __future__ import annotations

import numpy as np
import pytest
from builders import (
    Shape,
    config,
    images,
    of_overlapping_patches,
    of_videos,
    vision_transformer,
)
from vitessera.codegen.graph import Window
from vitessera.codegen.hostlayout import host_layout
from vitessera.codegen.preprocess import patches
from vitessera.codegen.program import Program, pack_input, unpack_outputs
from vitessera.codegen.quantgraph import PatchInput, QuantGraph
from vitessera.codegen.schedule import schedule
from vitessera.host.build import Output
from vitessera.host.images import quantize_pixels

SHAPES = {
    "class token": Shape(),
    "several outputs": Shape(classes=(10, 3)),
    "many tokens": Shape(tokens=201, channels=24, blocks=1, patch=48, prefix=1),
    "no class token": Shape(tokens=16, prefix=0, pool="mean"),
}
CONFIGS = {"4x4x4": config(4, 4, 4), "8x8x4": config(), "16x16x4": config(16, 4, 16, 128)}


# Two times four by four tubelets of 24 values, and frames and columns that fill none.
VIDEO, TUBELET = (5, 3, 8, 9), (2, 3, 2, 2)


# Five times six windows on images of three channels, with padding on three sides.
IMAGE, WINDOW = (3, 9, 12), Window((9, 12), (3, 4), 2, (1, 1), (5, 6))


@pytest.fixture(params=[*SHAPES, "tubelets", "overlapping"])
def graph(request: pytest.FixtureRequest) -> QuantGraph:
    generator = np.random.default_rng(1)
    if request.param == "tubelets":
        return of_videos(vision_transformer(generator, Shape(tokens=33, patch=24)), VIDEO, TUBELET)
    if request.param == "overlapping":
        shape = Shape(tokens=31, patch=36, prefix=1)
        return of_overlapping_patches(vision_transformer(generator, shape), IMAGE, WINDOW)
    return vision_transformer(generator, SHAPES[request.param])


@pytest.fixture(params=CONFIGS)
def program(request: pytest.FixtureRequest, graph: QuantGraph) -> Program:
    return schedule(graph, CONFIGS[request.param])


def test_input(graph: QuantGraph, program: Program) -> None:
    tables = host_layout(program)
    source = next(node for node in graph if isinstance(node, PatchInput))
    for image in images(np.random.default_rng(2), graph, 3):
        integers = quantize_pixels(image, tables["input_scale"])
        buffer = np.append(integers.ravel(), np.int8(0))[tables["input_index"]]
        assert buffer.tobytes() == pack_input(program, patches(source, image))


def test_ties_are_rounded_as_everywhere(graph: QuantGraph, program: Program) -> None:
    tables = host_layout(program)
    source = next(node for node in graph if isinstance(node, PatchInput))
    scale = tables["input_scale"]
    halves = np.random.default_rng(3).integers(-300, 300, scale.shape) / 2
    image = (halves * scale).astype(np.float32)
    integers = quantize_pixels(image, scale)
    buffer = np.append(integers.ravel(), np.int8(0))[tables["input_index"]]
    assert buffer.tobytes() == pack_input(program, patches(source, image))


def test_outputs(program: Program) -> None:
    tables = host_layout(program)
    assert tables["output_bytes"] == program.output_size
    content = np.random.default_rng(4).integers(0, 256, program.output_size, np.uint8)
    expected = unpack_outputs(program, content.tobytes())
    for number, description in enumerate(program.outputs):
        output = Output(
            description.name,
            tables[f"output_{number}_index"],
            tables[f"output_{number}_scale"],
            description.offset,
        )
        real = description.dequantize(expected[description.name])
        assert np.array_equal(output.unpack(content), real)
