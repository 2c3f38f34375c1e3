"""The error that quantisation causes in every value, against float execution."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..host.images import Float32Array, check_images
from .graph import Graph
from .importer.evaluate import evaluate
from .numerics import INT8_MAX, INT16_MAX
from .preprocess import patch_rows
from .quantexec import LANES, Integers, execute
from .quantgraph import Constant, Gather, PatchInput, QuantGraph, QuantNode
from .quantize import prepared
from .tables import Column, text_table

FloatArray = npt.NDArray[np.float64]

ROWS_PER_BATCH = 2048  # tokens at once: bounds memory, all values of a batch are held


@dataclass(frozen=True)
class ValueReport:
    """How one value of the quantised network differs from the float network's.

    Attributes:
        name: of the value.
        origin: the float operators that it stands for.
        bits: 8 or 16.
        snr_db: signal-to-noise ratio in dB; infinite when there is no error.
        cosine: of the angle between the two, over all images; 1 when both are zero.
        max_abs_error: in real units.
        saturated: share of the values that lie outside the range of the integers.
    """

    name: str
    origin: tuple[str, ...]
    bits: int
    snr_db: float
    cosine: float
    max_abs_error: float
    saturated: float


def report(
    graph: Graph, quantgraph: QuantGraph, images: npt.NDArray[np.generic], lanes: int = LANES
) -> tuple[ValueReport, ...]:
    """One row for each value that the float network has too (constants have no counterpart).

    Args:
        graph: what was quantised.
        quantgraph: the result.
        images: float [n, ...], as the model takes them.
        lanes: as for `quantexec.execute`.

    Raises:
        ImageError: the images have the wrong shape, dtype or values.
    """
    checked = check_images(images, graph.image.shape, "Images for the error report")
    ready = prepared(graph)
    nodes = [node for node in quantgraph if not isinstance(node, Constant)]
    sums = {node.name: _Sums() for node in nodes}
    batch = max(1, ROWS_PER_BATCH // max(node.value.tokens for node in nodes))
    for start in range(0, len(checked), batch):
        part = checked[start : start + batch]
        integers, reals = execute(quantgraph, part, lanes), evaluate(ready, part)
        for node in nodes:
            reference = _reference(node, reals, part)
            sums[node.name] += _compare(node, integers[node.name], reference)
    return tuple(sums[node.name].report(node) for node in nodes)


def to_json(rows: Sequence[ValueReport]) -> str:
    """The rows as a JSON array of objects; an infinite ratio becomes null."""
    records = [dataclasses.asdict(row) for row in rows]
    for record in records:
        if math.isinf(record["snr_db"]):
            record["snr_db"] = None
    return json.dumps(records, indent=2)


def to_text(rows: Sequence[ValueReport]) -> str:
    """The rows as a table, one line each."""
    heads = ("bits", "SNR dB", "cosine", "max error", "saturated %")
    cells = [
        (
            row.name,
            row.bits,
            f"{row.snr_db:.1f}",
            f"{row.cosine:.5f}",
            f"{row.max_abs_error:.3g}",
            f"{100 * row.saturated:.3f}",
        )
        for row in rows
    ]
    return text_table((Column("value", words=True), *map(Column, heads)), cells)


@dataclass(frozen=True)
class _Sums:
    """What the batches add up to."""

    count: int = 0
    signal: float = 0.0  # sum of squares of the float values
    noise: float = 0.0  # of the differences
    result: float = 0.0  # of the quantised values
    product: float = 0.0  # of float times quantised
    max_abs_error: float = 0.0
    saturated: int = 0

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.count + other.count,
            self.signal + other.signal,
            self.noise + other.noise,
            self.result + other.result,
            self.product + other.product,
            max(self.max_abs_error, other.max_abs_error),
            self.saturated + other.saturated,
        )

    def report(self, node: QuantNode) -> ValueReport:
        return ValueReport(
            name=node.name,
            origin=node.origin,
            bits=node.value.bits,
            snr_db=self._snr_db(),
            cosine=self._cosine(),
            max_abs_error=self.max_abs_error,
            saturated=self.saturated / self.count,
        )

    def _snr_db(self) -> float:
        if self.noise == 0.0:
            return math.inf
        # Noise without a signal is as bad as it gets; a finite figure keeps the JSON valid.
        return 10.0 * math.log10(max(self.signal, 1e-30) / self.noise)

    def _cosine(self) -> float:
        if self.signal == 0.0 or self.result == 0.0:
            return float(self.signal == self.result)
        return self.product / math.sqrt(self.signal) / math.sqrt(self.result)


def _compare(node: QuantNode, integers: Integers, reference: FloatArray) -> _Sums:
    value = node.value
    result = value.dequantize(integers)
    error = result - reference
    limit = INT8_MAX if value.bits == 8 else INT16_MAX
    ideal = reference / value.scale + value.offset
    return _Sums(
        count=reference.size,
        signal=float(np.square(reference).sum()),
        noise=float(np.square(error).sum()),
        result=float(np.square(result).sum()),
        product=float((result * reference).sum()),
        max_abs_error=float(np.abs(error).max()),
        saturated=int(np.count_nonzero(np.abs(ideal) > limit + 0.5)),
    )


def _reference(
    node: QuantNode, reals: dict[str, npt.NDArray[np.float32]], images: Float32Array
) -> FloatArray:
    """The float values that `node` stands for, [images, tokens, channels]."""
    if isinstance(node, PatchInput):
        rows = patch_rows(images, node.patch, node.window).astype(np.float64)
    else:
        rows = reals[node.origin[-1]].astype(np.float64)
    prefix = node.prefix if isinstance(node, PatchInput | Gather) else 0
    behind = node.value.tokens - prefix - rows.shape[1]
    return np.pad(rows, ((0, 0), (prefix, behind), (0, 0)))
