"""Chooses the scale of every value.

int16 values need no care: their range with headroom. For an int8 value the candidates are compared
by the mean square error that their rounding and clipping cause in what is computed from the value,
each channel weighted by how strongly its readers use it. Errors of different channels are taken
as uncorrelated, which leaves sums over channels and no matrix product.

Where the hardware gives each channel its own scale for nothing, it is used:

- a value read only by products: the scales fold into their weights (RepQ-ViT, arXiv 2212.08254).
  How far large and small channels are evened out is a compromise between activations and weights
  (the exponent of SmoothQuant, arXiv 2211.10438), and searched for;
- attention values: `mix` has a multiplier for each channel;
- queries and keys: their scales only need the same product in each channel.

So is a zero point for each channel: a channel that hardly leaves a large value, as outliers of the
residual stream do, then keeps its bits. Readers fold it into their bias; what an attention takes
from its values is missing in its result; softmax does not see what is added to all keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...host.images import Float32Array
from ..graph import (
    OUTSIDE,
    Activation,
    Add,
    Arrange,
    Attention,
    Graph,
    GroupNorm,
    ImagePatches,
    LayerNorm,
    Linear,
    Node,
    PatchEmbed,
    SelectToken,
    Unfold,
)
from ..numerics import INT8_MAX, INT16_MAX
from .calibrate import FloatArray, Statistics
from .constants import GroupSize, Scale, exact_steps, group_size, norm_gain
from .forms import INT8_READERS, Form, chain, is_gathered, readers

HEADROOM = 1.25  # of the residual stream over what calibration showed
OUTPUT_HEADROOM = 2.0  # of results, which have bits to spare
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # 0: one scale; 1: each channel's range fills int8
CLIPPING = tuple(0.92**i for i in range(16))  # share of the observed range, down to 0.29
# Channels that stay this far below the largest share its scale: they could be dead.
SMALLEST_RANGE = 2.0**-10
# LayerNorm's gamma over the scale, and beta over it, at most: keeps gamma's 16 bits for the others.
LARGEST_GAIN = 4096.0
# Below this, LayerNorm's eps in integer units would outgrow the variance's 56 bits.
LARGEST_EPS_ROOT = 2.0**25


@dataclass(frozen=True)
class Evidence:
    """What the choice rests on."""

    graph: Graph
    forms: dict[str, Form]
    statistics: dict[str, Statistics]


def patches_name(node: PatchEmbed) -> str:
    """Name of the int8 patch matrix that `node` multiplies."""
    return f"{node.name}.patches"


def copy_name(name: str) -> str:
    """Name of the int8 copy of a residual value."""
    return f"{name}.int8"


def choose_scales(evidence: Evidence, images: Float32Array) -> dict[str, Scale]:
    """The scale of every value that has one, of the patches and of the int8 copies."""
    graph, statistics = evidence.graph, evidence.statistics
    shapes, residual = graph.shapes(), _residual_steps(evidence)
    scales: dict[str, Scale] = {}
    for node in graph:
        channels = shapes[node.name][1]
        match evidence.forms[node.name]:
            case Form.FUSED if isinstance(node, PatchEmbed):
                scales[patches_name(node)] = _patch_scale(node.weight[0].size, images)
            case Form.FUSED:
                pass
            case Form.RESIDUAL:
                step = residual[node.name]
                scales[node.name] = Scale(np.full(channels, step))
                if int8_readers(evidence, node.name):
                    scales[copy_name(node.name)] = _copy_scale(evidence, node.name, step)
            case Form.OUTPUT | Form.INT8 if isinstance(node, SelectToken | Arrange):
                scales[node.name] = scales[_picked(evidence, node)]  # the same integers
            case Form.OUTPUT:
                step = OUTPUT_HEADROOM * _positive(statistics[node.name].range) / INT16_MAX
                scales[node.name] = Scale(np.full(channels, step))
            case Form.INT8:
                scales[node.name] = _int8_scale(evidence, node, images)
    return scales


def _picked(evidence: Evidence, node: SelectToken | Arrange) -> str:
    """The value that `node` picks tokens of."""
    (name,) = node.inputs
    is_copy = isinstance(node, Arrange) and evidence.forms[name] is Form.RESIDUAL
    return copy_name(name) if is_copy else name


def int8_readers(evidence: Evidence, name: str) -> list[Node]:
    """The operators that need an int8 copy of residual value `name`, not through SelectToken."""
    consumers = evidence.graph.consumers(name)
    return [node for node in consumers if isinstance(node, INT8_READERS)]


def norm_size(graph: Graph, node: LayerNorm | GroupNorm) -> GroupSize:
    """How many numbers each statistic of `node` is of."""
    if isinstance(node, LayerNorm):
        return GroupSize(len(node.gamma))
    rows, channels = graph.shapes()[node.name]
    return group_size(rows * channels // node.groups, node.name)


def _positive(number: float) -> float:
    """Any scale suits a value that is always zero."""
    return number if number > 0.0 else 1.0


def _residual_steps(evidence: Evidence) -> dict[str, float]:
    """The step of every int16 value that is read: the same for those that are added up."""
    streams = _streams(evidence)
    steps: dict[int, float] = {}
    for number in set(streams.values()):
        names = [name for name, stream in streams.items() if stream == number]
        largest = max(evidence.statistics[name].range for name in names)
        smallest = [
            np.sqrt(node.eps) * norm_size(evidence.graph, node).counted / LARGEST_EPS_ROOT
            for node in evidence.graph
            if isinstance(node, LayerNorm | GroupNorm) and node.inputs[0] in names
        ]
        step = HEADROOM * _positive(largest) / INT16_MAX
        steps[number] = float(max([step, *smallest]))
    return {name: steps[stream] for name, stream in streams.items()}


def _streams(evidence: Evidence) -> dict[str, int]:
    """The residual values by the stream that additions and selections make of them."""
    streams: dict[str, int] = {}
    for number, node in enumerate(evidence.graph):
        if evidence.forms[node.name] is not Form.RESIDUAL:
            continue
        added = node.inputs if isinstance(node, Add | SelectToken) else ()
        joined = {streams[name] for name in added if name in streams}
        streams = {name: number if s in joined else s for name, s in streams.items()}
        streams[node.name] = number
    return streams


def _patch_scale(values: int, images: Float32Array) -> Scale:
    step = _positive(float(np.abs(images).max())) / INT8_MAX
    return Scale(np.full(values, step))


# --- int8 values ---------------------------------------------------------------------------------


def _int8_scale(evidence: Evidence, node: Node, images: Float32Array) -> Scale:
    name, statistics = node.name, evidence.statistics[node.name]
    if isinstance(node, ImagePatches):
        return _patch_scale(len(statistics.low), images)
    if is_gathered(evidence.graph, node):
        return _gathered_scale(evidence, node)
    feeds_products = _feeds_products(evidence, name)
    if isinstance(node, Activation):
        free = feeds_products and not _gets_zeros(evidence, name)
        return _lopsided(evidence, name) if free else _one_step(statistics)
    if feeds_products:
        if isinstance(node, LayerNorm):
            return _norm_scale(evidence, node)
        if isinstance(node, Attention):
            centre = _mix_centre(evidence, node)
        else:
            centre = _centre(evidence, name)
        return _around(centre, _folded(evidence, name, centre))
    if _only_as(evidence, name, 2):
        return _each_channel(statistics, _value_centre(evidence, name))
    partner = _partner(evidence, name)
    if partner is not None:
        return _balanced(evidence, name, partner)
    return _one_step(statistics)


def _copy_scale(evidence: Evidence, name: str, residual_step: float) -> Scale:
    if not _feeds_products(evidence, name):
        return _one_step(evidence.statistics[name])
    centre = _centre(evidence, name)
    step = _folded(evidence, name, centre)
    gain = np.full(len(step), residual_step)
    return _around(centre, exact_steps(gain, -centre, step))


def _norm_scale(evidence: Evidence, node: LayerNorm) -> Scale:
    """Such that LayerNorm's integers are accurate in every channel."""
    gamma, beta = node.gamma.astype(np.float64), node.beta.astype(np.float64)
    gain = norm_gain(gamma, len(gamma))
    centre = _centre(evidence, node.name)
    step = _folded(evidence, node.name, centre)
    # One channel that hardly varies must not take the others' bits.
    smallest = np.maximum(np.abs(node.gamma), np.abs(beta - centre)) / LARGEST_GAIN
    return _around(centre, exact_steps(gain, beta - centre, np.maximum(step, smallest)))


