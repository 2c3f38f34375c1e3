"""Compares the RTL with the integer reference, image by image: what `vitessera simulate` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..codegen.builddir import Build
from ..codegen.preprocess import integer_patches
from ..codegen.program import Program, pack_input, unpack_outputs
from ..codegen.reference import Reference
from ..host.images import check_images
from ..host.imagesets import Array
from .accelerator import DramTiming, Progress, simulate
from .trace import Interval, intervals, layer_cycles, waiting

Outputs = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Verification:
    """What came of simulating some images.

    Attributes:
        mismatches: indices of the images whose outputs differ from the reference.
        cycles: of each image.
        counters: hardware counters of each image.
        layer_cycles: cycles of the first image by layer; see trace.layer_cycles.
        waiting: cycles of the first image in which the engine stood still, by cause.
        intervals: the first image's instructions in time.
        reference, rtl: outputs in real values by ONNX name, [images, tokens, channels].
        seconds: of simulation.
    """

    mismatches: tuple[int, ...]
    cycles: tuple[int, ...]
    counters: tuple[dict[str, int], ...]
    layer_cycles: dict[str, int]
    waiting: dict[str, int]
    intervals: tuple[Interval, ...]
    reference: Outputs
    rtl: Outputs
    seconds: float

    @property
    def bit_exact(self) -> bool:
        """Every output of every image equals the reference."""
        return not self.mismatches

    @property
    def cycles_per_image(self) -> float:
        """Mean over the images."""
        return float(np.mean(self.cycles))

    def mac_peak_share(self, program: Program) -> float:
        """True MACs of the network over what the engine could have done in the cycles taken."""
        macs = sum(layer.macs for layer in program.layers)
        return macs / (self.cycles_per_image * program.config.macs)

    def images_per_second(self, program: Program) -> float:
        """At the configuration's clock."""
        return program.config.clock_mhz * 1e6 / self.cycles_per_image


def patch_matrices(program: Program, images: Array) -> npt.NDArray[np.int8]:
    """The int8 patches of each image, [n, tokens, channels], as the reference takes them.

    Args:
        program: what is to run.
        images: float [n, ...], as the model takes them.

    Raises:
        ImageError: the images have the wrong shape, dtype or values.
    """
    description = program.input
    before, tokens = description.prefix, description.tokens
    scale = np.asarray(description.scale, np.float64)
    checked = check_images(images, description.image, "Images")
    return np.stack(
        [
            integer_patches(each, description.patch, before, tokens, scale, description.window)
            for each in checked
        ]
    )


def input_buffers(program: Program, images: Array) -> list[bytes]:
    """The input buffer of each image; see patch_matrices."""
    return [pack_input(program, matrix) for matrix in patch_matrices(program, images)]


def verify(
    build: Build,
    images: Array,
    *,
    timing: DramTiming | None = None,
    progress: Progress | None = None,
    waves: Path | None = None,
) -> Verification:
    """Runs the images on the reference and on the RTL.

    Args:
        build: a compiled model.
        images: float [n, ...], as the model takes them.
        timing: of the simulated DRAM.
        progress: called with the number of images done.
        waves: file for a waveform.

    Raises:
        ImageError: the images do not fit the model.
        SimulationError: the RTL failed other than by a wrong result.
        ToolError: the simulator cannot be built.
    """
    program = build.program
    buffers = input_buffers(program, images)
    reference = Reference(program)
    expected = [reference.run_buffer(buffer) for buffer in buffers]
    simulation = simulate(
        program, build.rtl, buffers, timing=timing, progress=progress, waves=waves, trace=True
    )
    got = [run.output for run in simulation.runs]
    outputs = [unpack_outputs(program, content) for content in (*expected, *got)]
    real = [_dequantize(program, entry) for entry in outputs]
    trace, first = simulation.trace, simulation.runs[0].counters["CYCLES"]
    assert trace is not None, "tracing was asked for"
    return Verification(
        mismatches=tuple(i for i in range(len(got)) if not _equal(outputs, i, len(got))),
        cycles=tuple(run.counters["CYCLES"] for run in simulation.runs),
        counters=tuple(dict(run.counters) for run in simulation.runs),
        layer_cycles=layer_cycles(program, trace, first),
        waiting=waiting(program, trace, first),
        intervals=intervals(program, trace),
        reference=_stack(real[: len(got)]),
        rtl=_stack(real[len(got) :]),
        seconds=simulation.seconds,
    )


def _equal(outputs: Sequence[dict[str, npt.NDArray[np.int16]]], index: int, count: int) -> bool:
    want, got = outputs[index], outputs[count + index]
    return all(np.array_equal(want[name], got[name]) for name in want)


def _dequantize(program: Program, integers: dict[str, npt.NDArray[np.int16]]) -> Outputs:
    return {output.name: output.dequantize(integers[output.name]) for output in program.outputs}


def _stack(outputs: Sequence[Outputs]) -> Outputs:
    return {name: np.stack([entry[name] for entry in outputs]) for name in outputs[0]}
