"""What the calibration images show of every value."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ...host.images import Float32Array
from ..graph import OUTSIDE, Arrange, Graph, Node, TokenEmbed
from ..importer.evaluate import evaluate
from .forms import unsupported

FloatArray = npt.NDArray[np.float64]

ROWS_PER_BATCH = 2048  # tokens evaluated at once: bounds memory, all values of a batch are held
SAMPLE_ROWS = 512  # kept of each value, for the scale search
ENOUGH_EVIDENCE = 512  # independent rows that show each channel's range


@dataclass(frozen=True)
class Statistics:
    """Of one value.

    Attributes:
        low, high: least and greatest real value of each channel.
        sample: rows [up to about SAMPLE_ROWS, channels], drawn evenly from the images, and of each
            image those that every other row may attend to: see _telling_rows.
        evidence: number of independent rows that were seen, roughly.
    """

    low: FloatArray
    high: FloatArray
    sample: FloatArray
    evidence: float

    @property
    def range(self) -> float:
        """Greatest magnitude."""
        return float(max(self.high.max(), -self.low.min()))

    @property
    def centre(self) -> FloatArray:
        """The middle of each channel's range; zero after a single row, which shows no range."""
        middle: FloatArray = (self.high + self.low) / 2
        return middle if self.evidence >= 2.0 else np.zeros_like(middle)

    def reach(self, centre: FloatArray) -> FloatArray:
        """Greatest distance from `centre` that may be expected of many rows, by channel.

        Of a class token each image shows one row only, and a few rows do not show a channel's
        range: widened as the extremes of normal numbers grow with their count. A channel that did
        not move at all may still do so, by a share of its value.
        """
        growth = _extreme(ENOUGH_EVIDENCE) / _extreme(min(max(self.evidence, 2.0), ENOUGH_EVIDENCE))
        margin = (self.high - self.low) / 2 * (growth - 1.0)
        observed = np.maximum(self.high - centre, centre - self.low) + margin
        return np.maximum(observed, np.abs(centre) / max(self.evidence, 1.0))

    @property
    def mean_square(self) -> FloatArray:
        """Of each channel, over the sample."""
        mean: FloatArray = np.square(self.sample).mean(axis=0)
        return mean

    @property
    def is_ample(self) -> bool:
        """Whether there were enough rows to judge each channel by them."""
        return self.evidence >= ENOUGH_EVIDENCE


def _extreme(rows: float) -> float:
    """The magnitude that one of `rows` standard normal numbers reaches, roughly."""
    return NormalDist().inv_cdf(1.0 - 1.0 / (rows + 1))


@dataclass(frozen=True)
class _Batch:
    """What one batch of images shows of one value."""

    low: FloatArray
    high: FloatArray
    sample: FloatArray
    means: FloatArray  # [images, channels]


def measure(graph: Graph, images: Float32Array, seed: int = 0) -> dict[str, Statistics]:
    """Runs `images` in float and gathers the statistics of every value.

    Raises:
        UnsupportedModelError: a value overflows float32.
    """
    generator = np.random.default_rng(seed)
    tokens = {name: rows for name, (rows, _) in graph.shapes().items()}
    prefix = max(map(_first_constants, graph))
    batch = max(1, ROWS_PER_BATCH // max(tokens.values()))
    rows_per_image = -(-SAMPLE_ROWS // len(images))
    gathered: dict[str, list[_Batch]] = {node.name: [] for node in graph}
    for start in range(0, len(images), batch):
        with np.errstate(over="ignore", invalid="ignore"):
            values = evaluate(graph, images[start : start + batch])
        _check_finite(graph, values)
        for name, parts in gathered.items():
            parts.append(_of_batch(values[name], rows_per_image, prefix, generator))
    return {name: _merged(parts, tokens[name]) for name, parts in gathered.items()}


def _first_constants(node: Node) -> int:
    """How many constant tokens `node` puts first."""
    match node:
        case TokenEmbed(prefix=prefix):
            return len(prefix)
        case Arrange(rows=rows):
            return next((place for place, row in enumerate(rows) if row != OUTSIDE), 0)
    return 0


def _check_finite(graph: Graph, values: dict[str, Float32Array]) -> None:
    """Names the first operator whose result is no number."""
    for node in graph:
        if not np.isfinite(values[node.name]).all():
            raise unsupported(
                node,
                "its result overflows float32 on the calibration images",
                "Check its weights, and that the images are normalised as in training.",
            )


def _of_batch(
    values: npt.NDArray[np.floating],
    rows_per_image: int,
    prefix: int,
    generator: np.random.Generator,
) -> _Batch:
    images, tokens, channels = values.shape
    real = values.astype(np.float64)
    rows = real.reshape(-1, channels)
    count = images * min(rows_per_image, tokens)
    picked = rows[generator.choice(len(rows), count, replace=False)]
    sample = np.concatenate([picked, _telling_rows(real, prefix)])
    return _Batch(rows.min(axis=0), rows.max(axis=0), sample, real.mean(axis=1))


def _telling_rows(values: FloatArray, prefix: int) -> FloatArray:
    """Of each image the prefix and the row with the greatest value, [rows, channels].

    One token among hundreds hardly shows in an even sample, and a scale that clips it looks good.
    But class tokens, registers and patches with outliers are what the other tokens attend to.
    """
    images, tokens, channels = values.shape
    if tokens <= prefix + 1:
        return np.empty((0, channels))
    greatest = np.abs(values).max(axis=2).argmax(axis=1)
    own = values[np.arange(images), greatest]
    return np.concatenate([values[:, :prefix].reshape(-1, channels), own])


def _merged(parts: list[_Batch], tokens: int) -> Statistics:
    sample = np.concatenate([part.sample for part in parts])
    means = np.concatenate([part.means for part in parts])
    return Statistics(
        low=np.min([part.low for part in parts], axis=0),
        high=np.max([part.high for part in parts], axis=0),
        sample=sample,
        evidence=_independent_rows(sample, means, tokens),
    )


def _independent_rows(sample: FloatArray, means: FloatArray, tokens: int) -> float:
    """How many independent rows tell as much as these: tokens of an image resemble each other.

    Kish's effective sample size, images * tokens / (1 + (tokens - 1) * correlation), where the
    correlation is the share of the variance that lies between the images.
    """
    total = sample.var(axis=0)
    alive = total > 0.0
    if len(means) < 2 or not alive.any():
        return float(len(means))
    between = means.var(axis=0, ddof=1)[alive] / total[alive]
    correlation = min(1.0, float(between.mean()))
    return len(means) * tokens / (1.0 + (tokens - 1) * correlation)
