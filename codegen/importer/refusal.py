"""How a rule says no."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 (a verdict on one node, never shown to the user as it is)
    """One ONNX node cannot be mapped.

    Args:
        reason: what does not fit, without the name of the node.
        remedy: what the user can do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy
