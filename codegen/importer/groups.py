"""Group normalisation as one operator, and what a group of channels is."""

from __future__ import annotations

import numpy as np

from .call import Call, Tensor
from .maps import unpadded
from .patterns import checked_epsilon
from .refusal import Refused
from .term import MapNorm, Real, Term, union
from .view import Ids, View

Results = tuple[Tensor | None, ...]

REMEDY = "Use nn.GroupNorm(groups, channels) or nn.InstanceNorm2d on one image's whole map."


def channel_groups(groups: Ids, term: Term) -> Ids | None:
    """The channels [groups, n] of each set of elements [groups, elements], in order.

    None if some set is not all tokens of its channels, each once, or two sets share a channel.
    """
    tokens, channels = term.shape
    if groups.shape[1] % tokens or not groups.size:
        return None
    found = np.sort(groups, axis=1).reshape(len(groups), tokens, -1)
    rows, columns = np.divmod(found, channels)
    first = columns[:, :1]
    if (rows != np.arange(tokens)[:, None]).any() or (columns != first).any():
        return None
    every = first.ravel()
    return first[:, 0] if len(np.unique(every)) == len(every) else None


def instance_normalization(call: Call) -> Results:
    """InstanceNormalization [1, groups, ...]: one mean and one variance for each second index."""
    view = _batched(call)
    count = view.ids.shape[1]
    gamma, beta = _constant(call, 1, "scale", count), _constant(call, 2, "bias", count)
    return (_normalised(call, view, count, gamma, beta),)


def group_normalization(call: Call) -> Results:
    """GroupNormalization of opset 21, with γ and β by channel; the older one is deprecated."""
    view = _batched(call)
    groups, channels = call.integer("num_groups", 0), view.ids.shape[1]
    if groups < 1 or channels % groups:
        raise Refused(
            f"its {channels} channels do not make {groups} groups",
            "Check the model in ONNX Runtime.",
        )
    gamma, beta = _constant(call, 1, "scale", channels), _constant(call, 2, "bias", channels)
    return (_normalised(call, view, groups, gamma, beta),)


def _batched(call: Call) -> View:
    """The operand [1, channels, ...]."""
    view = unpadded(call.view(0))[0]
    if view.ids.ndim < 3 or len(view.ids) != 1 or len(view.term.shape) != 2:
        raise Refused(
            f"it normalises {list(view.ids.shape)}, not one map [1, channels, height, width]",
            REMEDY,
        )
    return view


def _constant(call: Call, position: int, what: str, count: int) -> Real:
    values = call.constant(position, what)
    assert values is not None
    if values.shape != (count,):
        raise Refused(f"its {what} has shape {list(values.shape)}, not [{count}]", REMEDY)
    return values


def _normalised(call: Call, view: View, groups: int, gamma: Real, beta: Real) -> View:
    """Group normalisation of [1, channels, ...] with γ and β by channel of the tensor."""
    term = view.term
    sets = view.ids.reshape(groups, -1)
    found = channel_groups(sets, term)
    if found is None:
        raise Refused(
            "its groups are not all pixels of a map, each with channels of its own", REMEDY
        )
    found = found[np.argsort(found[:, 0])]
    order = found.ravel()
    place = np.zeros(term.shape[1], np.int64)
    place[order] = np.arange(len(order))
    rows, channels = np.divmod(view.ids, term.shape[1])
    ids = rows * len(order) + place[channels]
    matrix = call.pool.channels(term, tuple(order.tolist()), view.layout or call.origin)
    gamma, beta = (_by_channel(values, ids, len(order)) for values in (gamma, beta))
    origin = union((call.number,), view.layout)
    eps = checked_epsilon(call.number_of("epsilon", 1e-5))
    norm = MapNorm((matrix,), matrix.shape, origin, groups, gamma, beta, eps)
    return View(call.pool.intern(norm), ids)


def _by_channel(values: Real, ids: Ids, channels: int) -> Real:
    """`values` by second index of a tensor as values by channel of its term.

    Raises:
        Refused: a channel would have several.
    """
    shown = np.broadcast_to(values.reshape(1, -1, *(1 for _ in ids.shape[2:])), ids.shape)
    result = np.zeros(channels)
    result[ids % channels] = shown
    if (result[ids % channels] != shown).any():
        raise Refused("its scale or bias differs between pixels", REMEDY)
    return result
