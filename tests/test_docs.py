"""The documentation says what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from vitessera.codegen import toplevel
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.docs import FOLDER, PAGES, write_pages
from vitessera.codegen.errors import OutputError
from vitessera.codegen.hls import KERNELS
from vitessera.codegen.isa import INSTRUCTIONS, fields

ROOT = Path(__file__).parents[1]
FOLDERS = ("cli", "codegen", "docs", "examples", "hls", "host", "sim", "tests")
PAGES_READ = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(FOLDER.glob("*.md"))]
NAMING = [ROOT / "CONTRIBUTING.md", FOLDER / "architecture.md"]
SOURCE_TYPES = {".py", ".x", ".v", ".j2", ".sv", ".cpp"}

LINK = re.compile(r"\]\(([^)\s]+)\)")
# A path from the root, in backticks, in a command or in plain text; may hold an asterisk.
MENTION = re.compile(rf"(?<![\w./<-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")
HEADING = re.compile(r"^#+ (.*)$", re.M)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def called(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# --- Generated pages


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    committed = text(FOLDER / name) if (FOLDER / name).is_file() else ""
    if committed != PAGES[name]():
        pytest.fail(
            f"docs/{name} is not what the tables in codegen/ say. Run `make docs` "
            "(python -m vitessera.codegen.docs) and commit the result.",
            pytrace=False,
        )


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no folder .*nowhere.* clone"):
        write_pages(tmp_path / "nowhere")


def test_isa_page_shows_every_field_once() -> None:
    page = PAGES["isa.md"]()
    rows = re.findall(r"^\| [\d-]+ \| \d+ \| (\w+) \|", page, re.M)
    expected = [name for kind in INSTRUCTIONS for name in _field_names(kind)]
    assert rows == expected


def _field_names(kind: type) -> list[str]:
    return ["opcode", *(field.name for field in fields(kind))]


# --- Links, paths and names


@pytest.mark.parametrize("page", PAGES_READ, ids=called)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(text(page)) if "://" not in link]
    broken = [link for link in links if not _leads_somewhere(page, link)]
    assert not broken, f"{called(page)} links to what is not there: {', '.join(broken)}"


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    if not anchor or target.suffix != ".md":
        return target.exists()
    return target.is_file() and anchor in map(_anchor, HEADING.findall(text(target)))


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES_READ, ids=called)
def test_mentioned_files_exist(page: Path) -> None:
    paths = {path.rstrip(".") for path in MENTION.findall(text(page))}
    missing = sorted(path for path in paths if not any(ROOT.glob(path.rstrip("/"))))
    assert not missing, f"{called(page)} mentions what is not there: {', '.join(missing)}"


@pytest.mark.parametrize("page", NAMING, ids=called)
def test_names_in_backticks_are_in_the_sources(page: Path) -> None:
    words = set(re.findall(r"\w+", "\n".join(_sources())))
    names = set(NAME.findall(text(page)))
    unknown = sorted(name for name in names if not set(name.split(".")) <= words)
    assert not unknown, f"{called(page)} names what no source does: {', '.join(unknown)}"


def _sources() -> Iterator[str]:
    """The text of all sources; file names count too."""
    yield from (text(ROOT / name) for name in ("Makefile", "pyproject.toml"))
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in SOURCE_TYPES:
                yield path.name
                yield text(path)


# --- The block diagram: edges between units and memories are those of the tables

Edges = set[tuple[str, str]]


def diagram() -> str:
    (found,) = re.findall(r"```mermaid\n(.*?)```", text(FOLDER / "architecture.md"), re.S)
    return str(found)


def units() -> dict[str, str]:
    """Kernel instance → the block that it stands in."""
    blocks = re.findall(r'^ *(\w+)\["<b>.*?</b>(.*)"\]$', diagram(), re.M)
    return {
        instance: block
        for block, label in blocks
        for instance in re.split(r"<br/>|, ", label)
        if instance in toplevel.INSTANCES
    }


def drawn() -> Edges:
    edges: Edges = set()
    arrow = re.compile(r"^ *([\w& ]+?) (?:-->|-\.->)(?:\|[^|]*\|)? ([\w& ]+)$", re.M)
    for sources, sinks in arrow.findall(diagram()):
        edges |= {(a, b) for a in sources.split(" & ") for b in sinks.split(" & ")}
    return edges


def tabled() -> Edges:
    block = {f"{instance}.": unit for instance, unit in units().items()}

    def unit(end: str) -> str:
        return block[end[: end.index(".") + 1]]

    edges = {(unit(link.source), unit(link.sink)) for link in toplevel.links(HardwareConfig())}
    for memory, ports in toplevel.MEMORIES.items():
        edges |= {(unit(writer), f"m_{memory.value}") for writer in ports.writers}
        edges |= {(f"m_{memory.value}", unit(words)) for _, words in ports.readers}
    edges |= {("fetch", unit(sink)) for sink in toplevel.QUEUES.values()}
    for end in (*toplevel.EXTERNAL.values(), *toplevel.ERRORS):
        edges.add((unit(end), "shell") if end.endswith("_s") else ("shell", unit(end)))
    return {(source, sink) for source, sink in edges if source != sink}


def test_every_kernel_stands_in_the_diagram() -> None:
    assert units().keys() == toplevel.INSTANCES.keys()
    assert {toplevel.INSTANCES[instance] for instance in units()} == {k.name for k in KERNELS}


def test_the_diagram_has_the_edges_of_the_tables() -> None:
    missing, extra = tabled() - drawn(), drawn() - tabled()
    assert not missing and not extra, (
        f"docs/architecture.md and codegen/toplevel.py differ: missing {sorted(missing)}, "
        f"extra {sorted(extra)}"
    )
