"""What the calibration images show of every value."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ..graph import Graph
from ..importer.evaluate import evaluate
from ..preprocess import Float32Array

FloatArray = npt.NDArray[np.float64]

ROWS_PER_BATCH = 2048  # tokens evaluated at once: bounds memory, all values of a batch are held
SAMPLE_ROWS = 512  # kept of each value, for the scale search
ENOUGH_EVIDENCE = 512  # rows that show each channel's range
INDEPENDENT_TOKENS = 8  # of one image; its tokens resemble each other


@dataclass(frozen=True)
class Statistics:
    """Of one value.

    Attributes:
        low, high: least and greatest real value of each channel.
        sample: rows [up to about SAMPLE_ROWS, channels], drawn evenly from the images.
        evidence: number of independent rows that was seen, roughly.
    """

    low: FloatArray
    high: FloatArray
    sample: FloatArray
    evidence: int

    @property
    def range(self) -> float:
        """Greatest magnitude."""
        return float(max(self.high.max(), -self.low.min()))

    @property
    def channel_range(self) -> FloatArray:
        """Greatest magnitude of each channel that may be expected of many rows.

        Of a class token each image shows one row only, and a few rows do not show a channel's
        range: widened as the extremes of normal numbers grow with their count.
        """
        growth = _extreme(ENOUGH_EVIDENCE) / _extreme(min(max(self.evidence, 2), ENOUGH_EVIDENCE))
        margin = (self.high - self.low) / 2 * (growth - 1.0)
        return np.maximum(self.high, -self.low) + margin

    @property
    def mean_square(self) -> FloatArray:
        """Of each channel, over the sample."""
        mean: FloatArray = np.square(self.sample).mean(axis=0)
        return mean

    @property
    def is_ample(self) -> bool:
        """Whether there were enough rows to judge each channel by them."""
        return self.evidence >= ENOUGH_EVIDENCE


def _extreme(rows: int) -> float:
    """The magnitude that one of `rows` standard normal numbers reaches, roughly."""
    return NormalDist().inv_cdf(1.0 - 1.0 / (rows + 1))


def measure(graph: Graph, images: Float32Array, seed: int = 0) -> dict[str, Statistics]:
    """Runs `images` in float and gathers the statistics of every value."""
    generator = np.random.default_rng(seed)
    tokens = max(rows for rows, _ in graph.shapes().values())
    batch = max(1, ROWS_PER_BATCH // tokens)
    rows_per_image = -(-SAMPLE_ROWS // len(images))
    gathered: dict[str, list[Statistics]] = {node.name: [] for node in graph}
    for start in range(0, len(images), batch):
        values = evaluate(graph, images[start : start + batch])
        for name, parts in gathered.items():
            parts.append(_of_batch(values[name], rows_per_image, generator))
    return {name: _merged(parts) for name, parts in gathered.items()}


def _of_batch(
    values: npt.NDArray[np.floating], rows_per_image: int, generator: np.random.Generator
) -> Statistics:
    images, tokens, channels = values.shape
    rows = values.reshape(-1, channels).astype(np.float64)
    count = images * min(rows_per_image, tokens)
    picked = generator.choice(len(rows), count, replace=False)
    evidence = images * min(tokens, INDEPENDENT_TOKENS)
    return Statistics(rows.min(axis=0), rows.max(axis=0), rows[picked], evidence)


def _merged(parts: list[Statistics]) -> Statistics:
    return Statistics(
        low=np.min([part.low for part in parts], axis=0),
        high=np.max([part.high for part in parts], axis=0),
        sample=np.concatenate([part.sample for part in parts]),
        evidence=sum(part.evidence for part in parts),
    )