def _gathered_scale(evidence: Evidence, node: Node) -> Scale:
    """Without offset, since padding is zero; the same at all pixels of a kernel."""
    pixels = math.prod(node.window.kernel) if isinstance(node, Unfold) else 1
    centre = np.zeros(len(evidence.statistics[node.name].low))
    step = _folded(evidence, node.name, centre, pixels)
    norm = chain(evidence.graph, node)[0]
    if isinstance(norm, GroupNorm):
        # One channel that hardly varies must not take the others' bits.
        smallest = np.maximum(np.abs(norm.gamma), np.abs(norm.beta)) / LARGEST_GAIN
        step = np.maximum(step, np.tile(smallest, pixels))
    return Scale(step)


def _centre(evidence: Evidence, name: str) -> FloatArray:
    """What integer zero may stand for in each channel: zero, if rows of zeros join the tokens."""
    centre = evidence.statistics[name].centre
    return np.zeros_like(centre) if _gets_zeros(evidence, name) else centre


def _gets_zeros(evidence: Evidence, name: str) -> bool:
    """Whether rows of zeros are put among the tokens of the value."""
    picking = (n for n in evidence.graph.consumers(name) if isinstance(n, SelectToken | Arrange))
    return any(
        (isinstance(node, Arrange) and OUTSIDE in node.rows) or _gets_zeros(evidence, node.name)
        for node in picking
    )


