"""What a result means: classes, labels, scores, an embedding or a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]


class Kind(Enum):
    """What the numbers of a result are; the value is what --task calls it."""

    CLASSES = "classes"  # one of several, with probabilities that add up to one
    LABELS = "labels"  # several, independent of each other
    SCORES = "scores"  # numbers as they are: a regression, or one logit
    EMBEDDING = "embedding"  # a vector, or one for each token
    MAP = "map"  # numbers for each patch of the image


class Last(Enum):
    """The function that the network lacks at its end, so that its results are probabilities."""

    NOTHING = "nothing"
    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"

    def __call__(self, scores: Scores) -> Scores:
        """The function's results, over the last axis."""
        if self is Last.SOFTMAX:
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float64)
        if self is Last.SIGMOID:
            return np.asarray(0.5 + 0.5 * np.tanh(0.5 * scores), np.float64)  # never overflows
        return scores


@dataclass(frozen=True)
class Task:
    """What one result of a network means.

    Attributes:
        kind: of what its numbers are.
        last: what makes probabilities of them.
        grid: lines and columns of a map, whose rows are the last lines * columns tokens; (0, 0) of
            anything else.
    """

    kind: Kind
    last: Last = Last.NOTHING
    grid: tuple[int, int] = (0, 0)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return {"kind": self.kind.value, "last": self.last.value, "grid": list(self.grid)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """The inverse of `to_dict`; ValueError where it is not what that writes."""
        lines, columns = values["grid"]
        if not all(type(side) is int and side >= 0 for side in (lines, columns)):
            raise ValueError(f"a grid is {values['grid']!r}")
        return cls(Kind(values["kind"]), Last(values["last"]), (lines, columns))

    def maps(self, result: Scores) -> Scores:
        """Pictures [images, lines, columns] of a map.

        One channel is shown as it is; of several, the number of the greatest.

        Args:
            result: [images, tokens, channels], or as the host makes it, [images, channels, lines,
                columns] or [images, lines, columns].
        """
        if result.ndim == 3 and result.shape[1:] == self.grid:
            return result
        if result.ndim == 4:
            lines, columns = result.shape[2:]
            pixels = np.moveaxis(result, 1, -1)
        else:
            lines, columns = self.grid
            pixels = result[:, -lines * columns :]
        shown = pixels[..., 0] if pixels.shape[-1] == 1 else pixels.argmax(axis=-1)
        return np.asarray(shown.reshape(-1, lines, columns), np.float64)


CLASSES = Task(Kind.CLASSES, Last.SOFTMAX)
