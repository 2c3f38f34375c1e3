"""The text of docs/isa.md, from the tables in isa.py."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import IntEnum

from . import isa
from .assembler import print_instruction
from .config import INSTRUCTION_BITS

MASKS: dict[str, type[IntEnum]] = {"wait": isa.Source, "signal": isa.Unit}
EXAMPLE = isa.Compute(
    wait=1 << isa.Source.LOAD | 1 << isa.Source.NORM,
    signal=1 << isa.Unit.LOAD,
    outer=4,
    inner=2,
    depth=8,
    left_outer=8,
    left_step=1,
    right_base=96,
    right_inner=8,
    right_step=1,
)


def isa_markdown() -> str:
    """The text of docs/isa.md."""
    lines = [
        "# Instruction set",
        "",
        "Generated from `codegen/isa.py`; do not edit.",
        "",
        *_preface(),
        *_overview(),
        *_text_form(),
        *(line for kind in isa.INSTRUCTIONS for line in _instruction(kind)),
        *_semaphores(),
        "",
        "## Enumerations",
        *(line for enum in _field_enums() for line in _enum(enum)),
    ]
    return "\n".join(lines) + "\n"


def _preface() -> Iterator[str]:
    """What isa.py says of every instruction; its first two paragraphs are about the file."""
    for paragraph in inspect.cleandoc(isa.__doc__ or "").split("\n\n")[2:]:
        yield from (paragraph, "")


def _overview() -> Iterator[str]:
    yield "T, V and E are `tile`, `depth` and `lanes` of the configuration (`codegen/config.py`)."
    yield from ("", "| opcode | instruction | unit | completes as |", "|---|---|---|---|")
    for kind in isa.INSTRUCTIONS:
        sources = ", ".join(source.name + case for source, case in _sources(kind).items())
        yield f"| {kind.OPCODE} | {_link(kind)} | {kind.UNIT.name} | {sources} |"
    yield from ("", f"What stands in the last column is a {_link(isa.Source)}.")


def _sources(kind: type[isa.Instruction]) -> dict[isa.Source, str]:
    """The sources of an instruction's completion, and the case in which each is it."""
    if kind is isa.End:
        return {}  # nothing comes after it
    if kind is not isa.Epilogue:
        return {kind().source: ""}
    targets: dict[isa.Source, list[str]] = {}
    for target in isa.EpilogueTarget:
        targets.setdefault(isa.Epilogue(target=target).source, []).append(target.name)
    return {source: f" (target {' or '.join(names)})" for source, names in targets.items()}


def _text_form() -> Iterator[str]:
    yield from (
        "",
        "An instruction as text (`codegen/assembler.py`; fields at zero are left out), and the "
        "same as a number:",
        "",
        f"    {print_instruction(EXAMPLE)}",
        f"    0x{EXAMPLE.encode():0{INSTRUCTION_BITS // 4}x}",
    )


def _instruction(kind: type[isa.Instruction]) -> Iterator[str]:
    yield from ("", f"## {_name(kind)}", "", inspect.cleandoc(kind.__doc__ or ""), "")
    yield from ("| bits | width | field | type | meaning |", "|---|---|---|---|---|")
    yield f"| {_span(0, isa.OPCODE_BITS)} | {isa.OPCODE_BITS} | opcode | {kind.OPCODE} | |"
    for field in isa.fields(kind):
        where = _span(field.low, field.width)
        yield f"| {where} | {field.width} | {field.name} | {_type(field)} | {field.doc} |"
    used = isa.fields(kind)[-1].low + isa.fields(kind)[-1].width
    if used < INSTRUCTION_BITS:
        rest = INSTRUCTION_BITS - used
        yield f"| {_span(used, rest)} | {rest} | | zero | |"


def _type(field: isa.Field) -> str:
    if field.name in MASKS:
        return f"mask of {_link(MASKS[field.name])}"
    if field.enum:
        return _link(field.enum)
    if field.width == 1:
        return "flag"
    return "signed" if field.signed else "unsigned"


def _semaphores() -> Iterator[str]:
    highest = (1 << isa.SEMAPHORE_BITS) - 1
    yield from (
        "",
        "## Semaphores",
        "",
        f"A counter has {isa.SEMAPHORE_BITS} bits: a program never brings one above {highest}.",
    )
    yield from _enum(isa.Source, "bit of `wait`")
    yield from _enum(isa.Unit, "bit of `signal`")


def _field_enums() -> tuple[type[IntEnum], ...]:
    """Enumerations that fields are of, in the order in which they are first used."""
    fields = (field for kind in isa.INSTRUCTIONS for field in isa.fields(kind))
    return tuple(dict.fromkeys(field.enum for field in fields if field.enum))


def _enum(enum: type[IntEnum], code: str = "code") -> Iterator[str]:
    comments = _comments(enum)
    explained = any(comments.values())
    yield from ("", f"### {_name(enum)}", "", inspect.cleandoc(enum.__doc__ or ""), "")
    yield f"| {code} | name |" + " meaning |" * explained
    yield "|---|---|" + "---|" * explained
    for member in enum:
        yield f"| {member.value} | {member.name} |" + f" {comments[member.name]} |" * explained


def _comments(enum: type[IntEnum]) -> dict[str, str]:
    """The comment behind each member in the source; empty where there is none."""
    found = re.findall(r"^ +(\w+) = \d+(?: +# (.*))?$", inspect.getsource(enum), re.M)
    return dict(found)


def _name(kind: type[isa.Instruction] | type[IntEnum]) -> str:
    """Instructions are called in capitals, as in comments and messages."""
    return kind.__name__.upper() if issubclass(kind, isa.Instruction) else kind.__name__


def _link(kind: type[isa.Instruction] | type[IntEnum]) -> str:
    return f"[{_name(kind)}](#{kind.__name__.lower()})"


def _span(low: int, width: int) -> str:
    return str(low) if width == 1 else f"{low + width - 1}-{low}"
