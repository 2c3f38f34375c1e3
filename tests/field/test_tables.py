"""Tables on terminals of 80 and 120 columns, and where there is no terminal."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from invocation import DIGITS, in_a_terminal
from vitessera.cli.boards import _tables
from vitessera.cli.inspect import text
from vitessera.codegen.boards import BOARDS
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.importer import Inspection, Row, Status, inspect_model
from vitessera.codegen.report import report
from vitessera.codegen.resources import Resources
from vitessera.codegen.schedule.product import product_program
from vitessera.codegen.synthesis import ResourceReport
from vitessera.codegen.tables import Column, grouped, text_table

LONG = "/vit/encoder/layer.{}/attention/attention/query/MatMul"
NUMBER = re.compile(r"(?<!\S)\d[\d,.]*(?!\S)")


def numbers(shown: str) -> Counter[str]:
    """All numbers that stand by themselves."""
    return Counter(NUMBER.findall(shown))


def longest(shown: str) -> int:
    return max(map(len, shown.splitlines()))


def refused(count: int) -> Inspection:
    """A large model with refused nodes, and others that are refused because of them."""
    rows = [Row(LONG.format(n), "MatMul", Status.MAPPED, f"query{n}") for n in range(count)]
    why = "the product of two results has no instruction"
    rows.append(Row("gate", "Mul", Status.REFUSED, "", why, "Export the model without gates"))
    because = ("it takes the result of 'gate'", "See there", True)
    rows += [Row(LONG.format("x"), "Add", Status.REFUSED, "", *because) for _ in range(20)]
    return Inspection(Path("model.onnx"), tuple(rows), None)


def resources() -> ResourceReport:
    modules = {"tile_engine": Resources(1_234_567, 1_087_654, 100.5, 3, 4_096)}
    return ResourceReport(modules, BOARDS["rfsoc4x2"], HardwareConfig())


def program(width: int | None) -> str:
    cycles = {"patches": 123_456_789, "result": 1}
    config = HardwareConfig(tile=8, depth=4, lanes=8)
    return report(product_program(config, 64, 64, 64), cycles).to_text(width)


TABLES = {
    "inspect": lambda width: text(refused(2), nodes=False, width=width),
    "inspect --nodes": lambda width: text(refused(2), nodes=True, width=width),
    "report": program,
    "report --resources": lambda width: resources().to_text(width),
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", TABLES)
def test_no_line_is_too_long_and_no_number_cut(name: str, width: int) -> None:
    shown, whole = TABLES[name](width), TABLES[name](None)
    assert longest(shown) <= width
    assert numbers(shown) == numbers(whole)


@pytest.mark.parametrize("columns", [80, 120])
def test_boards_on_a_terminal(columns: int) -> None:
    code, lines = in_a_terminal(columns, "boards")
    assert code == 0
    assert max(map(len, lines)) <= columns
    shown = "\n".join(lines)
    assert numbers(shown) == numbers(_tables(list(BOARDS.values())))
    assert all(board.part in shown for board in BOARDS.values())


def test_long_names_are_folded_after_a_separator() -> None:
    shown = text_table(
        (Column("node", words=True), Column("MACs")), [(LONG.format(11), "1,024")], 40
    )
    assert shown.splitlines() == [
        "node                               MACs",
        "/vit/encoder/layer.11/attention/  1,024",
        "attention/query/MatMul",
    ]


def test_heads_stand_above_their_numbers_and_are_folded_before_they_make_a_line_too_long() -> None:
    columns = (Column("board", words=True), Column("DDR GB/s"), Column("on chip KiB"))
    assert text_table(columns, [("z2", "2.1", "484")]).splitlines() == [
        "board  DDR GB/s  on chip KiB",
        "z2          2.1          484",
    ]
    assert text_table(columns, [("z2", "2.1", "484")], 20).splitlines() == [
        "               on",
        "        DDR  chip",
        "board  GB/s   KiB",
        "z2      2.1   484",
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (14.5, "14.5"), (140.0, "140"), (1_234_567, "1,234,567")]
)
def test_large_counts_keep_all_digits(value: float, shown: str) -> None:
    assert grouped(value) == shown


def test_a_model_that_compiles_is_summed_up_by_operator() -> None:
    """The verdict first, then a line an operator; nodes only when asked for."""
    inspection = inspect_model(DIGITS / "vit_digits.onnx")
    shown = text(inspection, nodes=False).splitlines()
    assert shown[0] == "92 nodes: 55 mapped, 37 folded, 0 refused. Supported: 41 operators."
    assert [line.split() for line in shown[2:4]] == [
        ["ONNX", "operator", "nodes", "mapped", "folded", "refused"],
        ["Conv", "1", "1"],
    ]
    assert sum(int(line.split()[1]) for line in shown[3:]) == 92
    assert len(text(inspection, nodes=True).splitlines()) == len(shown) + 1 + 1 + 92


def test_of_a_refused_model_only_the_refused_nodes_are_listed() -> None:
    """Those that are refused for themselves; how many follow from them is a number."""
    verdict, operators, nodes, behind = text(refused(300), nodes=False).split("\n\n")
    assert verdict.endswith("Not supported.")
    assert operators.splitlines()[1].split() == ["MatMul", "300", "300"]
    assert [line.split()[0] for line in nodes.splitlines()] == ["node", "gate"]
    assert behind == "20 more nodes are refused because of these; --nodes lists them."
