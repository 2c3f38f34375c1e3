"""`vitessera inspect`: what becomes of every node of an ONNX model."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitessera.codegen.importer import Inspection, Row, Status, inspect_confined
from vitessera.codegen.outputfile import JsonFile, check_outputs
from vitessera.codegen.tables import Column, text_table
from vitessera.host.text import printable

from .terminal import line_width

if TYPE_CHECKING:
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: SubParsers) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "inspect",
        help="say what becomes of every node of an ONNX model",
        description="Says whether a model can be compiled, what becomes of the ONNX nodes of each "
        "operator, and why nodes are refused. "
        "Exits with 0 if the model can be compiled, with 2 if not.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    add_import_options(parser)
    add_split(parser)
    parser.add_argument(
        "--nodes", action="store_true", help="what becomes of every node, not only of refused ones"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the account as JSON too")
    parser.set_defaults(run=run)


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Adds --results and --shape, which say how a model file is to be read."""
    parser.add_argument(
        "--results",
        nargs="+",
        default=(),
        metavar="NAME",
        help="tensors to take as results, of the model's outputs or inside it, in place of all "
        "outputs; what comes after them is left out",
    )
    parser.add_argument(
        "--shape",
        type=shape,
        default=(),
        metavar="C,H,W",
        help="channels, height and width of the images, such as 3,224,224 (of videos, all axes "
        "after the batch), for a file that leaves them open; without it, they are looked for in "
        "the network's patches and position embeddings, and in preprocessor_config.json and "
        "config.json beside the file",
    )


def shape(text: str) -> tuple[int, ...]:
    """Sizes between commas, for argparse."""
    sides = text.split(",")
    if not all(side.isascii() and side.isdigit() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of sizes above zero; give channels, height and width, such as "
            "3,224,224"
        )
    return tuple(int(side) for side in sides)


def add_split(parser: argparse.ArgumentParser) -> None:
    """Adds --split."""
    parser.add_argument(
        "--split",
        action="store_true",
        help="where the end of the network cannot be mapped, and only that, cut it off: the host "
        "runs it, with ONNX Runtime",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the account; 0 if the model is supported, 2 otherwise.

    Raises:
        VitesseraError: the model cannot be read, or the JSON file cannot be written.
    """
    account = None if args.json is None else JsonFile(args.json, "inspect --json")
    check_outputs(account)
    inspection = inspect_confined(args.model, args.results, split=args.split, shape=args.shape)
    print(text(inspection, args.nodes, line_width()))
    if account is not None:
        account.write(_as_json(inspection))
    return 0 if inspection.supported else 2


def summary(inspection: Inspection) -> str:
    """One line: the number of nodes of each status, and the verdict."""
    counts = ", ".join(
        f"{inspection.count(status)} {status.value}" for status in _statuses(inspection)
    )
    if inspection.graph is None:
        return f"{len(inspection.rows)} nodes: {counts}. Not supported."
    operators = len(inspection.graph.nodes)
    text = f"{len(inspection.rows)} nodes: {counts}. Supported: {operators} operators."
    if inspection.images > 1:
        text += f" The file takes {inspection.images} images at once, the accelerator one."
    return text


def _statuses(inspection: Inspection) -> list[Status]:
    """Those that nodes may have: nothing is left to the host where nothing is cut off."""
    return [each for each in Status if each is not Status.LEFT or inspection.tail is not None]


def text(inspection: Inspection, nodes: bool, width: int | None = None) -> str:
    """The account for people: the verdict, the operators, the nodes that need a look, a way out.

    Args:
        inspection: the account.
        nodes: every node, not only those that are refused.
        width: characters of a line, if that is limited.
    """
    refused = [row for row in inspection.rows if row.status is Status.REFUSED]
    causes = [row for row in refused if not row.consequence]
    parts = [summary(inspection), _operators(inspection, width)]
    if nodes:
        parts.append(_nodes(NODES, inspection.rows, width))
    elif causes:
        parts.append(_nodes(REFUSED, causes, width))
        if behind := len(refused) - len(causes):
            parts.append(f"{behind} more nodes are refused because of these; --nodes lists them.")
    remarks = [*inspection.notes, *([inspection.offer] if inspection.offer else [])]
    parts += map(printable, remarks)
    return "\n\n".join(parts)


def _operators(inspection: Inspection, width: int | None) -> str:
    """How many nodes of each ONNX operator there are, and what becomes of them."""
    statuses, rows = _statuses(inspection), inspection.rows
    nodes = Counter(row.op_type for row in rows)
    counts = Counter((row.op_type, row.status) for row in rows)
    cells = [
        (kind, count, *(counts[kind, status] or "" for status in statuses))
        for kind, count in nodes.items()
    ]
    heads = ("nodes", *(status.value for status in statuses))
    return text_table((Column("ONNX operator", words=True), *map(Column, heads)), cells, width)


NODES = ("node", "operator", "status", "into / why not")
REFUSED = ("node", "operator", "why not")


def _nodes(heads: Sequence[str], rows: Sequence[Row], width: int | None) -> str:
    columns = [Column(head, words=True) for head in heads]
    cells = [(row.name, row.op_type, row.status.value, _account(row)) for row in rows]
    shown = cells if "status" in heads else [(name, kind, why) for name, kind, _, why in cells]
    return text_table(columns, shown, width)


def _account(row: Row) -> str:
    return f"{row.reason}. {row.remedy}" if row.status is Status.REFUSED else row.into


def _as_json(inspection: Inspection) -> dict[str, object]:
    return {
        "model": str(inspection.path),
        "supported": inspection.supported,
        "notes": list(inspection.notes),
        "nodes": [_record(row) for row in inspection.rows],
    }


def _record(row: Row) -> dict[str, str | bool]:
    return {
        "name": row.name,
        "op_type": row.op_type,
        "status": row.status.value,
        "into": row.into,
        "reason": row.reason,
        "remedy": row.remedy,
        "consequence": row.consequence,
    }
