"""The host program on the simulated RTL: right bits, every way of asking."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from builders import Shape, of_videos, vision_transformer
from host_support import NO_PYNQ, SMALL, Compile, Open
from vitessera.codegen.builddir import read_build
from vitessera.codegen.reference import Reference
from vitessera.codegen.registers import COUNTERS, REGISTERS
from vitessera.host import Accelerator, Prediction
from vitessera.sim.verify import input_buffers

pytest.importorskip("pynq", reason=NO_PYNQ)

pytestmark = [pytest.mark.pynq, pytest.mark.accelerator]

Digits = dict[str, np.ndarray]


def expected(folder: Path, images: np.ndarray) -> np.ndarray:
    """Logits by the integer reference, [images, tokens, channels]."""
    program = read_build(folder).program
    reference, output = Reference(program), program.outputs[0]
    from vitessera.codegen.program import unpack_outputs

    runs = [reference.run_buffer(buffer) for buffer in input_buffers(program, images)]
    return np.stack([output.dequantize(unpack_outputs(program, run)[output.name]) for run in runs])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_outputs_are_the_reference_s(
    open_board: Open, folder: Path, digits: Digits, count: int
) -> None:
    images = digits["images"][:count]
    with open_board() as acc:
        assert np.array_equal(acc.run(images)["logits"], expected(folder, images))
        again = digits["images"][10 : 10 + count]
        assert np.array_equal(acc.run(again)["logits"], expected(folder, again))


def test_predictions(open_board: Open, folder: Path, digits: Digits, tmp_path: Path) -> None:
    images, labels = digits["images"][:4], digits["labels"][:4]
    logits = expected(folder, images)[:, 0]
    seen: list[int] = []
    with open_board() as acc:
        found = acc.predict(images, progress=seen.append)
        assert isinstance(found, list)
        assert [prediction.index for prediction in found] == list(labels)
        assert seen == [1, 2, 3, 4]
        for prediction, scores in zip(found, logits, strict=True):
            assert np.array_equal(prediction.scores, scores)
            assert prediction.probability == prediction.probabilities.max()
            assert prediction.probabilities.sum() == pytest.approx(1)
        one = acc.predict(images[0])
        assert isinstance(one, Prediction)
        assert np.array_equal(one.scores, logits[0])
        assert str(one).startswith(one.label)
        np.savez(tmp_path / "set.npz", images=images)
        from_file = acc.predict(tmp_path / "set.npz")
        assert isinstance(from_file, list)
        assert [prediction.index for prediction in from_file] == list(labels)


def test_profile(open_board: Open, folder: Path, digits: Digits) -> None:
    with open_board() as acc:
        acc.predict(digits["images"][:3])
        profile = acc.profile()
    program = read_build(folder).program
    assert profile.counters.keys() == {counter.name for counter in COUNTERS}
    assert profile.counters["INSTRUCTIONS"] == len(program.instructions)
    assert profile.dram_written_bytes == program.output_size
    assert profile.dram_read_bytes >= len(program.encode()) + program.input.size
    macs = sum(layer.macs for layer in program.layers)
    assert profile.mac_peak_share == macs / profile.cycles / SMALL.macs
    assert f"{profile.cycles:,}" in str(profile)


def test_an_accelerator_says_what_it_is(open_board: Open) -> None:
    acc = open_board()
    assert acc.simulated
    assert repr(acc) == (
        "<Accelerator: vit_digits.onnx on the simulated RTL of pynq-z2, images [1, 8, 8], 100 MHz>"
    )
    acc.close()
    assert repr(acc) == "<Accelerator, closed>"


def test_await(open_board: Open, folder: Path, digits: Digits) -> None:
    images = digits["images"][:6]

    async def work() -> tuple[np.ndarray, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        async with open_board() as acc:
            clock = asyncio.create_task(tick())
            parts = await asyncio.gather(*(acc.run_async(image[None]) for image in images))
            clock.cancel()
            single = await acc.predict_async(images[0])
        assert isinstance(single, Prediction)
        return np.concatenate([part["logits"] for part in parts]), ticks

    logits, ticks = asyncio.run(work())
    assert np.array_equal(logits, expected(folder, images))
    assert ticks > 1, "the event loop stood still"


def test_blocking_calls_inside_a_running_loop(
    open_board: Open, folder: Path, digits: Digits
) -> None:
    """As in a notebook, whose kernel is an event loop."""
    images = digits["images"][:2]
    before = open_board()

    async def cell() -> np.ndarray:
        return before.run(images)["logits"]

    assert np.array_equal(asyncio.run(cell()), expected(folder, images))


def test_made_in_a_loop_that_is_gone(open_board: Open, folder: Path, digits: Digits) -> None:
    images = digits["images"][:2]

    async def make() -> Accelerator:
        return open_board()

    acc = asyncio.run(make())
    assert np.array_equal(acc.run(images)["logits"], expected(folder, images))


def test_blocking_call_while_one_is_awaited(open_board: Open, digits: Digits) -> None:
    from vitessera.host.errors import BoardError

    async def work(acc: Accelerator) -> None:
        task = asyncio.create_task(acc.run_async(digits["images"][:3]))
        await asyncio.sleep(0)
        with pytest.raises(BoardError, match="Await it first"):
            acc.run(digits["images"][:1])
        await task

    asyncio.run(work(open_board()))


def test_several_models_on_one_bitstream(
    open_board: Open, folder: Path, digits: Digits, tmp_path: Path
) -> None:
    from dataclasses import replace

    from vitessera.codegen.builddir import write_build
    from vitessera.codegen.schedule import schedule

    build = read_build(folder)
    graph = vision_transformer(np.random.default_rng(5), Shape(classes=(7,)))
    other = replace(build, program=schedule(graph, SMALL))
    write_build(other, tmp_path / "other")
    with open_board() as acc:
        acc.run(digits["images"][:2])
        acc.load(tmp_path / "other")
        shape = (2, *acc.model.image)
        images = np.random.default_rng(6).uniform(-50, 50, shape).astype(np.float32)
        name = acc.model.outputs[0].name
        assert np.array_equal(acc.run(images)[name], expected(tmp_path / "other", images))
        acc.load(folder)
        again = digits["images"][:3]
        assert np.array_equal(acc.run(again)["logits"], expected(folder, again))


def test_videos(open_board: Open, folder: Path, tmp_path: Path) -> None:
    """Frames before channels or after: a token is a tubelet."""
    from dataclasses import replace

    from vitessera.codegen.builddir import write_build
    from vitessera.codegen.schedule import schedule

    build = read_build(folder)
    graph = vision_transformer(np.random.default_rng(7), Shape(tokens=17, patch=24))
    with open_board() as acc:
        for name, video in (("first", (4, 3, 8, 4)), ("later", (3, 4, 8, 4))):
            tubelet = (2, 3, 2, 2) if name == "first" else (3, 2, 2, 2)
            program = schedule(of_videos(graph, video, tubelet), SMALL)
            write_build(replace(build, program=program, preprocessing=None), tmp_path / name)
            acc.load(tmp_path / name)
            assert acc.model.image == video
            videos = np.random.default_rng(8).uniform(-99, 99, (3, *video)).astype(np.float32)
            results = acc.run(videos)[acc.model.outputs[0].name]
            assert np.array_equal(results, expected(tmp_path / name, videos))
            one = acc.predict(videos[1])
            assert isinstance(one, Prediction)
            assert np.array_equal(one.scores, results[1, 0])


def test_everything_is_given_back(open_board: Open, digits: Digits) -> None:
    from pynq import Device

    with open_board() as acc:
        memory = Device.active_device.default_memory
        acc.predict(digits["images"][:2])
        assert memory.allocated == 6
    assert memory.allocated == 0


def test_registers_have_pynq_s_names(open_board: Open) -> None:
    with open_board() as acc:
        shown = repr(acc._driver.register_map)
        assert all(f"  {register.name} = " in shown for register in REGISTERS)
        assert int(acc._driver.register_map.TILE) == SMALL.tile


def test_a_configuration_for_no_board(open_board: Open, compiled: Compile, digits: Digits) -> None:
    """There is no block design, but the RTL can be simulated all the same."""
    from dataclasses import replace

    other = compiled(replace(SMALL, board="custom"))
    assert not (other / "vivado" / "vitessera.hwh").exists()
    images = digits["images"][:1]
    assert np.array_equal(open_board(other).run(images)["logits"], expected(other, images))
