"""Maps: which tensors [batch, channels, height, width] hold a matrix [pixels, channels]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..graph import OUTSIDE
from .call import Call
from .refusal import Refused
from .term import Padded, Term, TermPool, union
from .view import Ids, View, shows_image

CONVOLVED = "Convolve [batch, channels, height, width], row by row as the image is, in one piece."


@dataclass(frozen=True, eq=False)
class Map:
    """A tensor [1, channels, height, width] as pixels of a term, perhaps with padding around.

    Attributes:
        term: the image [channels, height, width], or a matrix [pixels, channels].
        sides: (height, width) of the tensor.
        source: (height, width) of the term's pixels, which are a rectangle in the tensor.
        margin: (top, left) of that rectangle.
        channels: of the term, by channel of the tensor.
        padding: the value around the rectangle, None if nothing is.
        origin: numbers of the ONNX nodes that padded and arranged it.
    """

    term: Term
    sides: tuple[int, int]
    source: tuple[int, int]
    margin: tuple[int, int]
    channels: Ids
    padding: float | None
    origin: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether the term is the image."""
        return shows_image(self.term)

    def matrix(self, pool: TermPool) -> Term:
        """The term with the tensor's channels only."""
        return pool.channels(self.term, tuple(self.channels.tolist()), self.origin)


def unpadded(view: View) -> tuple[View, float | None]:
    """What was padded, with OUTSIDE among its element numbers, and the value there.

    The value is None where the view shows no padding. Several images follow each other.
    """
    if not isinstance(view.term, Padded):
        return view, None
    padded = view.term
    image, place = np.divmod(view.ids, len(padded.places))
    ids = padded.places[place]
    ids = np.where(ids == OUTSIDE, OUTSIDE, ids + image * math.prod(padded.inputs[0].shape))
    inner = View(padded.inputs[0], ids, union(view.layout, padded.origin))
    return inner, padded.value if (ids == OUTSIDE).any() else None


def without_padding(view: View) -> View:
    """The view, of what was padded if it shows nothing of the padding."""
    inner, value = unpadded(view)
    return inner if value is None else view


def as_map(call: Call, view: View) -> Map:
    """The tensor as a map.

    Raises:
        Refused: it is not [1, channels, height, width] with all pixels of a term, row by row.
    """
    inner, padding = unpadded(view)
    term, ids = inner.term, inner.ids
    if ids.ndim != 4:
        raise Refused(
            f"its operand has {ids.ndim} axes, not [batch, channels, height, width]",
            "Convolve and pool two axes, height and width.",
        )
    if len(ids) != 1:
        raise Refused("it works on several frames by themselves", CONVOLVED)
    rows, channels = _places(term, ids[0])
    inside = ids[0] != OUTSIDE
    pixels, of_pixel = inside.any(axis=0), inside.all(axis=0)
    if not pixels.any() or (pixels != of_pixel).any():
        raise Refused("it pads the channels", "Pad height and width only.")
    margin, source = _rectangle(pixels)
    box = (..., slice(margin[0], margin[0] + source[0]), slice(margin[1], margin[1] + source[1]))
    rows, channels = rows[box], channels[box]
    count = math.prod(source)
    whole = pixels[box].all() and np.array_equal(rows[0].ravel(), np.arange(_pixels(term)))
    if count != _pixels(term) or not whole or (rows != rows[:1]).any():
        raise Refused(
            "its operand does not hold the pixels of one map, row by row, each once",
            CONVOLVED,
        )
    if (channels != channels[:, :1, :1]).any():
        raise Refused("its operand takes other channels for other pixels", CONVOLVED)
    origin = union((call.number,), inner.layout)
    sides = (ids.shape[2], ids.shape[3])
    return Map(term, sides, source, margin, channels[:, 0, 0], padding, origin)


def _pixels(term: Term) -> int:
    return math.prod(term.shape[1:]) if shows_image(term) else term.shape[0]


def _places(term: Term, ids: Ids) -> tuple[Ids, Ids]:
    """The pixel and the channel of each element."""
    if shows_image(term):
        if len(term.shape) != 3:
            raise Refused(
                "it convolves a video",
                "Cut videos into tubelets by a Conv3d whose stride is its kernel.",
            )
        channels, rows = np.divmod(ids, _pixels(term))
        return rows, channels
    if len(term.shape) == 1:
        raise Refused(
            "something computes on padding before it",
            "Put the padding right before a Conv, MaxPool or AveragePool.",
        )
    if len(term.shape) != 2:
        raise Refused("its operand is no map", CONVOLVED)
    rows, channels = np.divmod(ids, term.shape[1])
    return rows, channels


def _rectangle(pixels: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """(top, left) and (height, width) of the smallest rectangle around what is True."""
    starts, sizes = [], []
    for axis in (1, 0):
        found = np.flatnonzero(pixels.any(axis=axis))
        starts.append(int(found[0]))
        sizes.append(int(found[-1] - found[0]) + 1)
    return (starts[0], starts[1]), (sizes[0], sizes[1])
