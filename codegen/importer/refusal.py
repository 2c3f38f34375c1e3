"""How a rule says no."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 (a verdict on one node, never shown to the user as it is)
    """One ONNX node cannot be mapped.

    Args:
        reason: what does not fit, without the name of the node.
        remedy: what the user can do about it.
        origin: the ONNX nodes to blame, if not those of the term at hand.
        consequence: whether it only follows from the refusal of another node.
    """

    def __init__(
        self,
        reason: str,
        remedy: str,
        *,
        origin: tuple[int, ...] = (),
        consequence: bool = False,
    ) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.origin = origin
        self.consequence = consequence


def follows_from(name: str) -> Refused:
    """The verdict on a node that fails only because node `name` did."""
    return Refused(
        f"it belongs together with {name!r}, which is refused",
        f"Solve {name!r} first.",
        consequence=True,
    )
