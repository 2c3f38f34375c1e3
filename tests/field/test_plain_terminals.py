"""Locales without UTF-8: files are UTF-8 all the same, and what is printed is readable."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from invocation import DIGITS, ROOT
from vitessera.cli.terminal import PLAIN, guarded

ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
TEXT_CALLS = {"read_text", "write_text", "fdopen", "open", "run", "Popen"}
BINARY_OPENERS = {
    "os",
    "tarfile",
    "archive",
    "Image",
}  # whose `open` gives bytes, or something else


# Python itself says where the locale's encoding would be taken, in the readers of libraries, too.
STRICT = """\
import sys, warnings
from vitessera.cli.main import main
warnings.filterwarnings("error", category=EncodingWarning, module=r"vitessera\\.")
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_model_is_compiled_where_the_locale_is_ascii(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "warn_default_encoding", "-c", STRICT, "compile"]
    arguments = [*command, str(DIGITS / "vit_digits.onnx"), "-o", str(tmp_path / "build")]
    ended = subprocess.run(arguments, env={**os.environ, **ASCII}, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert b"pixels x0.00416667, resized to 8x8" in ended.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_stream_cannot_show_is_written_in_other_characters(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding))
    text = "pixels ×2, load → compute, 猫 é"
    with guarded():
        print(text)
        sys.stdout.flush()
    there = "".join(
        each if each.encode(encoding, "ignore") else PLAIN.get(each) or ascii(each)[1:-1]
        for each in text
    )
    assert shown.getvalue().decode(encoding) == f"{there}\n"


def test_our_own_characters_all_have_others_that_stand_in() -> None:
    """Those of texts that are shown; a formula in a comment or docstring is not."""
    found = {
        character
        for _, tree in sources()
        for text in shown_texts(tree)
        for character in text
        if character.isprintable() and not character.isascii()
    }
    assert found <= PLAIN.keys()


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("cli", "codegen", "host", "sim", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def shown_texts(tree: ast.Module) -> Iterator[str]:
    """String constants, but for docstrings and patterns."""
    others = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) or is_pattern(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in others:
            yield node.value


def is_pattern(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile"


def test_every_text_file_is_opened_as_utf_8() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path, tree in sources()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and takes_the_locale(call)
    ]
    assert not wrong, f"encoding='utf-8' is missing in {', '.join(wrong)}"


def takes_the_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text, and does not say in which encoding."""
    function = call.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name not in TEXT_CALLS or "encoding" in keywords:
        return False
    if name in {"run", "Popen"}:
        return "text" in keywords or "universal_newlines" in keywords
    if name in {"open", "fdopen"}:
        return not opens_bytes(call)
    return True


def opens_bytes(call: ast.Call) -> bool:
    """Whether an `open` is one for bytes, or of something other than a path or a descriptor."""
    method = isinstance(call.func, ast.Attribute) and call.func.attr == "open"
    if method and not takes_mode_first(call):
        return True
    given = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    return any(isinstance(mode, str) and "b" in mode for mode in given)


def takes_mode_first(call: ast.Call) -> bool:
    """As a path's `open` does; an archive's or a library's takes a file."""
    return isinstance(call.args[0], ast.Constant) if call.args else not call.keywords
