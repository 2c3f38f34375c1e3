"""The picture of `vitessera report --timeline`: one lane a unit, busy or waiting, by layer."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitessera.codegen.errors import OutputError
from vitessera.codegen.isa import Unit
from vitessera.host.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from vitessera.codegen.outputfile import OutputFile
    from vitessera.sim.trace import Interval

FORMATS = (".png", ".svg", ".pdf")
WIDTH, HEIGHT = 16.0, 5.5  # inches
DPI = 150
LEGEND_LAYERS = 24
WAITING = "#e3e3e3"
WAITED = 1  # cycles; shorter gaps are the pipeline's, and not drawn
LANES: list[Unit] = [unit for unit in Unit if unit is not Unit.CONTROL]


@dataclass(frozen=True)
class Bar:
    """What a unit did from `start` to `end`; `label` is the layer, or None while it waits."""

    unit: Unit
    label: str | None
    start: int
    end: int


def bars(intervals: Sequence[Interval]) -> Iterator[Bar]:
    """Each unit's time from its first instruction on, without gaps and overlaps.

    An instruction counts until its results have landed or the unit begins the next one.
    """
    lanes: dict[Unit, list[Interval]] = defaultdict(list)
    for interval in intervals:
        lanes[interval.unit].append(interval)
    for unit in LANES:
        for this, following in itertools.pairwise([*lanes[unit], None]):
            assert this is not None
            end = this.end if following is None else min(this.end, following.start)
            yield Bar(unit, this.label, this.start, end)
            if following is not None and following.start - end > WAITED:
                yield Bar(unit, None, end, following.start)


def draw(intervals: Sequence[Interval], picture: OutputFile, title: str) -> None:
    """Writes the picture; its format is the file's suffix.

    Raises:
        OutputError: the suffix is none of FORMATS, or the file cannot be written.
    """
    if picture.path.suffix not in FORMATS:
        raise OutputError(
            f"{picture.path}: pictures are written as {', '.join(FORMATS)}.",
            "Choose one of these endings.",
        )
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
    _fill(axes, list(bars(intervals)))
    axes.set_title(printable(title), loc="left", parse_math=False)
    try:
        with picture.writing() as staged:
            figure.savefig(staged, dpi=DPI, metadata={"Creator": picture.mark})
    finally:
        plt.close(figure)


def _fill(axes: Axes, entries: Sequence[Bar]) -> None:
    from matplotlib import colormaps

    layers = list(dict.fromkeys(entry.label for entry in entries if entry.label))
    colours = {
        layer: colormaps["turbo"](index / max(1, len(layers) - 1))
        for index, layer in enumerate(layers)
    }
    spans: dict[tuple[Unit, str | None], list[tuple[int, int]]] = defaultdict(list)
    for entry in entries:
        spans[entry.unit, entry.label].append((entry.start, entry.end - entry.start))
    for (unit, label), lane in spans.items():
        place = (LANES.index(unit) - 0.4, 0.8)
        axes.broken_barh(lane, place, color=colours[label] if label else WAITING, linewidth=0)
    axes.set_yticks(range(len(LANES)), [unit.name.lower() for unit in LANES])
    axes.invert_yaxis()
    axes.set_xlabel("cycle (grey: waiting)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    shown = layers[:: max(1, -(-len(layers) // LEGEND_LAYERS))]
    handles = [axes.broken_barh([], (0, 0), color=colours[layer]) for layer in shown]
    names = [printable(layer) for layer in shown]
    legend = axes.legend(handles, names, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    for name in legend.get_texts():
        name.set_parse_math(False)  # a dollar sign in a name is no formula
