"""Terms: what the traced network computes, with every reshape and transpose taken out.

A term is one array, most often a matrix [tokens, channels]; attention scores are
[heads, queries, keys] and the image is [channels, height, width], a video has one axis more. The
first group below is what tracing produces, the second what the rewrite rules turn it into; `emit`
accepts the second only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..graph import Function, Window
from .refusal import Refused

Real = npt.NDArray[np.float64]  # constants stay in double precision until the graph is emitted


@dataclass(frozen=True, eq=False)
class Term:
    """One array of the network.

    Attributes:
        inputs: the terms it reads.
        shape: of the array.
        origin: numbers of the ONNX nodes it stands for, the principal one first.
    """

    inputs: tuple[Term, ...]
    shape: tuple[int, ...]
    origin: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ImageInput(Term):
    """The image [channels, height, width], or a video."""


@dataclass(frozen=True, eq=False)
class Opaque(Term):
    """The result of a refused node: tracing goes on, to report everything at once."""

    tensor: str


@dataclass(frozen=True, eq=False)
class Scale(Term):
    """input * factor; `factor` has as many axes as the input and broadcasts to it."""

    factor: Real


@dataclass(frozen=True, eq=False)
class Shift(Term):
    """input + offset; `offset` has as many axes as the input and broadcasts to it."""

    offset: Real


@dataclass(frozen=True, eq=False)
class Difference(Term):
    """Left minus right."""


@dataclass(frozen=True, eq=False)
class Product(Term):
    """Element by element; one side may be a column [tokens, 1]."""


@dataclass(frozen=True, eq=False)
class Root(Term):
    """Square root."""


@dataclass(frozen=True, eq=False)
class Reciprocal(Term):
    """1 / input."""


@dataclass(frozen=True, eq=False)
class Erf(Term):
    """The error function."""


@dataclass(frozen=True, eq=False)
class Tanh(Term):
    """The hyperbolic tangent."""


@dataclass(frozen=True, eq=False)
class Sigmoid(Term):
    """1 / (1 + exp(-input))."""


@dataclass(frozen=True, eq=False)
class ChannelMean(Term):
    """[tokens, channels] → [tokens, 1]."""


@dataclass(frozen=True, eq=False)
class GroupMean(Term):
    """[tokens, channels] → [1, groups]: over all tokens and the channels of each group.

    Groups are equal parts of the channels, in order.
    """


@dataclass(frozen=True, eq=False)
class Scores(Term):
    """q @ k.T, head by head → [heads, queries, keys]."""

    heads: int


@dataclass(frozen=True, eq=False)
class Softmax(Term):
    """Over the keys of scores."""


@dataclass(frozen=True, eq=False)
class Mix(Term):
    """probabilities @ v, head by head → [queries, heads * d], head-major."""


@dataclass(frozen=True, eq=False)
class Fixed(Term):
    """Constant tokens, whatever the input: a query that was learned."""

    tokens: Real  # [tokens, channels]


@dataclass(frozen=True, eq=False)
class Stacked(Term):
    """The tokens of several inputs with the same channels, one input after the other."""


@dataclass(frozen=True, eq=False)
class Beside(Term):
    """The channels of several inputs with the same tokens, one input after the other."""


@dataclass(frozen=True, eq=False)
class Padded(Term):
    """Elements of the input with a constant among them, as Pad puts them: one axis, as a tensor.

    Attributes:
        places: [elements], numbers of the input's elements, OUTSIDE where the constant is.
        value: the constant.
    """

    places: npt.NDArray[np.int64]
    value: float


@dataclass(frozen=True, eq=False)
class Quantised(Term):
    """The integers input / scale + zero, rounded and cut off at both ends of their type."""

    scale: float
    zero: int
    type: np.dtype[np.generic]


@dataclass(frozen=True, eq=False)
class Channels(Term):
    """The channels `selection` of the input, in that order."""

    selection: tuple[int, ...]


# What a graph can hold from here on.


@dataclass(frozen=True, eq=False)
class Patches(Term):
    """The patch embedding, before class token and positions."""

    weight: Real  # [out, sides of a patch ...], one side for each axis of the image
    bias: Real  # [out]


@dataclass(frozen=True, eq=False)
class ImageWindows(Term):
    """What a window sees of the image [channels, height, width] → [results, values].

    The values of a result are in row-major order of [channels, kernel]; padding is zero.
    """

    window: Window


@dataclass(frozen=True, eq=False)
class MapWindows(Term):
    """What a window sees of a map [pixels, channels] → [results, values].

    The values of a result are in row-major order of [kernel, channels]; padding is zero.
    """

    window: Window


@dataclass(frozen=True, eq=False)
class Greatest(Term):
    """The greatest value that a window sees inside a map → [results, channels]."""

    window: Window


@dataclass(frozen=True, eq=False)
class MapNorm(Term):
    """Group normalisation: over all tokens and the channels of each group."""

    groups: int
    gamma: Real  # [channels]
    beta: Real  # [channels]
    eps: float


@dataclass(frozen=True, eq=False)
class Embed(Term):
    """concat(prefix, input, zeros) + positions: constant tokens around the input's."""

    prefix: Real
    positions: Real


