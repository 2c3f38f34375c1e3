"""Views: an ONNX tensor as an arrangement of the elements of a term.

`ids` has the tensor's shape; its entries number the elements of `term` in row-major order. So a
reshape, transpose, slice or split is exact whatever its order, and what an operator needs of its
operand's layout is a question about integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .load import Array
from .refusal import Refused
from .term import ChannelMean, ImageInput, Real, Term, TermPool

# Half a gigabyte of element numbers. ViT-L at 384 pixels has scores of 5 million elements.
LARGEST_TENSOR = 1 << 26

# What becomes of padding that nothing absorbs.
PADDING_LEFT = (
    "there is padding that no convolution or pooling takes up",
    "Put the padding right before a Conv, MaxPool or AveragePool.",
)

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class View:
    """A tensor that depends on the image.

    Attributes:
        term: where its elements come from.
        ids: [tensor shape], element numbers of `term`.
        layout: numbers of the ONNX nodes that only arranged it.
    """

    term: Term
    ids: Ids
    layout: tuple[int, ...] = ()


def whole(term: Term, shape: tuple[int, ...] | None = None) -> View:
    """All of `term`, in order, as a tensor of `shape`.

    Raises:
        Refused: it has too many elements to number them.
    """
    count = math.prod(term.shape)
    check_count(count)
    return View(term, np.arange(count).reshape(shape or term.shape))


def check_count(count: int) -> None:
    """Raises Refused if a tensor of `count` elements is too large to be followed one by one."""
    if count > LARGEST_TENSOR:
        raise Refused(
            f"its result has {count} elements", f"At most {LARGEST_TENSOR}: use a smaller image."
        )


def as_matrix(view: View, pool: TermPool, origin: tuple[int, ...]) -> Term:
    """The term [tokens, channels] that a tensor [..., tokens, channels] is.

    A selection of tokens or channels stands for the nodes that arranged the view, or else for
    `origin`.

    Raises:
        Refused: the rows are not tokens or the columns are not channels.
    """
    origin = view.layout or origin
    if len(view.term.shape) != 2 or view.ids.ndim == 0 or view.ids.size == 0:
        raise _not_a_matrix(view)
    ids = view.ids.reshape(-1, view.ids.shape[-1])
    tokens, channels = np.divmod(ids, view.term.shape[1])
    if (tokens != tokens[:, :1]).any() or (channels != channels[:1]).any():
        raise _not_by_token(view)
    rows = pool.rows(view.term, tuple(tokens[:, 0].tolist()), origin)
    return pool.channels(rows, tuple(channels[0].tolist()), origin)


def shows_image(term: Term) -> bool:
    """Whether the term is the image, perhaps normalised, and not attention scores."""
    while len(term.shape) > 2 and term.inputs:
        term = term.inputs[0]
    return isinstance(term, ImageInput)


def _not_a_matrix(view: View) -> Refused:
    if view.ids.ndim == 0:
        return Refused("its operand is a single number", "Give it tokens of channels.")
    if view.ids.size == 0:
        return Refused("its operand is empty", "Check the model in ONNX Runtime.")
    if len(view.term.shape) == 1:
        return Refused(*PADDING_LEFT)
    if shows_image(view.term):
        return Refused(
            "its operand is the image, not [tokens, channels]",
            "Embed the image into patches with a Conv2d before anything else.",
        )
    return Refused(
        "its operand is the attention scores or probabilities, not [tokens, channels]",
        "Compute softmax(q @ k.transpose(-2, -1) * scale) @ v, with a constant scale.",
    )


def _not_by_token(view: View) -> Refused:
    if isinstance(view.term, ChannelMean):
        return Refused(
            "its operand is a mean over channels, one number a token",
            "For pooling, average over the tokens: axis 1 of [batch, tokens, channels].",
        )
    return Refused(
        "its operand does not hold one token in each row of the last axis "
        f"(tensor shape {list(view.ids.shape)})",
        "Channels must come last, and those of one token only, as in [batch, tokens, channels]: "
        "transpose it; select one token or average them, where a row holds several.",
    )


def head_channels(ids: Ids, term: Term, role: str) -> tuple[int, ...]:
    """Channels of a [heads, tokens, d] arrangement, head-major.

    Raises:
        Refused: some head does not hold every token, in order, with the same channels.
    """
    tokens = ids.shape[1]
    at_token, channels = np.divmod(ids, term.shape[1])
    if tokens != term.shape[0] or (at_token != np.arange(tokens)[:, None]).any():
        raise Refused(
            f"the {role} does not hold the tokens along the axis where attention needs them",
            "Compute softmax(q @ k.transpose(-2, -1)) @ v on [batch, heads, tokens, d].",
        )
    if (channels != channels[:, :1]).any():
        raise Refused(
            f"the {role} takes other channels for other tokens",
            "Split channels into heads the same way for every token.",
        )
    return tuple(channels[:, 0].ravel().tolist())


def constant_of(values: Array, view: View, fill: float) -> Real:
    """`values`, which broadcast to the tensor, as a constant that broadcasts to the term.

    Elements of the term that the tensor does not show are free; they take `fill` or whatever
    makes the constant simplest (a scalar, one value a channel, one value a token).

    Raises:
        Refused: two places of the tensor show one element and need different values.
    """
    rank = len(view.term.shape)
    if values.size == 1:
        return np.full((1,) * rank, float(values.reshape(())), dtype=np.float64)
    flat = np.broadcast_to(values, view.ids.shape).astype(np.float64).ravel()
    full = np.full(math.prod(view.term.shape), np.nan)
    full[view.ids.ravel()] = flat
    if not np.array_equal(full[view.ids.ravel()], flat):
        raise Refused(
            "its constant differs between copies of one element", "Avoid Expand before it."
        )
    return _compact(full.reshape(view.term.shape), fill)


def _compact(full: Real, fill: float) -> Real:
    """The smallest array that broadcasts to `full`, where NaN stands for "any value"."""
    rank = full.ndim
    every = tuple(range(rank))
    for axes in (every, *((tuple(a for a in every if a != kept)) for kept in (rank - 1, 0))):
        low = np.fmin.reduce(full, axis=axes, keepdims=True)
        high = np.fmax.reduce(full, axis=axes, keepdims=True)
        if ((low == high) | np.isnan(low)).all():
            return np.where(np.isnan(low), fill, low)
    return np.where(np.isnan(full), fill, full)
