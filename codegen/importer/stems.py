"""Convolution stems: where the map ends and tokens begin, and constants before convolutions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..graph import OUTSIDE, Window
from .refusal import Refused
from .term import (
    Activate,
    ChannelMean,
    Channels,
    Dense,
    Difference,
    Embed,
    Greatest,
    GroupMean,
    ImageInput,
    ImageWindows,
    MapNorm,
    MapWindows,
    Norm,
    Patches,
    Product,
    Real,
    Reciprocal,
    Root,
    Scale,
    Shift,
    Sum,
    Term,
    TermPool,
    topological,
    union,
)

# What there is before tokens, which class token and positions make of a map.
OF_MAPS = (
    Activate,
    ChannelMean,
    Channels,
    Dense,
    Difference,
    Greatest,
    GroupMean,
    ImageInput,
    ImageWindows,
    MapNorm,
    MapWindows,
    Norm,
    Patches,
    Product,
    Reciprocal,
    Root,
    Scale,
    Shift,
    Sum,
)


def window_rule(term: Term, pool: TermPool) -> Term | None:
    """Scale or Shift before the window of a convolution → into its weight and bias.

    They must be the same for all windows. A Shift of what is padded with zeros behind it is not.

    Raises:
        Refused: a Shift cannot be absorbed.
    """
    if not isinstance(term, Dense) or not isinstance(term.inputs[0], ImageWindows | MapWindows):
        return None
    (seen,) = term.inputs
    assert isinstance(seen, ImageWindows | MapWindows)
    (below,) = seen.inputs
    match below:
        case Scale(factor=constant):
            values = _by_value(constant, seen, np.nan)
        case Shift(offset=constant):
            values = _by_value(constant, seen, 0.0)
        case _:
            return None
    if values is None and isinstance(below, Shift):
        raise Refused(
            "it adds a constant that a convolution sees beside padding, or one that differs "
            "between pixels",
            "Normalise images before the model, and let a padded convolution read what a "
            "convolution, a norm or an activation made.",
            origin=below.origin,
        )
    if values is None:
        return None
    origin = union(term.origin, seen.origin, below.origin)
    window = pool.rebuilt(seen, below.inputs)
    if isinstance(below, Scale):
        weight = term.weight * values
        return pool.intern(replace(term, inputs=(window,), weight=weight, origin=origin))
    bias = term.bias + term.weight @ values
    return pool.intern(replace(term, inputs=(window,), bias=bias, origin=origin))


def _by_value(constant: Real, seen: ImageWindows | MapWindows, padding: float) -> Real | None:
    """A constant on what a window sees as one number for each value that it sees there.

    None if results see different ones; `padding` stands where there is padding, NaN for any.
    """
    pixels = seen.window.pixels
    below = seen.inputs[0]
    full = np.broadcast_to(constant, below.shape)
    rows = full.reshape(len(full), -1) if isinstance(seen, ImageWindows) else full.T
    values = np.where(pixels == OUTSIDE, padding, rows[:, pixels])  # [channels, results, kernel]
    low, high = np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1)
    if ((low != high) & ~np.isnan(low)).any():
        return None
    chosen = np.where(np.isnan(low), 1.0, low)
    return (chosen if isinstance(seen, ImageWindows) else chosen.T).ravel()


def maps_of_patches(roots: tuple[Term, ...], pool: TermPool) -> tuple[Term, ...]:
    """The terms with Patches as Dense of windows, wherever they are a map and not tokens.

    They must be one if a window or a norm of maps sees them. They may be one if something else is
    done to them before constant tokens or positions join.

    Raises:
        Refused: patches that must be a map are not square, or of a video.
    """
    order = topological(roots)
    walked = _below(order, [t for t in order if isinstance(t, MapWindows | MapNorm | Greatest)])
    joined = _below(
        order, [t for t in order if isinstance(t, Embed) and not isinstance(t.inputs[0], Patches)]
    )
    new: dict[Term, Term] = {}
    for term in order:
        rebuilt = pool.rebuilt(term, tuple(new[read] for read in term.inputs))
        if isinstance(term, Patches) and (term in walked or (term in joined and _is_square(term))):
            rebuilt = _as_map(term, pool)
        new[term] = rebuilt
    return tuple(new[root] for root in roots)


def _below(order: list[Term], readers: list[Term]) -> set[Term]:
    """What the readers see, straight or through what maps can be made of."""
    found: set[Term] = set()
    for term in reversed(order):
        if term in readers or (term in found and isinstance(term, OF_MAPS)):
            found.update(term.inputs)
    return found


def _is_square(patches: Patches) -> bool:
    """Whether the patches are what a convolution sees of an image with one stride."""
    _, channels, *kernel = patches.weight.shape
    return len(kernel) == 2 and channels == patches.inputs[0].shape[0] and kernel[0] == kernel[1]


def _as_map(patches: Patches, pool: TermPool) -> Term:
    (image,) = patches.inputs
    if not _is_square(patches):
        raise Refused(
            f"its patches of {list(patches.weight.shape[1:])} are a map that is convolved further",
            "Convolve one image, all channels of it, with one stride for both axes.",
            origin=patches.origin,
        )
    out, _, side, _ = patches.weight.shape
    sides = (image.shape[1], image.shape[2])
    window = Window(sides, (side, side), side, (0, 0), (sides[0] // side, sides[1] // side))
    weight = patches.weight.reshape(out, -1)
    shape = (patches.shape[0], weight.shape[1])
    seen = pool.intern(ImageWindows((image,), shape, patches.origin, window))
    return pool.intern(Dense((seen,), patches.shape, patches.origin, weight, patches.bias))