@dataclass(frozen=True, eq=False)
class Dense(Term):
    """input @ weight.T + bias."""

    weight: Real  # [out, in]
    bias: Real  # [out]


@dataclass(frozen=True, eq=False)
class Norm(Term):
    """Layer normalisation over the channels."""

    gamma: Real
    beta: Real
    eps: float


@dataclass(frozen=True, eq=False)
class Attend(Term):
    """Attention of (query, key, value)."""

    heads: int
    scale: float
    bias: Real | None = None  # what is added to the scores [heads, queries, keys]


@dataclass(frozen=True, eq=False)
class Activate(Term):
    """An element-wise function."""

    function: Function


@dataclass(frozen=True, eq=False)
class Sum(Term):
    """Of two arrays of one shape."""


@dataclass(frozen=True, eq=False)
class Rows(Term):
    """The tokens `rows` of the input, in that order; zeros where a number is OUTSIDE."""

    rows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TokenMean(Term):
    """The mean of the tokens `rows`, each counted once → [1, channels]."""

    rows: tuple[int, ...]


AnyTerm = TypeVar("AnyTerm", bound=Term)


class TermPool:
    """Makes terms, each only once: equal terms are one object, so rules compare by identity.

    Attributes:
        rounding: relative error of the model's constants, which rules must allow for.
    """

    def __init__(self, rounding: float) -> None:
        self.rounding = rounding
        self._known: dict[tuple[object, ...], Term] = {}

    def intern(self, term: AnyTerm) -> AnyTerm:
        """`term`, or the equal term that was made before.

        Raises:
            Refused: a constant in it holds NaN or infinity.
        """
        key = tuple(
            _key(getattr(term, field.name)) for field in fields(term)[:2] + fields(term)[3:]
        )
        known = self._known.setdefault((type(term), *key), term)
        assert isinstance(known, type(term))
        return known

    def scale(self, term: Term, factor: Real, origin: tuple[int, ...]) -> Term:
        """term * factor; a factor of one vanishes."""
        if np.all(factor == 1):
            return term
        return self.intern(Scale((term,), term.shape, origin, factor))

    def shift(self, term: Term, offset: Real, origin: tuple[int, ...]) -> Term:
        """term + offset; an offset of zero vanishes."""
        if np.all(offset == 0):
            return term
        return self.intern(Shift((term,), term.shape, origin, offset))

    def channels(self, term: Term, selection: tuple[int, ...], origin: tuple[int, ...]) -> Term:
        """Selected channels; selecting all of them in order vanishes."""
        if selection == tuple(range(term.shape[1])):
            return term
        shape = (term.shape[0], len(selection))
        return self.intern(Channels((term,), shape, origin, selection))

    def rows(self, term: Term, rows: tuple[int, ...], origin: tuple[int, ...]) -> Term:
        """Selected tokens; selecting all of them in order vanishes."""
        if rows == tuple(range(term.shape[0])):
            return term
        return self.intern(Rows((term,), (len(rows), term.shape[1]), origin, rows))

    def rebuilt(self, term: Term, inputs: tuple[Term, ...]) -> Term:
        """`term` reading other inputs."""
        if all(old is new for old, new in zip(term.inputs, inputs, strict=True)):
            return term
        return self.intern(replace(term, inputs=inputs))


def _key(value: object) -> object:
    if isinstance(value, np.ndarray):
        if not np.isfinite(value).all():
            raise Refused(
                "a constant it uses holds NaN or infinity",
                "Check the constants that the exporter computed; only masks of attention scores "
                "may hold minus infinity.",
            )
        return value.shape, hashlib.blake2b(np.ascontiguousarray(value).data).digest()
    if isinstance(value, tuple) and value and isinstance(value[0], Term):
        return tuple(id(term) for term in value)
    return value


def topological(roots: tuple[Term, ...]) -> list[Term]:
    """Every term the roots depend on, inputs first; no recursion, so depth does not matter."""
    order: list[Term] = []
    done: set[Term] = set()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        term, expanded = stack.pop()
        if term in done:
            continue
        if expanded:
            done.add(term)
            order.append(term)
            continue
        stack.append((term, True))
        stack.extend((read, False) for read in reversed(term.inputs) if read not in done)
    return order


def union(*origins: tuple[int, ...]) -> tuple[int, ...]:
    """All numbers, first come first, without repeats."""
    return tuple(dict.fromkeys(number for origin in origins for number in origin))
