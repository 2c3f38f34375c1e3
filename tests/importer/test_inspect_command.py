"""`vitessera inspect`: with --nodes every node on a line, names whole, exit code telling."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import onnx
import pytest
from onnx_builder import Net, Recipe, build
from vitessera.cli import inspect
from vitessera.codegen.errors import OutputError, UnsupportedModelError

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "vit_digits.onnx"


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    inspect.add_parser(parser.add_subparsers())
    args = parser.parse_args(["inspect", *map(str, arguments)])
    return int(args.run(args))


def test_supported_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(DIGITS, "--nodes") == 0
    printed = capsys.readouterr().out
    for node in onnx.load(DIGITS).graph.node:
        assert f"\n{node.name} " in printed
    assert printed.splitlines()[0].endswith("0 refused. Supported: 41 operators.")


def test_refused_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a/very/long/name/[with/brackets]/" + "x" * 200

    def softplus(net: Net, x: str) -> str:
        return net.op("Softplus", x, name=name)

    net, output = build(Recipe(activation=softplus))
    path = net.save(tmp_path / "model.onnx", output)
    assert run(path, "--json", tmp_path / "account.json") == 2
    printed = capsys.readouterr().out
    assert name in printed
    assert "Softplus is not supported" in printed
    assert printed.splitlines()[0].endswith("1 refused. Not supported.")
    account = json.loads((tmp_path / "account.json").read_text())
    assert account["supported"] is False
    assert [node["name"] for node in account["nodes"]] == [node.name for node in net.nodes]
    (refused,) = (node for node in account["nodes"] if node["status"] == "refused")
    assert refused["name"] == name
    assert refused["remedy"]


def test_results_that_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def softmax(net: Net, x: str) -> str:
        return net.op("Softmax", net.op("Identity", x, name="logits"), axis=-1)

    net, output = build(Recipe(finish=softmax))
    path = net.save(tmp_path / "model.onnx", output)
    assert run(path) == 2
    assert run(path, "--results", "logits") == 0
    assert "0 refused" in capsys.readouterr().out
    with pytest.raises(UnsupportedModelError, match=r"called 'loggits'.*outputs are 'softmax_"):
        run(path, "--results", "loggits")


def test_account_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        run(DIGITS, "--json", tmp_path / "no" / "folder.json")
