"""docs/architecture.md is the truth: its rooms, its five rules of imports, its table of places."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bigspec"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
AGAINST = {("matrices", "expressions"), ("matrices", "sources")}  # the page has the reason


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text):
    """The cells of every table row whose first cell is in backticks or a text."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set(row[0]) <= set("-") and row[0] != "room"]


def names(cell):
    return set(re.findall(r"`([\w./]+)`", cell))


ROOMS = {next(iter(names(row[0]))) for row in rows(section("The rooms"))}
MAY = {
    next(iter(names(row[0]))): names(row[1])
    for row in rows(section("Five rules of imports").split("| package from outside")[0])
}
OUTSIDE = {
    name: names(row[1])
    for row in rows("|p|\n| package from outside" + PAGE.split("| package from outside")[1])
    for name in names(row[0])
    if "only in" not in row[1] and "/" not in row[1]
}


def modules():
    """Every module of the package with its room: the part of its name after `bigspec`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield path, "" if parts in {("__init__",), ("__main__",)} else parts[0]


MODULES = dict(modules())


@cache
def imports(path):
    """Every import as (dotted name, names taken from it), those in functions included."""
    return tuple(found_in(path))


def found_in(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            taken = [alias.name for alias in node.names]
            if node.module == "bigspec":
                yield from ((f"bigspec.{name}", []) for name in taken)
            else:
                yield node.module, taken


def own_rooms(path):
    return {name.split(".")[1] for name, _ in imports(path) if name.startswith("bigspec.")}


def test_the_page_names_every_room_and_no_other():
    there = {room for room in MODULES.values() if room}
    assert there == ROOMS == set(MAY)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_what_its_rule_allows_and_all_of_that(room):
    paths = [path for path, own in MODULES.items() if own == room]
    used = set().union(*map(own_rooms, paths)) - {room}
    used -= {other for one, other in AGAINST if one == room}
    assert used <= MAY[room]


def test_the_imports_against_the_rules_stand_in_functions():
    for room, other in AGAINST:
        tree = ast.parse((PACKAGE / f"{room}.py").read_text(encoding="utf-8"))
        outside = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any(other in ast.unparse(node) for node in outside)
        assert other in own_rooms(PACKAGE / f"{room}.py")


def test_no_circle_between_rooms():
    done = set()
    while len(done) < len(MAY):
        free = {room for room, below in MAY.items() if room not in done and below <= done}
        assert free, f"a circle among {set(MAY) - done}"
        done |= free


def test_no_room_takes_a_private_name_of_another_module():
    for path in MODULES:
        for module, taken in imports(path):
            if module.startswith("bigspec"):
                private = [name for name in taken if re.match(r"_[a-z]", name)]
                assert not private, f"{path}: {private} of {module}"


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_a_package_from_outside_is_used_only_where_the_page_says(name):
    users = {
        room
        for path, room in MODULES.items()
        for module, _ in imports(path)
        if module.split(".")[0] == name
    }
    assert users == OUTSIDE[name]


def test_kernels_and_certificate_know_only_numpy_and_scipy():
    standard = {"numpy", "scipy", "bigspec", "__future__"}
    for path, room in MODULES.items():
        if room in {"kernels", "certificate", "algorithms"}:
            used = {module.split(".")[0] for module, _ in imports(path)}
            assert not used & set(OUTSIDE), path
            assert used & {"numpy", "scipy", "zarr"} <= standard, path


def test_passes_take_only_iterates_of_the_algorithms():
    taken = [
        f"{module}.{name}"
        for path, room in MODULES.items()
        if room == "passes"
        for module, names_ in imports(path)
        if module.startswith("bigspec.algorithms")
        for name in names_
    ]
    assert set(taken) == {"bigspec.algorithms.iterates"}


def test_only_iterates_computes_with_blocks():
    """The products and factorisations left in `run` and `passes` are of small matrices."""
    factors = {"qr", "svd", "norm", "eigh", "solve"}
    small = {"images.py": 2, "single.py": 2}  # pinv(R) (Q^H V), norms of Gram matrices, R of R
    found = {}
    for path, room in MODULES.items():
        if room not in {"run", "passes", "api"}:
            continue
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        count = sum(
            (isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult))
            or (isinstance(node, ast.Attribute) and node.attr in factors
                and ast.unparse(node.value) == "np.linalg")
            for node in tree
        )  # fmt: skip
        if count:
            found[path.name] = count
    assert found == small | {"vectors.py": 1}  # the triangular factor of Y


def test_algorithms_do_not_import_one_another():
    shared = {"contract", "registry", "block_lanczos", "rounding", "start", "iterates"}
    for path, room in MODULES.items():
        if room == "algorithms" and path.name != "__init__.py":
            used = [m.split(".")[2] for m, _ in imports(path) if m.count(".") == 2]
            siblings = {m for m in used if (PACKAGE / "algorithms" / f"{m}.py").exists()}
            assert siblings <= shared, path


def test_no_module_is_loaded_by_its_name():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert "import_module" not in text, path
        assert "__import__" not in text, path


LAZY = {path.with_suffix(".py"): path for path in PACKAGE.rglob("*.pyi")}


def test_only_a_package_with_a_stub_leaves_its_names_to_the_lazy_loader():
    users = {path for path in MODULES if "lazy_loader" in {name for name, _ in imports(path)}}
    assert users == set(LAZY)
    assert {path.name for path in users} == {"__init__.py"}


@pytest.mark.parametrize("path", LAZY, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_stub_names_what_there_is_in_its_own_room_and_nothing_else(path):
    tree = ast.parse(LAZY[path].read_text(encoding="utf-8"))
    taken = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert all(node.level == 1 for node in taken)
    package = ".".join(path.parent.relative_to(ROOT).parts)
    listed = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    module = importlib.import_module(package)
    assert set(ast.literal_eval(listed)) >= set(module.__all__)
    assert all(getattr(module, name) is not None for name in ast.literal_eval(listed))


def test_only_the_commands_import_the_whole_package():
    users = {
        room for path, room in MODULES.items() for name, _ in imports(path) if name == "bigspec"
    }
    assert users == {"cli"}


def test_every_place_to_open_is_there():
    table = rows(section("To change this, open that"))
    places = [names(row[1]) for row in table if names(row[1])]
    assert len(places) >= 20
    for place in set().union(*places):
        assert (ROOT / place).is_file(), place


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_in_one_sentence_what_is_found_there(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, path
    assert text.splitlines()[0].rstrip().endswith((".", ":")), path


LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 400, 60, 6


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_read_at_one_sitting(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        said = ast.get_docstring(node, clean=False) or ""  # of public functions, a page of its own
        length = node.end_lineno - node.lineno + 1 - len(said.splitlines())
        assert length <= LONGEST_FUNCTION, f"{node.name}: {length} lines of code"
        given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        inner = len([name for name in given if name not in {"self", "cls"}])
        if node.name.startswith("_") and not node.name.endswith("__"):
            assert inner <= MOST_PARAMETERS, f"{node.name}: {inner} parameters"
