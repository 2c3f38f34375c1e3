"""The digits example on the RTL: images to logits, and the same logits from any DRAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from vitessera.codegen.importer import import_model
from vitessera.codegen.isa import Compute
from vitessera.codegen.preprocess import patches
from vitessera.codegen.program import unpack_outputs
from vitessera.codegen.quantexec import execute
from vitessera.codegen.quantgraph import PatchInput
from vitessera.codegen.quantize import quantize
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.timing import estimate
from vitessera.sim.accelerator import DramTiming
from whole import DEFAULT, Workload, check

pytestmark = pytest.mark.accelerator

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
IMAGES = 4

TIMINGS = {
    "latency1": DramTiming(read_latency=1, write_latency=1),
    "latency200": DramTiming(read_latency=200, write_latency=200),
    "half-a-beat-a-cycle": DramTiming(beats_per_16=8),
    "three-beats-in-16-cycles": DramTiming(beats_per_16=3),
    "slow-and-late": DramTiming(read_latency=200, write_latency=100, beats_per_16=3),
}


@dataclass(frozen=True)
class Digits:
    """The compiled example, and what the quantised network says about its first images."""

    work: Workload
    expected: Mapping[str, npt.NDArray[np.integer]]
    labels: npt.NDArray[np.integer]


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = np.load(DIGITS / "digits.npz")
    graph = quantize(import_model(DIGITS / "vit_digits.onnx"), data["calibration"])
    batch = data["images"][:IMAGES]
    source = next(node for node in graph if isinstance(node, PatchInput))
    values = execute(graph, batch, lanes=DEFAULT.lanes)
    return Digits(
        work=Workload.of(schedule(graph, DEFAULT), [patches(source, image) for image in batch]),
        expected={name: values[value] for name, value in graph.outputs},
        labels=data["labels"][:IMAGES],
    )


def test_images_give_the_quantised_network_exactly(digits: Digits) -> None:
    simulation = check(digits.work)
    for index, run in enumerate(simulation.runs):
        outputs = unpack_outputs(digits.work.program, run.output)
        for name, logits in digits.expected.items():
            np.testing.assert_array_equal(outputs[name], logits[index])
            assert outputs[name].argmax() == digits.labels[index]
    print(simulation.runs[0].counters, f"{simulation.seconds:.1f} s")


def test_nothing_but_the_result_is_written_to_dram(digits: Digits) -> None:
    """Scores and probabilities, the residual stream, queries, keys: all stays on chip."""
    work = digits.work
    (run,) = check(Workload(work.program, work.inputs[:1], work.outputs[:1])).runs
    written = run.counters["WRITE_BEATS"] * DEFAULT.bus_bits // 8
    assert written == work.program.output_size


def test_one_pair_of_operand_words_feeds_the_whole_array(digits: Digits) -> None:
    """A word of each operand a cycle, however wide the array: the engine reads nothing else."""
    work = digits.work
    (run,) = check(Workload(work.program, work.inputs[:1], work.outputs[:1])).runs
    computes = [i for i in work.program.instructions if isinstance(i, Compute)]
    assert run.counters["COMPUTE_WORDS"] == sum(i.outer * i.inner * i.depth for i in computes)
    assert run.counters["COMPUTE_WORDS"] == run.counters["COMPUTE_BUSY"]


@pytest.mark.parametrize("timing", TIMINGS.values(), ids=TIMINGS.keys())
def test_results_do_not_depend_on_the_dram(digits: Digits, timing: DramTiming) -> None:
    work = digits.work
    simulation = check(Workload(work.program, work.inputs[:2], work.outputs[:2]), timing)
    print([run.counters["CYCLES"] for run in simulation.runs], "cycles")


def test_the_estimate_of_cycles_is_close(digits: Digits) -> None:
    """Boards are sized by it; `make bench` holds it against larger networks."""
    work = digits.work
    (run,) = check(Workload(work.program, work.inputs[:1], work.outputs[:1])).runs
    predicted, measured = estimate(work.program).cycles, run.counters["CYCLES"]
    print(f"predicted {predicted}, measured {measured} cycles")
    assert abs(predicted - measured) <= 0.05 * measured
