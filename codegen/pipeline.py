"""From a model file to a build: the stages in order, with a word on each as it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import hls, quantreport, registers, report, toplevel
from .assembler import print_program
from .boards import Board
from .builddir import Build
from .config import HardwareConfig
from .images import Array
from .importer import import_model
from .quantize import default_calibration, quantize
from .schedule import schedule
from .vivado import check_board, vivado_sources

Announce = Callable[[str], None]
KEPT_IMAGES = 32  # calibration images that the build directory carries


def compile_model(
    model: Path,
    config: HardwareConfig,
    calibration: Array | None = None,
    announce: Announce = lambda _: None,
    board: Board | None = None,
) -> Build:
    """Imports, quantises, schedules and generates.

    Args:
        model: the ONNX file.
        config: the accelerator.
        calibration: images [n, channels, height, width]; noise when there are none, which costs
            accuracy.
        announce: called with the name of each stage as it starts.
        board: to make the bitstream's sources for; None for the known board that `config` names.

    Raises:
        VitesseraError: the model, the images or the configuration cannot be used; nothing has
            been written.
    """
    check_board(config, board)
    announce("import")
    graph = import_model(model)
    images = default_calibration(graph) if calibration is None else calibration
    announce("quantise")
    quantized = quantize(graph, images)
    announce("schedule")
    program = schedule(quantized, config)
    announce("measure quantisation error")
    kept = images[:KEPT_IMAGES]
    errors = quantreport.report(graph, quantized, kept, config.lanes)
    announce("compile HLS kernels")
    rtl = toplevel.generate(config)
    resources = report.report(program)
    return Build(
        model=model.name,
        program=program,
        rtl=rtl,
        sources={**hls.sources(config), "kernels.json": hls.options()},
        reports={
            "quantization.json": quantreport.to_json(errors),
            "quantization.txt": quantreport.to_text(errors),
            "program.json": resources.to_json(),
            "program.txt": resources.to_text(),
            "assembler.txt": print_program(program),
            "registers.json": registers.host_constants(),
        },
        vivado=vivado_sources(rtl, config, board),
        images=kept,
    )