def _around(centre: FloatArray, step: FloatArray) -> Scale:
    """Integer zero stands for each channel's centre; a bias or LayerNorm's beta takes that up."""
    return Scale(step, -centre / step)


def _feeds_products(evidence: Evidence, name: str) -> bool:
    """Whether no attention reads the value as int8: its readers then undo scale and offset."""
    return not any(isinstance(use, Attention) for use, _ in readers(evidence.graph, name))


def _only_as(evidence: Evidence, name: str, position: int) -> bool:
    """Whether attention reads the value as input number `position`, and nothing else reads it."""
    return all(
        isinstance(use, Attention)
        and [p for p, v in enumerate(use.inputs) if v == alias] == [position]
        for use, alias in readers(evidence.graph, name)
    )


def _partner(evidence: Evidence, name: str) -> str | None:
    """The keys of queries `name` or the queries of keys `name`, if the two meet only each other."""
    uses = list(readers(evidence.graph, name))
    attention, alias = uses[0]
    if len(uses) != 1 or not isinstance(attention, Attention) or alias != name:
        return None
    query, key, _ = attention.inputs
    names = {0: query, 1: key}
    free = all(
        _only_as(evidence, value, position) and len(evidence.graph.consumers(value)) == 1
        for position, value in names.items()
    )
    products = all(isinstance(evidence.graph[value], Linear) for value in names.values())
    return (key if name == query else query) if free and products else None


def _ranges(statistics: Statistics, centre: FloatArray) -> FloatArray:
    """The reach of each channel; the fewer rows were seen, the less the channels may differ."""
    observed = statistics.reach(centre)
    largest = _positive(float(observed.max()))
    return np.maximum(observed, largest * max(SMALLEST_RANGE, 1.0 / statistics.evidence**2))


def _one_step(statistics: Statistics) -> Scale:
    step = np.full(len(statistics.low), _positive(statistics.range) / INT8_MAX)
    return Scale(_clipped(statistics.sample, step, np.ones(len(step))))


def _mix_centre(evidence: Evidence, node: Attention) -> FloatArray:
    """What integer zero stands for in an attention's values and in its result.

    The probabilities of a row add up to one: what is taken from all values is missing in the
    result, and the readers of the result add it again.
    """
    graph, value = evidence.graph, node.inputs[2]
    centre = _centre(evidence, node.name)
    alone = isinstance(graph[value], Linear) and _only_as(evidence, value, 2)
    free = alone and len(list(readers(graph, value))) == 1 and _feeds_products(evidence, node.name)
    return centre if free else np.zeros_like(centre)


def _value_centre(evidence: Evidence, name: str) -> FloatArray:
    attention, _ = next(readers(evidence.graph, name))
    assert isinstance(attention, Attention)
    return _mix_centre(evidence, attention)


def _each_channel(statistics: Statistics, centre: FloatArray) -> Scale:
    step = _ranges(statistics, centre) / INT8_MAX
    if not statistics.is_ample:
        return _around(centre, step)
    candidates = [step * factor for factor in CLIPPING]
    errors = np.array([_rounding_error(statistics.sample - centre, c) for c in candidates])
    best = errors.argmin(axis=0)
    return _around(centre, np.array(candidates)[best, np.arange(len(step))])


def _balanced(evidence: Evidence, name: str, partner: str) -> Scale:
    """Queries and keys: step times the partner's step is the same in each channel."""
    statistics, other = evidence.statistics[name], evidence.statistics[partner]
    centre = _score_centre(evidence, name)
    own_reach = _ranges(statistics, centre)
    reach = _ranges(other, _score_centre(evidence, partner))
    step = np.sqrt(own_reach / reach * (own_reach * reach).max()) / INT8_MAX
    if statistics.is_ample:
        step = _clipped(statistics.sample - centre, step, other.mean_square)
    return _around(centre, step)


def _score_centre(evidence: Evidence, name: str) -> FloatArray:
    """Of keys the centre: it adds the same to all scores of a row, which softmax does not see."""
    attention, _ = next(readers(evidence.graph, name))
    centre = evidence.statistics[name].centre
    return centre if attention.inputs[1] == name else np.zeros_like(centre)


def _lopsided(evidence: Evidence, name: str) -> Scale:
    """An activation function's result: one step, -127 stands for the least value."""
    statistics = evidence.statistics[name]
    importance = _importance(evidence, name)
    low, high = min(0.0, statistics.low.min()), max(0.0, statistics.high.max())
    candidates = [_spread(low, high * factor) for factor in CLIPPING]
    errors = [
        _rounding_error(statistics.sample, scale.step, scale.offset) @ importance
        for scale in candidates
    ]
    best = candidates[int(np.argmin(errors))]
    return Scale(np.full(len(importance), best.step[0]), best.offset)


def _spread(low: float, high: float) -> Scale:
    step = _positive(high - low) / (2 * INT8_MAX)
    return Scale(np.array([step]), round(-INT8_MAX - low / step))


def _folded(evidence: Evidence, name: str, centre: FloatArray, repeats: int = 1) -> FloatArray:
    """The steps of a value that products read: they even out the channels as far as it pays.

    With `repeats`, that many equal parts of the channels have the same steps.
    """
    statistics, importance = evidence.statistics[name], _importance(evidence, name)
    weights = list(_weights(evidence, name))
    ranges = np.tile(_ranges(statistics, centre).reshape(repeats, -1).max(axis=0), repeats)
    largest = float(ranges.max())
    sample = statistics.sample - centre
    candidates = [(ranges / largest) ** exponent * largest / INT8_MAX for exponent in EXPONENTS]
    errors = [
        _rounding_error(sample, step) @ importance
        + sum(_weight_error(weight, step, statistics.mean_square) for weight in weights)
        for step in candidates
    ]
    best = candidates[int(np.argmin(errors))]
    return _clipped(sample, best, importance) if statistics.is_ample else best


def _clipped(sample: FloatArray, step: FloatArray, importance: FloatArray) -> FloatArray:
    """`step` times the best common factor."""
    errors = [_rounding_error(sample, step * f) @ importance for f in CLIPPING]
    best: FloatArray = step * CLIPPING[int(np.argmin(errors))]
    return best


# --- Errors --------------------------------------------------------------------------------------


def _rounding_error(
    sample: FloatArray, step: FloatArray, offset: float | FloatArray = 0
) -> FloatArray:
    """Mean square error of each channel when `sample` goes through int8."""
    integers = np.clip(np.rint(sample / step) + offset, -INT8_MAX, INT8_MAX)
    error: FloatArray = np.square((integers - offset) * step - sample).mean(axis=0)
    return error


def _weight_error(weight: FloatArray, step: FloatArray, mean_square: FloatArray) -> float:
    """Mean square error, summed over outputs, that int8 weights cause when `step` is folded in."""
    folded = weight * step
    unit = np.abs(folded).max(axis=1, keepdims=True) / INT8_MAX
    unit = np.where(unit > 0.0, unit, 1.0)
    error = np.square((np.rint(folded / unit) * unit - folded) / step)
    return float(error.sum(axis=0) @ mean_square)


def _weights(evidence: Evidence, name: str) -> Iterator[FloatArray]:
    for node, _ in readers(evidence.graph, name):
        if isinstance(node, Linear):
            yield node.weight.astype(np.float64)


def _importance(evidence: Evidence, name: str) -> FloatArray:
    """How strongly the readers use each channel: the squared norm of its weights."""
    channels = len(evidence.statistics[name].low)
    parts = [np.square(weight).sum(axis=0) for weight in _weights(evidence, name)]
    return np.sum(parts, axis=0) if parts else np.ones(channels)
