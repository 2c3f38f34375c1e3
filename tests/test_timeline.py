"""Causes of waiting and the picture, from a trace that is written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from vitessera.cli.timeline import COLOURS, LANES, Bar, bars, chart, draw
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import OutputError
from vitessera.codegen.isa import Compute, End, Epilogue, EpilogueTarget, Load, Source, Unit
from vitessera.codegen.outputfile import OutputFile
from vitessera.codegen.program import InputDescription, Program
from vitessera.sim.trace import (
    CAUSES,
    DISPATCH,
    DRAIN,
    FINISH,
    START,
    Interval,
    Trace,
    from_table,
    intervals,
    layer_cycles,
    read_trace,
    to_table,
    waiting,
)


def bit(value: int) -> int:
    return 1 << value


# Weights, then two products; the second waits for weights of its own.
LOAD = Load(signal=bit(Unit.COMPUTE), words=4)
PRODUCT = Compute(wait=bit(Source.LOAD), signal=bit(Unit.LOAD), outer=2, inner=1, depth=5)
PROGRAM = Program(
    config=HardwareConfig(),
    instructions=(LOAD, PRODUCT, Epilogue(), LOAD, PRODUCT, Epilogue(), End()),
    labels=("one", "one", "one", "two", "two", "two", ""),
    weights=b"",
    input=InputDescription("image", (1, 8, 8), (1, 2, 2), 0, 16, 4, (1.0,) * 4, 0),
    outputs=(),
)
TRACE = """\
issue 100 0
raise 110 0 1
issue 112 1
issue 113 2
issue 113 0
raise 124 1 0
raise 150 0 1
issue 153 1
issue 154 2
raise 163 1 0
issue 170 5
issue 200 0
"""
CLOCK_MHZ = 125
RUN_CYCLES = 80  # from 20 before the first product


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    path = tmp_path / "trace"
    path.write_text(TRACE)
    return path


def test_intervals(trace_file: Path) -> None:
    found = intervals(PROGRAM, read_trace(trace_file, PROGRAM))
    first, second = (entry for entry in found if entry.unit is Unit.COMPUTE)
    assert (first.start, first.end, first.cause, first.ready) == (112, 124, Source.LOAD, 110)
    assert (second.start, second.end, second.ready, second.work) == (153, 163, 150, 10)
    assert from_table(json.loads(json.dumps(to_table(found)))) == found


def test_every_cycle_has_a_cause(trace_file: Path) -> None:
    trace = read_trace(trace_file, PROGRAM)
    causes = waiting(PROGRAM, trace, RUN_CYCLES)
    assert causes == {
        START: RUN_CYCLES - (170 - 112),
        DRAIN: 2,  # ten words took twelve cycles
        CAUSES[Source.LOAD]: 150 - 124,
        DISPATCH: 3,
        FINISH: 170 - 153 - 10,
    }
    assert sum(causes.values()) + 20 == RUN_CYCLES
    assert layer_cycles(PROGRAM, trace, RUN_CYCLES) == {START: 22, "one": 41, "two": 17}


def test_bars_cover_each_lane_once(trace_file: Path) -> None:
    found = list(bars(intervals(PROGRAM, read_trace(trace_file, PROGRAM))))
    compute = [entry for entry in found if entry.lane == "compute"]
    assert compute == [
        Bar("compute", "one", 112, 124),
        Bar("compute", None, 124, 153),
        Bar("compute", "two", 153, 163),
    ]


def picture(path: Path) -> OutputFile:
    return OutputFile(path, "report --timeline")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_picture(trace_file: Path, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'vitessera[plot]'")
    path = tmp_path / f"timeline{suffix}"
    draw(
        intervals(PROGRAM, read_trace(trace_file, PROGRAM)),
        picture(path),
        "two products",
        CLOCK_MHZ,
    )
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)
    assert picture(path).is_ours(path), "it could not be replaced by the next"


def test_a_picture_that_cannot_be_written(trace_file: Path, tmp_path: Path) -> None:
    found = intervals(PROGRAM, read_trace(trace_file, PROGRAM))
    with pytest.raises(OutputError, match=r"pictures are written as \.png"):
        draw(found, picture(tmp_path / "timeline.bmp"), "", CLOCK_MHZ)
    pytest.importorskip("matplotlib", reason="pip install 'vitessera[plot]'")
    with pytest.raises(OutputError, match="cannot be written"):
        draw(found, picture(tmp_path / "nowhere" / "timeline.png"), "", CLOCK_MHZ)


# --- What the picture shows


def attention(layers: int) -> list[Interval]:
    """Scores through softmax, and what is made of them, for some layers one after the other."""
    found = []
    for number in range(layers):
        start, label = 1000 * number, f"/blocks.{number}/attention"
        found += [
            Interval(Unit.COMPUTE, label, 0, None, start, start + 300, 300),
            Interval(Unit.EPILOGUE, label, 0, None, start + 10, start + 500, softmax=True),
            Interval(Unit.EPILOGUE, label, 0, None, start + 400, start + 600),
        ]
    return found


def test_softmax_has_a_lane_of_its_own() -> None:
    found = [entry for entry in bars(attention(2)) if entry.lane == "softmax"]
    assert found == [
        Bar("softmax", "/blocks.0/attention", 10, 500),
        Bar("softmax", None, 500, 1010),
        Bar("softmax", "/blocks.1/attention", 1010, 1500),
    ]
    assert LANES[LANES.index("softmax") - 1] == "epilogue"


def test_scores_are_known_from_their_instruction() -> None:
    scores = Epilogue(target=EpilogueTarget.SOFTMAX)
    program = replace(PROGRAM, instructions=(scores, Epilogue()), labels=("a", "b"))
    issues = {unit: (7, 9) if unit is Unit.EPILOGUE else () for unit in Unit}
    first, second = intervals(program, Trace(issues, {}))
    assert (first.softmax, second.softmax) == (True, False)
    assert from_table(json.loads(json.dumps(to_table((first, second))))) == (first, second)


@pytest.mark.parametrize("layers", [2, len(COLOURS), len(COLOURS) + 1])
def test_every_layer_stands_in_the_legend_or_none(layers: int) -> None:
    """More layers than colours cannot be told apart by them: there the bars are labelled alone."""
    pytest.importorskip("matplotlib", reason="pip install 'vitessera[plot]'")
    figure = chart(attention(layers), "title", CLOCK_MHZ)
    legend = figure.axes[0].get_legend()
    names = [f"/blocks.{number}/attention" for number in range(layers)]
    if layers <= len(COLOURS):
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == names
        colours = {tuple(handle.get_facecolor()) for handle in legend.legend_handles}
        assert len(colours) == layers
    else:
        assert legend is None


def test_bars_are_labelled_where_there_is_room() -> None:
    pytest.importorskip("matplotlib", reason="pip install 'vitessera[plot]'")
    written = [text.get_text() for text in chart(attention(2), "", CLOCK_MHZ).axes[0].texts]
    assert written.count("/blocks.0/attention") >= 2
    many = [text.get_text() for text in chart(attention(12), "", CLOCK_MHZ).axes[0].texts]
    assert any(text.startswith("…") and text.endswith("attention") for text in many)
    assert not chart(attention(400), "", CLOCK_MHZ).axes[0].texts


def test_time_stands_beside_cycles() -> None:
    """From the start of the run, at the accelerator's clock."""
    pytest.importorskip("matplotlib", reason="pip install 'vitessera[plot]'")
    axes = chart(attention(2), "", CLOCK_MHZ).axes[0]
    assert axes.get_xlabel() == "cycle (grey: waiting)"
    (above,) = axes.child_axes
    assert above.get_xlabel() == "µs at 125 MHz"
    axes.set_xlim(0, 1250)
    axes.figure.draw_without_rendering()
    assert above.get_xlim() == pytest.approx((0, 10))
