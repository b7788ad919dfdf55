"""The library is built in floors (docs/floors.py): read from its imports, also from those inside functions."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from floors import FLOORS  # noqa: E402


def modules(package):
    """{name: file} of a package's modules; a package by itself is its __init__.py."""
    files = {".".join(f.relative_to(package.parent).with_suffix("").parts): f for f in sorted(package.rglob("*.py"))}
    return {name.removesuffix(".__init__"): file for name, file in files.items()}


def imported(name, file, known):
    """The modules of `known` that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively; the other files do not"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one in known else node.module for one in whole}
    return found & set(known)


def graph(package):
    known = modules(package)
    return {name: imported(name, file, known) for name, file in known.items()}


def floor_of(file, package, floors):
    """The number of the floor whose path fits a file best, or None."""
    path = file.relative_to(package).as_posix()
    fits = [(len(one), i) for i, floor in enumerate(floors) for one in floor.paths if path.startswith(one)]
    return max(fits)[1] if fits else None


def upward(package, floors):
    """A sentence for every import of what is not above."""
    known = modules(package)
    floor = {name: floor_of(file, package, floors) for name, file in known.items()}
    edges = [(name, other) for name, others in graph(package).items() for other in others]
    return sorted(f"{name} imports {other}" for name, other in edges if floor[other] > floor[name])


def circle(package):
    """The modules of an import circle, or None."""
    try:
        TopologicalSorter(graph(package)).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def at_module_level(tree):
    """All nodes but those inside functions and classes."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            yield from at_module_level(node)


def shadowed(package):
    """Names that are a module of a package, and something else in its __init__.py."""
    known, found = modules(package), []
    for name, file in known.items():
        for node in at_module_level(ast.parse(file.read_text("utf-8"))) if file.name == "__init__.py" else ():
            if isinstance(node, ast.ImportFrom):
                bound = {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound = {node.name: ""}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound = {node.id: ""}
            else:
                continue
            found += [f"{name}.{b}" for b, origin in bound.items() if f"{name}.{b}" in known and origin not in known]
    return found


PACKAGE = ROOT / "musiq_ref"


def test_every_file_is_on_a_floor_and_every_floor_has_files():
    floors = {file: floor_of(file, PACKAGE, FLOORS) for file in modules(PACKAGE).values()}
    assert [file for file, floor in floors.items() if floor is None] == []
    assert set(floors.values()) == set(range(len(FLOORS)))


def test_each_floor_imports_only_what_is_above_it():
    assert upward(PACKAGE, FLOORS) == []


def test_no_imports_go_in_circles():
    assert circle(PACKAGE) is None


def test_no_name_is_a_module_and_something_else():
    assert shadowed(PACKAGE) == []


def test_the_picture_and_the_page_show_these_floors():
    picture = (ROOT / "docs" / "images" / "floors.svg").read_text("utf-8")
    places = [picture.find(f"{', '.join(floor.paths)}: {floor.what}") for floor in FLOORS]
    assert -1 not in places, "draw it again: python docs/draw.py"
    assert places == sorted(places)
    assert "images/floors.svg" in (ROOT / "docs" / "architecture.md").read_text("utf-8")


GOOD = {
    "__init__.py": "from house.attic.roof import tiles\n",
    "ground.py": "",
    "attic/__init__.py": "from house.attic.roof import tiles\n",
    "attic/roof.py": "from house import ground\ntiles = 1\n",
}
HOUSE = (FLOORS[0]._replace(paths=("ground.py",)), FLOORS[0]._replace(paths=("attic/", "__init__.py")))


def built(folder, **changes):
    """A small package of two floors, with some of its files changed."""
    package = folder / "house"
    for name, text in (GOOD | {name.replace("__", "/") + ".py": text for name, text in changes.items()}).items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def test_a_sound_house_is_found_sound(tmp_path):
    package = built(tmp_path)
    assert (upward(package, HOUSE), circle(package), shadowed(package)) == ([], None, [])


@pytest.mark.parametrize(
    "line",
    [
        "import house.attic.roof",
        "from house.attic import roof",
        "from house.attic.roof import tiles",
        "def late():\n    from house.attic.roof import tiles",
        "try:\n    import house.attic.roof as r\nexcept ImportError:\n    pass",
    ],
)
def test_a_planted_import_from_below_is_found(tmp_path, line):
    package = built(tmp_path, ground=line + "\n")
    assert upward(package, HOUSE) == ["house.ground imports house.attic.roof"]
    assert set(circle(package)) >= {"house.ground", "house.attic.roof"}


def test_a_planted_circle_on_one_floor_is_found(tmp_path):
    package = built(
        tmp_path, attic__roof="import house.attic.beam\ntiles = 1\n", attic__beam="import house.attic.roof\n"
    )
    assert upward(package, HOUSE) == []
    assert set(circle(package)) == {"house.attic.roof", "house.attic.beam"}


@pytest.mark.parametrize(
    "line", ["from house.attic.roof import tiles as roof", "def roof(): ...", "class roof: ...", "roof = 1"]
)
def test_a_planted_namesake_is_found(tmp_path, line):
    package = built(tmp_path)
    (package / "attic" / "__init__.py").write_text(line + "\n")
    assert shadowed(package) == ["house.attic.roof"]


def test_a_file_on_no_floor_is_found(tmp_path):
    package = built(tmp_path, shed="")
    assert floor_of(package / "shed.py", package, HOUSE) is None
