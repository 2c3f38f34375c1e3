"""The picture of `vitessera report --timeline`: one lane a unit, busy or waiting, by layer."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from vitessera.codegen.errors import OutputError
from vitessera.codegen.isa import Unit
from vitessera.host.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from vitessera.codegen.outputfile import OutputFile
    from vitessera.sim.trace import Interval

FORMATS = (".png", ".svg", ".pdf")
WIDTH, HEIGHT = 16.0, 5.5  # inches
DPI = 150
# Colours that are told apart: matplotlib's tab20, strong ones first.
COLOURS = tuple(range(0, 20, 2)) + tuple(range(1, 20, 2))
WAITING = "#e3e3e3"
WAITED = 1  # cycles; shorter gaps are the pipeline's, and not drawn
SOFTMAX = "softmax"  # which the epilogue's instructions drive
LANES = ("load", "compute", "epilogue", SOFTMAX, "norm", "store")

LABEL_POINTS = 7
# Characters of a label that a picture as wide as this one has room for, and the fewest of interest.
ROOM, LEAST_ROOM = 230, 4


@dataclass(frozen=True)
class Bar:
    """What a unit did from `start` to `end`; `label` is the layer, or None while it waits."""

    lane: str
    label: str | None
    start: int
    end: int


def bars(intervals: Sequence[Interval]) -> Iterator[Bar]:
    """Each unit's time from its first instruction on, without gaps and overlaps.

    An instruction counts until its results have landed or the unit begins the next one.
    """
    lanes: dict[str, list[Interval]] = defaultdict(list)
    for interval in intervals:
        if interval.unit is not Unit.CONTROL:
            lanes[interval.unit.name.lower()].append(interval)
        if interval.softmax:
            lanes[SOFTMAX].append(interval)
    for lane in LANES:
        for this, following in itertools.pairwise([*lanes[lane], None]):
            assert this is not None
            end = this.end if following is None else min(this.end, following.start)
            yield Bar(lane, this.label, this.start, end)
            if following is not None and following.start - end > WAITED:
                yield Bar(lane, None, end, following.start)


def draw(intervals: Sequence[Interval], picture: OutputFile, title: str, clock_mhz: float) -> None:
    """Writes the picture; its format is the file's suffix.

    Raises:
        OutputError: the suffix is none of FORMATS, or the file cannot be written.
    """
    if picture.path.suffix not in FORMATS:
        raise OutputError(
            f"{picture.path}: pictures are written as {', '.join(FORMATS)}.",
            "Choose one of these endings.",
        )
    figure = chart(intervals, title, clock_mhz)
    with picture.writing() as staged:
        figure.savefig(staged, dpi=DPI, metadata={"Creator": picture.mark})


def chart(intervals: Sequence[Interval], title: str, clock_mhz: float) -> Figure:
    """The picture, as a figure of matplotlib's. Cycles count from the first instruction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    origin = min(interval.start for interval in intervals)
    entries = [
        Bar(entry.lane, entry.label, entry.start - origin, entry.end - origin)
        for entry in bars(intervals)
    ]
    layers = list(dict.fromkeys(entry.label for entry in entries if entry.label))
    _fill(axes, entries, layers)
    _write_labels(axes, entries)
    _scale(axes, max(entry.end for entry in entries), clock_mhz)
    if len(layers) <= len(COLOURS):
        _explain(axes, layers)
    axes.set_title(printable(title), loc="left", parse_math=False)
    return figure


def _colours(layers: Sequence[str]) -> Mapping[str, tuple[float, ...]]:
    """Neighbours differ, however many there are."""
    from matplotlib import colormaps

    palette = colormaps["tab20"]
    return {layer: palette(COLOURS[index % len(COLOURS)]) for index, layer in enumerate(layers)}


def _fill(axes: Axes, entries: Sequence[Bar], layers: Sequence[str]) -> None:
    colours = _colours(layers)
    spans: dict[tuple[str, str | None], list[tuple[int, int]]] = defaultdict(list)
    for entry in entries:
        spans[entry.lane, entry.label].append((entry.start, entry.end - entry.start))
    for (lane, label), found in spans.items():
        place = (LANES.index(lane) - 0.4, 0.8)
        axes.broken_barh(found, place, color=colours[label] if label else WAITING, linewidth=0)
    axes.set_yticks(range(len(LANES)), LANES)
    axes.invert_yaxis()


def _write_labels(axes: Axes, entries: Sequence[Bar]) -> None:
    """Names the layer on its bars; neighbours of one layer count as one bar, gaps included."""
    total = max(entry.end for entry in entries)
    busy = [entry for entry in entries if entry.label]
    for (lane, label), group in itertools.groupby(busy, lambda entry: (entry.lane, entry.label)):
        parts = list(group)
        start, end = parts[0].start, parts[-1].end
        room = int(ROOM * (end - start) / total)
        if room < LEAST_ROOM:
            continue
        axes.text(
            (start + end) / 2,
            LANES.index(lane),
            _shortened(printable(label), room),
            fontsize=LABEL_POINTS,
            ha="center",
            va="center",
            clip_on=True,
            parse_math=False,  # a dollar sign in a name is no formula
        )


def _shortened(name: str, room: int) -> str:
    """The end of a name, which tells layers apart."""
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _scale(axes: Axes, cycles: int, clock_mhz: float) -> None:
    """Cycles below, time above."""
    axes.set_xlim(0, cycles)
    axes.set_xlabel("cycle (grey: waiting)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    unit, per_unit = ("ms", clock_mhz * 1e3) if cycles > clock_mhz * 1e3 else ("µs", clock_mhz)
    both_ways = partial(np.multiply, 1 / per_unit), partial(np.multiply, per_unit)
    above = axes.secondary_xaxis("top", functions=both_ways)
    above.set_xlabel(f"{unit} at {clock_mhz:.6g} MHz")


def _explain(axes: Axes, layers: Sequence[str]) -> None:
    colours = _colours(layers)
    handles = [axes.broken_barh([], (0, 0), color=colours[layer]) for layer in layers]
    names = [printable(layer) for layer in layers]
    legend = axes.legend(handles, names, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    for name in legend.get_texts():
        name.set_parse_math(False)
