"""From a model file to a build: the stages in order, with a word on each as it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..host.imagesets import Array, evenly
from ..host.inputs import warn_if_unnormalised
from ..host.tasks import Kind
from . import hls, quantreport, registers, report, toplevel
from .assembler import print_program
from .boards import BOARDS, Board
from .builddir import Build
from .buildfiles import REGISTERS
from .config import HardwareConfig
from .errors import CapacityError
from .graph import Graph
from .importer import graph_of, inspect_confined, result_shapes
from .numerics import INT16_MAX
from .preprocessing import Given, find_preprocessing
from .program import Program
from .quantexec import execute
from .quantgraph import QuantGraph
from .quantize import MOST_IMAGES, default_calibration, quantize
from .schedule.split import schedule_in_parts, split
from .sizing import boards_that_would_do, pick, plan
from .tasks import find_tasks
from .vivado import check_board, fabric_mhz, vivado_sources

Announce = Callable[[str], None]
INT16_BITS = 16
TRIED_IMAGES = 4  # calibration images that a network cut into parts is tried on
KEPT_IMAGES = 32  # calibration images that the build directory carries


@dataclass(frozen=True)
class Said:
    """What the user says of a model.

    Attributes:
        images: what is done to image files, and the names of the classes; None for nothing.
        results, shape: as `outputs` and `shape` of `importer.inspect_model`.
        split: leave what cannot be mapped to the host, if it comes after what can.
        kind: of the results; None for nothing.
    """

    images: Given | None = None
    results: Sequence[str] = ()
    shape: Sequence[int] = ()
    split: bool = False
    kind: Kind | None = None


NOTHING_SAID = Said()


def compile_model(
    model: Path,
    target: HardwareConfig | Board,
    calibration: Array | None = None,
    announce: Announce = lambda _: None,
    said: Said = NOTHING_SAID,
) -> Build:
    """Imports, quantises, schedules and generates.

    Args:
        model: the ONNX file.
        target: the accelerator, or the board that the fastest one is picked for.
        calibration: images [n, ...] as the model takes them, of which at most MOST_IMAGES are
            used, evenly spread; noise when there are none, which costs accuracy.
        announce: called with the name of each stage as it starts.
        said: what the user says of the model; the rest is found out.

    Raises:
        VitesseraError: the model, the images or the configuration cannot be used; nothing has
            been written.
    """
    board = target if isinstance(target, Board) else BOARDS.get(target.board)
    check_board(target.config if isinstance(target, Board) else target, board)
    announce("import")
    imported = inspect_confined(model, said.results, split=said.split, shape=said.shape)
    graph = graph_of(imported)
    preprocessing = find_preprocessing(model, graph, said.images, cut=imported.tail is not None)
    classes = len(preprocessing.classes) if preprocessing else 0
    shapes = result_shapes(imported.tail)
    tasks = find_tasks(model, graph, imported.heads, classes, said.kind, shapes)
    images = default_calibration(graph) if calibration is None else calibration
    if calibration is not None and images.size:
        warn_if_unnormalised(images, preprocessing, "The calibration images")
    if images.ndim and len(images) > MOST_IMAGES:
        announce(f"take {MOST_IMAGES} of {len(images)} images")
        images = images[evenly(len(images), MOST_IMAGES)]
    announce("quantise")
    quantized = quantize(graph, images)
    announce("schedule")
    kept = images[:KEPT_IMAGES]
    program = _program(quantized, target, kept)
    config = program.config
    announce("measure quantisation error")
    reports = _reports(graph, quantized, program, kept)
    announce(hls.COMPILING)
    rtl = toplevel.generate(config)
    return Build(
        model=model.name,
        program=program,
        rtl=rtl,
        sources=hls.published(config),
        reports=reports,
        vivado=vivado_sources(rtl, config, board),
        device_names=board.device_names if board else (),
        fabric_mhz=fabric_mhz(config, board),
        images=kept,
        preprocessing=preprocessing,
        tail=imported.tail,
        notes=imported.notes,
        tasks=tasks,
    )


def _reports(
    graph: Graph, quantized: QuantGraph, program: Program, images: Array
) -> dict[str, str]:
    """The files of reports/: name → text; the quantisation error is measured on `images`."""
    errors = quantreport.report(graph, quantized, images, program.config.lanes)
    resources = report.report(program)
    return {
        "quantization.json": quantreport.to_json(errors),
        "quantization.txt": quantreport.to_text(errors),
        "program.json": resources.to_json(),
        "program.txt": resources.to_text(),
        "plan.txt": f"{plan(quantized, program)}\n",
        "assembler.txt": print_program(program),
        REGISTERS: registers.host_constants(),
    }


def check_parts(graph: QuantGraph, program: Program, images: Array) -> None:
    """CapacityError if a sum of some parts of a layer leaves int16, though the whole does not.

    Args:
        graph: the whole network.
        program: what became of it.
        images: to try it on.
    """
    if program.parts == 1:
        return
    whole = {node.name for node in graph}
    cut = split(graph, program.parts)
    for image in images[:TRIED_IMAGES]:
        values = execute(cut, image[None], program.config.lanes)
        for node in cut:
            partial = len(node.inputs) > 1 and node.value.bits == INT16_BITS
            if partial and node.name not in whole and np.abs(values[node.name]).max() >= INT16_MAX:
                raise CapacityError(
                    f"{node.name}: in {program.parts} parts, the sum after this one leaves int16 "
                    "on the calibration images.",
                    "Choose a larger board or deeper memories, so that the network is not cut.",
                )


def _program(graph: QuantGraph, target: HardwareConfig | Board, images: Array) -> Program:
    """The schedule for `target`; CapacityError names other boards that may do."""
    try:
        if isinstance(target, Board):
            program = pick(graph, target).program
        else:
            program = schedule_in_parts(graph, target)
        check_parts(graph, program, images)
    except CapacityError as error:
        tried = target.name if isinstance(target, Board) else target.board
        boards = ", ".join(name for name in boards_that_would_do(graph) if name != tried)
        fitting = "It fits none of the other boards that are known."
        if boards:
            fitting = f"By its size it may fit {boards}; 'vitessera boards --model' tells."
        raise CapacityError(error.culprit, f"{error.remedy} {fitting}") from error
    return program
