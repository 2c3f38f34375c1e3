"""Turns terms into the graph: float32 weights, readable names, one node per operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from .. import graph as g
from ..errors import ModelValueError
from ..legal import check_graph
from .absorb import unfinished_parts
from .activations import argument_of, within_activation
from .load import Source
from .patterns import NORM_REMEDY, norm_parts
from .refusal import Refused, follows_from
from .term import (
    Activate,
    Attend,
    Beside,
    ChannelMean,
    Channels,
    Dense,
    Difference,
    Embed,
    Erf,
    Fixed,
    Greatest,
    GroupMean,
    ImageInput,
    ImageWindows,
    MapNorm,
    MapWindows,
    Mix,
    Norm,
    Opaque,
    Padded,
    Patches,
    Product,
    Quantised,
    Real,
    Reciprocal,
    Root,
    Rows,
    Scale,
    Scores,
    Shift,
    Sigmoid,
    Softmax,
    Stacked,
    Sum,
    Tanh,
    Term,
    TokenMean,
    topological,
)
from .trace import Trace
from .view import PADDING_LEFT, shows_image

ATTENTION_REMEDY = "Attention is softmax(q @ k.transpose(-2, -1) * scale + constant) @ v."

# Why a term that no rule took cannot stay.
LEFT_OVER: dict[type[Term], tuple[str, str]] = {
    ChannelMean: ("a mean over channels that is not part of a LayerNorm", NORM_REMEDY),
    Beside: (
        "it puts channels side by side that no linear layer reads",
        "Put a Linear after it.",
    ),
    Channels: (
        "it selects or reorders channels that no linear layer produces or consumes",
        "Put a Linear before or after it.",
    ),
    Difference: ("it subtracts results, and not as part of a LayerNorm", NORM_REMEDY),
    Fixed: (
        "it holds several constant queries",
        "Attention takes one learned query; export one model for each.",
    ),
    GroupMean: (
        "a mean over all pixels and a group of channels that is not part of a GroupNorm",
        NORM_REMEDY,
    ),
    Mix: ("its operands are not an attention that can be mapped", ATTENTION_REMEDY),
    Padded: PADDING_LEFT,
    Product: (
        "it multiplies two results, and not as part of a GELU or LayerNorm",
        "Gates and data-dependent scales are not supported.",
    ),
    Quantised: (
        "its integers are used otherwise than by a DequantizeLinear",
        "Use the model in floating point, or quantised with QuantizeLinear and DequantizeLinear "
        "around operators in floating point.",
    ),
    Reciprocal: ("it divides by a result, and not as part of a LayerNorm", NORM_REMEDY),
    Root: ("a square root that is not part of a LayerNorm", NORM_REMEDY),
    Scale: (
        "it scales by a constant that no weight before or after it can absorb",
        "Put the factor right after a Linear (LayerScale) or on the attention scores.",
    ),
    Scores: ("a product of two results that is not attention", ATTENTION_REMEDY),
    Shift: ("it adds a constant to what is no matrix of tokens", "Add it to the tokens."),
    Stacked: (
        "it joins two tensors of tokens",
        "Only constant tokens can be put before others: attention reads tokens that one operator "
        "made.",
    ),
    Softmax: ("its result is not multiplied by values", ATTENTION_REMEDY),
}

SEEN_TWICE = Refused(
    "the image is convolved, or cut into patches, in two ways",
    "Let one convolution read the image, and everything else what it gives.",
)


def emit(source: Source, trace: Trace, roots: tuple[Term, ...]) -> g.Graph | None:
    """The graph, or None if a term is left that the graph cannot hold.

    Those terms get a verdict in `trace.refused`.
    """
    order = topological(roots)
    for term, refusal in _verdicts(order, source.names, set(trace.refused)):
        trace.refused.setdefault(term.origin[0], refusal)
    readers = [term for term in order if isinstance(term, Patches | ImageWindows)]
    if len(readers) > 1 and not trace.refused:  # else it may be the consequence
        trace.refused[readers[1].origin[0]] = SEEN_TWICE
    if trace.refused or trace.bad_outputs:
        return None
    names = _names(order, roots, source.image.name)
    nodes = tuple(
        _node(term, names, source.names) for term in order if not isinstance(term, ImageInput)
    )
    outputs = [(name, names[root]) for (name, _), root in zip(trace.roots, roots, strict=True)]
    return check_graph(g.Graph(source.image, nodes, tuple(outputs)), "Importing")


def _verdicts(
    order: list[Term], names: tuple[str, ...], already: set[int]
) -> Iterator[tuple[Term, Refused]]:
    """The terms that the graph cannot hold, and why; `already` are numbers of refused nodes.

    What surrounds an unrecognised activation or attention is refused as its consequence, and so is
    what reads the result of a refused node.
    """
    blamed: dict[Term, Term] = {}
    for term in order:
        if isinstance(term, Mix):
            parts = [*_attention_parts(term), term]
            culprit = next((part for part in parts if part.origin[0] in already), term)
            blamed.update((part, culprit) for part in parts if part is not culprit)
        elif isinstance(term, Erf | Tanh | Sigmoid):
            blamed.update((part, term) for part in argument_of(term))
        elif isinstance(term, Product) and term.origin[0] in already:
            blamed.update((part, term) for part in norm_parts(term))
        for read in term.inputs:
            refused = read if isinstance(read, Opaque) else blamed.get(read)
            if isinstance(refused, Opaque) and type(read) in (Opaque, *LEFT_OVER):
                blamed.setdefault(term, refused)
    unfinished = unfinished_parts(order)
    for term in order:
        cause = within_activation(term) or blamed.get(term) or unfinished.get(term)
        verdict = _verdict(term)
        if verdict is not None and cause is not None and cause is not term:
            verdict = follows_from(names[cause.origin[0]])
        if verdict is not None:
            yield term, verdict


def _attention_parts(mix: Mix) -> Iterator[Term]:
    """From the probabilities up to the scores."""
    part = mix.inputs[0]
    while len(part.shape) == 3 and part.inputs:
        yield part
        part = part.inputs[0]


def _verdict(term: Term) -> Refused | None:
    match term:
        case TokenMean(rows=rows) if rows != tuple(range(rows[0], rows[-1] + 1)):
            return Refused("it averages tokens with gaps", "Average a contiguous range of tokens.")
        case Scale() | Shift() if shows_image(term):
            return Refused(
                "its constant differs between pixels of the image",
                "Normalise the image with one mean and one deviation a channel.",
            )
        case Scale(factor=factor) if len(term.shape) == 2 and factor.shape[0] > 1:
            return Refused(
                "its factor differs between tokens", "Use one factor for each channel at most."
            )
    if type(term) not in LEFT_OVER:
        return None
    return Refused(*LEFT_OVER[type(term)])


def _names(order: Iterable[Term], roots: tuple[Term, ...], image: str) -> dict[Term, str]:
    """patch_embed, norm0, query0, key0, value0, attention0, linear0, ... head."""
    order = list(order)
    roles = {
        operand: role
        for term in order
        if isinstance(term, Attend)
        for operand, role in zip(term.inputs[::-1], ("value", "key", "query"), strict=True)
    }
    labels = {term: _label(term, roles, roots) for term in order}
    totals = Counter(labels.values())
    used: Counter[str] = Counter()
    names = {}
    for term, label in labels.items():
        single = label in SINGLE and totals[label] == 1
        names[term] = label if single else f"{label}{used[label]}"
        used[label] += 1
        if isinstance(term, ImageInput):
            names[term] = image
    return _apart_from(image, names)


def _apart_from(image: str, names: dict[Term, str]) -> dict[Term, str]:
    """A node must not be called like the image."""
    return {
        term: f"{name}_" if name == image and not isinstance(term, ImageInput) else name
        for term, name in names.items()
    }


def _label(term: Term, roles: dict[Term, str], roots: tuple[Term, ...]) -> str:
    match term:
        case Dense():
            return "head" if term in roots else roles.get(term, "linear")
        case Activate(function=function):
            return function.value
        case Rows(rows=rows) if len(rows) > 1:
            return "arrange"
        case _:
            return KIND_LABELS[type(term)]


SINGLE = ("patch_embed", "image_patches", "token_embed", "head")

KIND_LABELS: dict[type[Term], str] = {
    ImageInput: "image",
    Patches: "patch_embed",
    Embed: "token_embed",
    ImageWindows: "image_patches",
    MapWindows: "unfold",
    Greatest: "max_pool",
    MapNorm: "group_norm",
    Norm: "norm",
    Attend: "attention",
    Sum: "add",
    Rows: "select",
    TokenMean: "mean_pool",
}


def _single(values: Real) -> g.FloatArray:
    if np.any(np.abs(values) > np.finfo(np.float32).max):
        raise ModelValueError(
            "A weight overflows float32 once the constants around it are folded in.",
            "Check the model for factors of absurd size.",
        )
    return np.ascontiguousarray(values, dtype=np.float32)


def _node(term: Term, names: dict[Term, str], onnx_names: tuple[str, ...]) -> g.Node:
    name = names[term]
    inputs = tuple(names[read] for read in term.inputs)
    origin = tuple(onnx_names[number] for number in term.origin)
    match term:
        case Patches() | Embed() | ImageWindows() | MapWindows() | Greatest() | MapNorm():
            return _stem_node(term, name, inputs, origin)
        case Norm():
            gamma, beta = _single(term.gamma), _single(term.beta)
            return g.LayerNorm(name, inputs, origin, gamma, beta, term.eps)
        case Dense():
            return g.Linear(name, inputs, origin, _single(term.weight), _single(term.bias))
        case Attend():
            bias = None if term.bias is None else _single(term.bias)
            return g.Attention(name, inputs, origin, term.heads, term.scale, bias)
        case Activate():
            return g.Activation(name, inputs, origin, term.function)
        case Sum():
            return g.Add(name, inputs, origin)
        case Rows(rows=(row,)) if row != g.OUTSIDE:
            return g.SelectToken(name, inputs, origin, row)
        case Rows(rows=rows):
            return g.Arrange(name, inputs, origin, rows)
        case TokenMean():
            return g.MeanPool(name, inputs, origin, term.rows[0], term.rows[-1] + 1)
    raise AssertionError(f"{type(term).__name__} passed the verdict")


def _stem_node(
    term: Patches | Embed | ImageWindows | MapWindows | Greatest | MapNorm,
    name: str,
    inputs: tuple[str, ...],
    origin: tuple[str, ...],
) -> g.Node:
    match term:
        case Patches():
            return g.PatchEmbed(name, inputs, origin, _single(term.weight), _single(term.bias))
        case Embed():
            prefix, positions = _single(term.prefix), _single(term.positions)
            return g.TokenEmbed(name, inputs, origin, prefix, positions)
        case ImageWindows():
            return g.ImagePatches(name, inputs, origin, term.window)
        case MapWindows():
            return g.Unfold(name, inputs, origin, term.window)
        case Greatest():
            return g.MaxPool(name, inputs, origin, term.window)
        case MapNorm():
            gamma, beta = _single(term.gamma), _single(term.beta)
            return g.GroupNorm(name, inputs, origin, term.groups, gamma, beta, term.eps)
