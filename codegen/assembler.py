"""Programs as text, one line per instruction, and back.

    compute wait=load,epilogue signal=load outer=4 left_base=96 ; layer=query0

Everything is derived from isa.fields: fields at zero are left out, enumerations and semaphores
stand by name. A line that begins with `#` is a comment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from .errors import ProgramError
from .isa import INSTRUCTIONS, Field, Instruction, Source, Unit, fields

_KINDS = {kind.__name__.lower(): kind for kind in INSTRUCTIONS}
_MASKS: dict[str, type[IntEnum]] = {"wait": Source, "signal": Unit}
_LAYER = " ; layer="


class Listed(Protocol):
    """What can be printed: a Program or a Listing."""

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """In program order."""

    @property
    def labels(self) -> tuple[str, ...]:
        """For each instruction, the layer it belongs to."""


@dataclass(frozen=True)
class Listing:
    """What parse_program reads: instructions and the layer of each."""

    instructions: tuple[Instruction, ...]
    labels: tuple[str, ...]


def print_instruction(instruction: Instruction) -> str:
    """One instruction as text."""
    settings = (
        f"{f.name}={_value_text(f, getattr(instruction, f.name))}"
        for f in fields(type(instruction))
        if getattr(instruction, f.name)
    )
    return " ".join([type(instruction).__name__.lower(), *settings])


def _value_text(field: Field, value: int) -> str:
    if field.name in _MASKS:
        return ",".join(name for name, bit in _bits(field.name).items() if value >> bit & 1)
    return field.enum(value).name.lower() if field.enum else str(int(value))


def _bits(mask: str) -> dict[str, int]:
    """Name → bit of a semaphore mask; bits that have no name are called by their number."""
    named = {member.name.lower(): int(member) for member in _MASKS[mask]}
    return named | {str(bit): bit for bit in range(8) if bit not in named.values()}


def print_program(program: Listed) -> str:
    """The whole program as text."""
    lines = (
        print_instruction(instruction) + (_LAYER + label if label else "")
        for instruction, label in zip(program.instructions, program.labels, strict=True)
    )
    return "\n".join(lines) + "\n"


def parse_program(text: str) -> Listing:
    """Reads print_program's text back; ProgramError names the line that is wrong."""
    parsed = tuple(_parse_lines(text.splitlines()))
    return Listing(tuple(entry[0] for entry in parsed), tuple(entry[1] for entry in parsed))


def _parse_lines(lines: Iterable[str]) -> Iterable[tuple[Instruction, str]]:
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            code, _, label = line.partition(_LAYER)
            yield _parse_instruction(code, number), label


def _parse_instruction(code: str, number: int) -> Instruction:
    name, *settings = code.split()
    kind = _KINDS.get(name)
    if kind is None:
        raise _wrong(number, f"{name!r} is no instruction", f"Use one of {', '.join(_KINDS)}.")
    known = {field.name: field for field in fields(kind)}
    values: dict[str, int] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key not in known or not equals or key in values:
            raise _wrong(
                number,
                f"{setting!r} sets no field of {name}, or one a second time",
                f"Write field=value once for each of {', '.join(known)}.",
            )
        values[key] = _parse_value(known[key], text, number)
    instruction = kind(**values)
    try:
        instruction.encode()
    except ProgramError as error:
        raise _wrong(number, error.culprit.rstrip("."), error.remedy) from error
    return instruction


def _parse_value(field: Field, text: str, number: int) -> int:
    if field.name in _MASKS:
        bits = _bits(field.name)
        return sum({1 << _lookup(bits, name, field, number) for name in text.split(",")})
    if field.enum:
        members = {member.name.lower(): int(member) for member in field.enum}
        return field.enum(_lookup(members, text, field, number))
    try:
        return int(text, 0)
    except ValueError:
        raise _wrong(number, f"{field.name}={text} is no integer", "Write a number.") from None


def _lookup(names: dict[str, int], name: str, field: Field, number: int) -> int:
    if name not in names:
        raise _wrong(number, f"{field.name}={name} is unknown", f"Use one of {', '.join(names)}.")
    return names[name]


def _wrong(number: int, reason: str, remedy: str) -> ProgramError:
    return ProgramError(f"Program text, line {number}: {reason}.", remedy)
