"""Writes the quantised nodes: every operator with its integer constants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .. import quantgraph as q
from ..errors import missing_case
from ..graph import (
    Activation,
    Add,
    Arrange,
    Attention,
    Function,
    GroupNorm,
    ImagePatches,
    LayerNorm,
    Linear,
    MaxPool,
    MeanPool,
    Node,
    PatchEmbed,
    SelectToken,
    TokenEmbed,
    Unfold,
    Window,
)
from ..numerics import INT8_MAX, INT16_MAX, SCORE_FRACTION_BITS
from .calibrate import FloatArray
from .constants import (
    COUNT_ERROR,
    HARMLESS_SCORE,
    LOWEST_SCORE,
    GroupSize,
    IntegerNorm,
    IntegerWeights,
    Scale,
    accumulator_bound,
    epilogue,
    fixed_point,
    integer_norm,
    integer_weights,
    mix_epilogue,
    plain_norm,
    pre_shift,
    score_bias,
    score_epilogue,
)
from .forms import Form, branch, chain, is_gathered, unsupported
from .scales import HEADROOM, Evidence, copy_name, int8_readers, norm_size, patches_name
from .widen import as_map

ACTIVATION_MAX = 2047.0  # what the activation's fixed-point format holds


@dataclass(frozen=True)
class Lowering:
    """The network with everything that was decided about it."""

    evidence: Evidence
    scales: dict[str, Scale]

    def nodes(self) -> Iterator[q.QuantNode]:
        """The quantised nodes, in execution order."""
        for node in self.evidence.graph:
            form = self.evidence.forms[node.name]
            if form is not Form.FUSED:  # else it is part of the node that reads it
                yield from self._lower(node)
            if form is Form.RESIDUAL and int8_readers(self.evidence, node.name):
                yield self._copy(node)

    def _lower(self, node: Node) -> Iterator[q.QuantNode]:
        match node:
            case TokenEmbed():
                yield from self._embedding(node)
            case ImagePatches():
                yield self._image_patches(node)
            case _ if is_gathered(self.evidence.graph, node):
                yield self._gather(node)
            case Linear() | Activation():
                yield self._product(node, node.name, None)
            case Add():
                yield self._residual_product(node)
            case LayerNorm():
                yield self._norm(node)
            case Attention():
                yield self._attention(node)
            case SelectToken() | Arrange():
                yield self._picked(node)
            case MeanPool():
                yield self._pool(node)
            case _:
                raise missing_case(node, "The quantiser")

    def _picked(self, node: SelectToken | Arrange) -> q.SelectToken | q.Arrange:
        value = self._value(node.name)
        if isinstance(node, SelectToken):
            return q.SelectToken(node.name, node.inputs, (node.name,), value, node.index)
        operand = (self._operand(node.inputs[0]),)
        return q.Arrange(node.name, operand, (node.name,), value, node.rows)

    def _value(self, name: str, of: str | None = None) -> q.Value:
        """The description of value `name`; its size is that of graph value `of`."""
        tokens, _ = self.evidence.graph.shapes()[of or name]
        scale = self.scales[name]
        int8 = of is not None or self.evidence.forms[name] is Form.INT8
        return q.Value(tokens, len(scale.step), 8 if int8 else 16, scale.step, scale.offset)

    def _operand(self, name: str) -> str:
        """The int8 value to read for `name`."""
        residual = self.evidence.forms[name] is Form.RESIDUAL
        return copy_name(name) if residual else name

    def _residual_step(self, name: str) -> float:
        return float(self.scales[name].step[0])

    # --- Embedding -------------------------------------------------------------------------------

    def _embedding(self, node: TokenEmbed) -> Iterator[q.QuantNode]:
        """The patches' product lands on a constant: prefix, positions and the product's bias."""
        embed = self.evidence.graph[node.inputs[0]]
        assert isinstance(embed, PatchEmbed | Linear)
        out, *patch = embed.weight.shape
        if isinstance(embed, PatchEmbed):
            patches = patches_name(embed)
            described = self._value(patches, of=node.name)
            yield q.PatchInput(
                patches, (), (embed.name,), described, tuple(patch), len(node.prefix)
            )
        else:
            patches = self._operand(embed.inputs[0])
        constant = f"{node.name}.constant"
        value = self._value(node.name)
        yield q.Constant(constant, (), (node.name,), value, self._constant(node, embed))
        operand = self.scales[patches]
        weights = integer_weights(
            embed.weight.reshape(out, -1).astype(np.float64),
            np.zeros(out),
            operand,
            np.ones(len(operand.step)),
        )
        yield q.Product(
            node.name,
            (patches, constant),
            (embed.name, node.name),
            value,
            weights.weight,
            epilogue(weights, self.scales[node.name], None, embed.name),
        )

    def _constant(self, node: TokenEmbed, embed: PatchEmbed | Linear) -> q.Int16Array:
        rows = node.positions.astype(np.float64)
        prefix, (tokens, _) = len(node.prefix), self.evidence.graph.shapes()[embed.name]
        rows[:prefix] += node.prefix
        rows[prefix : prefix + tokens] += embed.bias
        integers = np.rint(rows / self.scales[node.name].step)
        return np.clip(integers, -INT16_MAX, INT16_MAX).astype(np.int16)

    def _prefix(self, node: Node) -> int:
        """Rows of class and register tokens before those of `node`, if it is embedded as tokens."""
        graph = self.evidence.graph
        prefixes = [
            len(reader.prefix)
            for product in graph.consumers(node.name)
            for reader in graph.consumers(product.name)
            if isinstance(reader, TokenEmbed)
        ]
        return max(prefixes, default=0)

    def _with_rows(self, node: Node) -> q.Value:
        """The value with the rows of all tokens, if it is embedded as tokens."""
        value, graph = self._value(node.name), self.evidence.graph
        counts = [
            len(reader.positions)
            for product in graph.consumers(node.name)
            for reader in graph.consumers(product.name)
            if isinstance(reader, TokenEmbed)
        ]
        return replace(value, tokens=max([value.tokens, *counts]))

    # --- Maps ------------------------------------------------------------------------------------

    def _image_patches(self, node: ImagePatches) -> q.PatchInput:
        channels, *_ = self.evidence.graph.image.shape
        return q.PatchInput(
            node.name,
            (),
            (node.name,),
            self._with_rows(node),
            (channels, *node.window.kernel),
            self._prefix(node),
            node.window,
        )

    def _gather(self, node: Node) -> q.Gather:
        """`node` and all that is computed in one pass with it."""
        graph = self.evidence.graph
        passed = chain(graph, node)
        (source,) = passed[0].inputs
        map_size = self._map_size(passed)
        pools = [entry.window for entry in passed if isinstance(entry, MaxPool)]
        pool = pools[0] if pools else Window.of_each(map_size)
        unfolds = [entry.window for entry in passed if isinstance(entry, Unfold)]
        unfold = unfolds[0] if unfolds else Window.of_each(pool.grid)
        integers, groups = self._map_norm(passed, source, math.prod(unfold.kernel))
        return q.Gather(
            node.name,
            (source,),
            tuple(entry.name for entry in passed),
            self._with_rows(node),
            integers.gamma,
            integers.beta,
            integers.constants,
            groups,
            any(isinstance(entry, Activation) for entry in passed),
            pool,
            unfold,
            self._prefix(node),
        )

    def _map_size(self, passed: list[Node]) -> tuple[int, int]:
        """Of the map that is gathered; its sides do not matter where each pixel is seen alone."""
        for entry in passed:
            if isinstance(entry, MaxPool | Unfold):
                return entry.window.source
        rows, _ = self.evidence.graph.shapes()[passed[0].name]
        return as_map(rows)

    def _map_norm(self, passed: list[Node], source: str, pixels: int) -> tuple[IntegerNorm, int]:
        """Constants of the GroupNorm in `passed`, or of a copy; the number of groups."""
        result = self.scales[passed[-1].name]
        channels = len(result.step) // pixels
        result, step = Scale(result.step[:channels]), self._residual_step(source)
        norm = passed[0]
        if not isinstance(norm, GroupNorm):
            return plain_norm(step, result), 1
        size = norm_size(self.evidence.graph, norm)
        self._check_count(norm, size)
        gamma, beta = norm.gamma.astype(np.float64), norm.beta.astype(np.float64)
        return integer_norm(gamma, beta, norm.eps, step, result, size), norm.groups

    def _check_count(self, norm: GroupNorm, size: GroupSize) -> None:
        """Refuses groups whose mean is so great that a rounded count changes their variance."""
        sample = self.evidence.statistics[norm.inputs[0]].sample
        groups = sample.reshape(len(sample), norm.groups, -1)
        mean, variance = groups.mean(axis=(0, 2)), groups.var(axis=(0, 2)) + norm.eps
        error = float((np.square(mean) / variance).max() * size.error)
        if error > COUNT_ERROR:
            raise unsupported(
                norm,
                f"it normalises {size.numbers} numbers together, which the hardware counts as "
                f"{size.counted << size.shift}; where a group's mean is as great as here, that "
                f"changes the variance by {error:.0%}",
                f"Use maps of which a group has a multiple of {1 << size.shift} numbers, or train "
                "with means nearer to zero.",
            )

    # --- Products --------------------------------------------------------------------------------

    def _product(self, node: Linear | Activation, result: str, residual: str | None) -> q.Product:
        """`node` (with the Linear before it, if it is an activation) into value `result`."""
        linear, function = self._parts(node)
        operand = self._operand(linear.inputs[0])
        weights = self._weights(linear, self.scales[operand])
        covered = dict.fromkeys((linear.name, node.name, result))
        return q.Product(
            result,
            (operand,) if residual is None else (operand, residual),
            tuple(covered),
            self._value(result),
            weights.weight,
            epilogue(weights, self.scales[result], function, linear.name),
        )

    def _residual_product(self, node: Add) -> q.Product:
        name = branch(self.evidence.graph, node)
        (residual,) = (value for value in node.inputs if value != name)
        product = self.evidence.graph[name or ""]
        assert isinstance(product, Linear | Activation)
        return self._product(product, node.name, residual)

    def _parts(self, node: Linear | Activation) -> tuple[Linear, Function | None]:
        if isinstance(node, Linear):
            return node, None
        linear = self.evidence.graph[node.inputs[0]]
        assert isinstance(linear, Linear)
        reached = self.evidence.statistics[linear.name].range
        if reached > ACTIVATION_MAX:
            raise unsupported(
                node,
                f"its input reaches {reached:.0f}, its fixed-point format {ACTIVATION_MAX:.0f}",
                "Check that the calibration images are normalised as in training.",
            )
        return linear, node.function

    def _weights(self, linear: Linear, operand: Scale) -> IntegerWeights:
        mean_square = self.evidence.statistics[linear.inputs[0]].mean_square
        weight, bias = linear.weight.astype(np.float64), linear.bias.astype(np.float64)
        return integer_weights(weight, bias, operand, mean_square)

    # --- Attention, LayerNorm, pooling -----------------------------------------------------------

    def _attention(self, node: Attention) -> q.Attention:
        inputs = tuple(self._operand(name) for name in node.inputs)
        query, key, value = (self.scales[name] for name in inputs)
        keys, _ = self.evidence.graph.shapes()[node.inputs[1]]
        contracted = len(query.step) // node.heads
        # The scales of queries and keys were chosen so that this is the same in each channel.
        ratio = node.scale * math.log2(math.e) * float(query.step[0] * key.step[0])
        limit = INT8_MAX * INT8_MAX
        return q.Attention(
            node.name,
            inputs,
            (node.name,),
            self._value(node.name),
            node.heads,
            score_epilogue(ratio * 2**SCORE_FRACTION_BITS, contracted * limit, node.name),
            mix_epilogue(value, self.scales[node.name], keys * limit, node.name),
            self._score_bias(node),
        )

    def _score_bias(self, node: Attention) -> q.Int16Array | None:
        """What is added to the scores; refused where saturation could change a probability."""
        if node.bias is None:
            return None
        bias = score_bias(node.bias.astype(np.float64))
        if not bias.any():
            return None
        lowest, reached = float(bias.min()) / 2**SCORE_FRACTION_BITS, self._reached_scores(node)
        if reached > lowest - LOWEST_SCORE and reached > HARMLESS_SCORE:
            raise unsupported(
                node,
                f"its scores reach {reached:.0f} (in units of log2) before a bias or mask of "
                f"{lowest:.0f} is added; their format ends at {LOWEST_SCORE:.0f}, and what is cut "
                f"off there is nothing only up to {HARMLESS_SCORE:.0f}",
                "Check that the calibration images are normalised as in training; else train with "
                "smaller scores.",
            )
        return bias

    def _reached_scores(self, node: Attention) -> float:
        """The greatest magnitude of q · k that may be expected, in units of log2."""
        query, key = (
            np.stack(np.split(self.evidence.statistics[name].sample, node.heads, axis=1))
            for name in node.inputs[:2]
        )
        products = np.abs(query @ key.swapaxes(-2, -1)).max()
        return float(HEADROOM * abs(node.scale) * math.log2(math.e) * products)

    def _norm(self, node: LayerNorm) -> q.Norm:
        gamma, beta = node.gamma.astype(np.float64), node.beta.astype(np.float64)
        step = self._residual_step(node.inputs[0])
        size = norm_size(self.evidence.graph, node)
        integers = integer_norm(gamma, beta, node.eps, step, self.scales[node.name], size)
        return self._norm_node(node.name, node.inputs[0], node.name, integers)

    def _copy(self, node: Node) -> q.Norm:
        name = copy_name(node.name)
        integers = plain_norm(self._residual_step(node.name), self.scales[name])
        return self._norm_node(name, node.name, node.name, integers)

    def _norm_node(self, name: str, source: str, origin: str, integers: IntegerNorm) -> q.Norm:
        value = self._value(name, of=origin)
        gamma, beta, constants = integers.gamma, integers.beta, integers.constants
        return q.Norm(name, (source,), (origin,), value, gamma, beta, constants)

    def _pool(self, node: MeanPool) -> q.Pool:
        operand = self._operand(node.inputs[0])
        source, result = self.scales[operand], self.scales[node.name]
        tokens = node.stop - node.start
        # The real sum of what integer zeros stand for, less what the result's zero stands for.
        bias = np.rint(tokens * (source.zero - result.zero) / source.step).astype(np.int64)
        ones = np.full((len(bias), tokens), 1, np.int8)
        shift = pre_shift(accumulator_bound(IntegerWeights(ones, bias, source.step)), node.name)
        ratio: FloatArray = source.step / (tokens * result.step) * 2.0**shift
        first = fixed_point(ratio, node.name)
        requantization = q.Requantization(
            bias.astype(np.int32), first.multiplier, first.shift, shift
        )
        value = self._value(node.name)
        return q.Pool(
            node.name, (operand,), (node.name,), value, node.start, node.stop, requantization
        )
