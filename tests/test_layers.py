"""Imports point up one list, never down; what ties the code to a library or to the outside stands where it belongs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeshare

PACKAGE = Path(edgeshare.__file__).parent

# From what knows nothing of the rest to what knows all of it. A line with several names: they do not know one another.
LAYERS = (
    "__init__",
    "errors",
    "cycles hours units host networkmanager",
    "canonical vocabulary paths signing hashtree",
    "manifest",
    "layout publishers",
    "config",
    "catalogue crowd freshness limits listing ration refusals targets",
    "admission",
    "httpd",
    "library",
    "swarm trusted",
    "origin",
    "link sources view",
    "expected parts trust",
    "metadata pause",
    "holding",
    "holdings ledger prefetch",
    "stock",
    "precedence roll",
    "display",
    "keeper",
    "follow",
    "shim publish",  # a publisher has no node, and a node publishes nothing
    "bundle",
    "control",
    "daemon",
    "demo drill",
    "cli",
    "__main__",
)
RANKS = {part: rank for rank, names in enumerate(LAYERS) for part in names.split()}

# They decide, and leave acting to others: no socket, clock or event loop, and nothing of libtorrent.
CORE = (
    "admission.py",
    "canonical.py",
    "catalogue.py",
    "crowd.py",
    "freshness.py",
    "drill/report.py",
    "hashtree.py",
    "hours.py",
    "httpd/heads.py",
    "httpd/ranges.py",
    "httpd/rates.py",
    "layout.py",
    "library/room.py",
    "library/schedule.py",
    "limits.py",
    "manifest.py",
    "origin/backoff.py",
    "origin/throttle.py",
    "paths.py",
    "publishers.py",
    "ration.py",
    "signing.py",
    "swarm/outside.py",
    "units.py",
    "view.py",
)
OUTSIDE = {
    "asyncio",
    "httpx",
    "libtorrent",
    "os",
    "random",
    "select",
    "socket",
    "sqlite3",
    "subprocess",
    "time",
    "trio",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, *, with_types: bool = True) -> Iterator[str]:
    """The full names of what a module imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module="edgeshare", names=names):
                yield from (f"edgeshare.{name.name}" for name in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                if with_types or module != "random" or [name.name for name in names] != ["Random"]:
                    yield module


def part_of(name: str) -> str | None:
    """The part of edgeshare that a full name belongs to; None for other packages."""
    parts = name.split(".")
    if parts[0] != "edgeshare":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in RANKS else "__init__"


def own_part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_above_it(path: Path) -> None:
    own = own_part(path)
    assert own in RANKS, f"{own} has no place in the list yet"
    for name in imports(path):
        part = part_of(name)
        if part is not None and part != own:
            assert RANKS[part] < RANKS[own], f"{own} imports {name}"


def test_every_place_in_the_list_is_taken() -> None:
    assert {own_part(path) for path in modules()} == set(RANKS)


def test_only_the_swarm_and_the_maker_of_torrents_know_libtorrent() -> None:
    knowing = {str(path.relative_to(PACKAGE)) for path in modules() if "libtorrent" in imports(path)}
    swarm = {f"swarm/{name}.py" for name in ("events", "joining", "neighbours", "session", "torrent")}
    assert knowing == {"publish/torrent.py"} | swarm


def test_only_trust_and_publishing_know_tuf() -> None:
    knowing = {own_part(path) for path in modules() if any(name.startswith("tuf") for name in imports(path))}
    assert knowing <= {"refusals", "sources", "targets", "trust", "trusted", "publish"}


@pytest.mark.parametrize("module", CORE)
def test_what_decides_knows_nothing_of_the_outside(module: str) -> None:
    found = {name.partition(".")[0] for name in imports(PACKAGE / module, with_types=False)}
    assert found.isdisjoint(OUTSIDE), found & OUTSIDE


def test_nothing_below_the_command_line_prints_or_exits() -> None:
    for path in modules():
        if own_part(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("print", "exit", "sys.exit", "os._exit"), path
