"""The layer table of the README is the truth about the imports, function-level ones included."""

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bigspec"
BLOCKS_AND_NUMBERS = {
    "buffers",
    "blocks",
    "dense",
    "quantiles",
    "certificate",
    "kernels",
    "tokens",
}  # knows no Dask, no Zarr


@dataclass(frozen=True)
class Row:
    number: int
    modules: frozenset[str]
    imports: str
    others: frozenset[str]


def table():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Layers\n")[1]
    rows = []
    for line in section.splitlines():
        if re.match(r"\| \d+ \|", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            number, modules, _, imports, others = cells
            rows.append(Row(int(number), names(modules), imports, names(others)))
    return rows


def names(cell):
    return frozenset(re.findall(r"`(\w+)`", cell))


ROWS = table()
OWNER = {module: row for row in ROWS for module in row.modules}


def top_level(module):
    """`bigspec.passes.tasks` lives in the table as `passes`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 2:
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path):
    """Every module an import statement names, with `from package import module` resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = inside & set(MODULES)
            found.update(modules or {node.module})
            if modules != inside:
                found.add(node.module)
    return found


IMPORTS = {module: imported(path) for module, path in MODULES.items()}


def own(module):
    return {name for name in IMPORTS[module] if name.split(".")[0] == "bigspec"}


def foreign(module):
    tops = {name.split(".")[0] for name in IMPORTS[module]}
    return tops - {"bigspec", "__future__"} - sys.stdlib_module_names


def allowed(row):
    above = {name for other in ROWS if other.number < row.number for name in other.modules}
    if row.imports == "nothing":
        return set()
    if row.imports == "rows above":
        return above
    if row.imports == "rows above and its own row":
        return above | row.modules
    assert row.imports.startswith("only `"), f"row {row.number}: cannot read {row.imports!r}"
    listed = names(row.imports)
    assert listed <= above | row.modules, f"row {row.number} lists a module from below"
    return set(listed)


def test_each_module_belongs_to_exactly_one_row():
    listed = [module for row in ROWS for module in row.modules]
    assert len(listed) == len(set(listed))
    assert set(listed) == {top_level(module) for module in MODULES}
    assert [row.number for row in ROWS] == list(range(1, len(ROWS) + 1))


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_what_its_row_says(module):
    row = OWNER[top_level(module)]
    package = {row_module for row_module in [top_level(module)] if (PACKAGE / row_module).is_dir()}
    used = {top_level(name) for name in own(module)}
    assert used <= allowed(row) | package, f"{module} is in row {row.number}"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_the_packages_of_its_row(module):
    assert foreign(module) <= OWNER[top_level(module)].others


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row {row.number}")
def test_row_lists_no_package_that_it_does_not_use(row):
    used = set().union(*(foreign(m) for m in MODULES if top_level(m) in row.modules))
    assert row.others == used


def test_only_passes_imports_dask():
    users = {top_level(m) for m in MODULES if foreign(m) & {"dask", "distributed"}}
    assert users == {"passes"}


def test_blocks_and_numbers_know_only_numpy_and_scipy():
    for module in MODULES:
        if top_level(module) in BLOCKS_AND_NUMBERS:
            assert foreign(module) <= {"numpy", "scipy"}, module


def test_algorithms_do_not_import_one_another():
    shared = {
        f"bigspec.algorithms.{name}" for name in ("contract", "recurrence", "rounding", "start")
    }
    for module in MODULES:
        if module.startswith("bigspec.algorithms."):
            siblings = {name for name in own(module) if name.startswith("bigspec.algorithms")}
            assert siblings <= shared, module


def test_no_module_is_loaded_behind_the_table():
    """What the import statements do not show: importlib and __import__."""
    for module, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert "import_module" not in text, module
        assert "__import__" not in text, module
