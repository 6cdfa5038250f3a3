"""What is shown is run: every block of the README and of docs/, every table, every link.

Blocks by their language tag:

- ``python``: executed; the blocks of a page share one namespace. A ``text`` block that follows is
  what they print.
- ``console``: each ``$ `` line is run; ``$ echo $?`` shows the exit status of the line before it
  (0 otherwise), the other lines what is printed.
- ``diagram``: drawn with characters; not run.
- ``bash``: install lines, each of them known here; not run (CI runs the test command).

Output is compared with every number (and unit) masked: seeds, times and last digits differ. ``...``
stands for anything.
"""

import builtins
import contextlib
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from scipy.sparse.linalg import LinearOperator

import bigspec
from benchmarks import closing
from bigspec import errors
from bigspec.cli import statuses
from bigspec.conversion.writing import GroupWriter
from bigspec.sources import retries
from tests.program import Program

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = (
    "tests/data/matrices/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "examples/data/README.md",
)
PROSE = [*PAGES, *(ROOT / name for name in OTHERS)]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]

MAIN = (
    "python3 -m venv .venv && .venv/bin/pip install -q . && "
    ".venv/bin/bigspec norm examples/data/fashion_mnist.zarr"
)
TEST = (
    'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && .venv/bin/python -m pytest'
)


# Reading the pages ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


def blocks(page):
    found, language, start, lines = [], None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.lstrip().startswith("```"):
            lines.append(line)
        elif language is None:
            language, start, lines = line.strip().removeprefix("```"), number, []
        else:
            assert line == "```", f"{page.name}:{number}: a block is not closed"
            found.append(Block(language, "\n".join(lines) + "\n", start))
            language = None
    assert language is None, f"{page.name}:{start}: a block is not closed"
    return found


def tables(text):
    """Rows of cells of every table; the heading row comes first."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"\s*(?<!\\)\|\s*", line.strip().strip("|").strip())
            rows.append(cells)
        elif rows:
            found.append(rows[:1] + rows[2:])
            rows = []
    return found


def masked(text):
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|\binf\b"
    text = re.sub(rf"(?:{number})(?:\s*(?:[KMGT]i?B|kB|B|s)\b)?", "#", text)
    return re.sub(r"[ \t]+", " ", text).strip()


def shows(shown, printed):
    pattern = ".*".join(re.escape(masked(part)) for part in shown.split("..."))
    return re.fullmatch(pattern.replace(r"\ .*", r"\s?.*"), masked(printed), re.DOTALL) is not None


@dataclass
class Command:
    line: str
    status: int = 0
    shown: str = ""


def commands(block):
    found = []
    asked = False
    for line in block.text.splitlines():
        if line == "$ echo $?":
            asked = True
        elif line.startswith("$ "):
            found.append(Command(line.removeprefix("$ ")))
            asked = False
        elif asked:
            found[-1].status = int(line)
        else:
            found[-1].shown += line + "\n"
    return found


# Running them --------------------------------------------------------------------------------


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A directory of the reader's own, with examples/ in reach."""
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def program():
    with Program() as program:
        yield program.command


def run_command(command, cwd, program=f"{sys.executable} -m bigspec"):
    script = f'bigspec() {{ {program} "$@"; }}\n{command.line}\n'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        # As in a terminal of a reader. GNU readline sets it unseen by os.environ, and a test that
        # sets and deletes it takes it from all later ones.
        env=os.environ | {"COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == command.status, f"$ {command.line}\n{done.stdout}"
    assert shows(command.shown, done.stdout), f"$ {command.line}\nprints\n{done.stdout}"


OPTIONAL = {"training.md": "torch"}
"""What the blocks of a page need, where the extra `test` does not bring it; then it is skipped."""


# Its commands are started as a reader starts them; those of all other pages by `Program`.
STARTED = "tutorial.md"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_runs(page, reader, program):
    if page.name in OPTIONAL:
        pytest.importorskip(OPTIONAL[page.name])
    namespace = {"__name__": "__docs__"}
    printed = ""
    for block in blocks(page):
        place = f"{page.name}:{block.line}"
        if block.language == "python":
            out = io.StringIO()
            code = compile("\n" * block.line + block.text, str(page), "exec")
            with contextlib.redirect_stdout(out):
                exec(code, namespace)  # noqa: S102, RUF100 - our own pages
            printed = out.getvalue()
        elif block.language == "text":
            assert printed, f"{place}: nothing was printed before this block"
            assert shows(block.text, printed), f"{place}: prints\n{printed}"
            printed = ""
        elif block.language == "console":
            for command in commands(block):
                run_command(command, reader, *([] if page.name == STARTED else [program]))
        elif block.language != "diagram":
            assert block.language == "bash", f"{place}: unknown language {block.language!r}"
            assert block.text.strip() in (MAIN, TEST), f"{place}: not a known install line"


def test_readme_has_both_commands_and_each_is_one_line():
    shown = [b.text for b in blocks(ROOT / "README.md") if b.language == "bash"]
    assert shown == [f"{MAIN}\n", f"{TEST}\n"]


def test_readme_is_read_in_one_go():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_the_picture_of_the_readme_is_of_a_real_run():
    drawn = closing.drawing(closing.run())
    kept = (ROOT / "docs" / "closing.svg").read_text(encoding="utf-8")
    assert re.sub(r"[\d.e+-]+", "#", drawn) == re.sub(r"[\d.e+-]+", "#", kept)
    given, again = (
        np.array([float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)]) for text in (kept, drawn)
    )
    np.testing.assert_allclose(given, again, rtol=0.2, atol=3)


def test_ci_runs_the_test_command_of_the_readme():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines.count(f"command='{TEST}'") == 1
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_command_hides_outside_a_block(page):
    """An indented block is for formulas: nothing in it looks like something to run."""
    outside = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    assert not re.search(r"^\s+(\$ |>>> |import |from \w+ import )", outside, flags=re.MULTILINE)


def test_docs_mask_only_numbers():
    assert shows("read 15.7 MB in 0.17 s, width 2.6e-06", "read 3 GB in 12 s, width 0.1")
    assert shows("a ... z", "a b\nc z")
    assert not shows("Christoffel 1", "Lehmann 1")
    assert not shows("1 pass", "1 pass\nmore")


# Tables --------------------------------------------------------------------------------------


def test_errors_page_lists_every_class_with_its_exit_status():
    rows = tables((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))[0][1:]
    listed = {row[0].strip("`"): row for row in rows}
    assert sorted(listed) == sorted(errors.__all__)
    for name, row in listed.items():
        kind = getattr(errors, name)
        builtin = getattr(builtins, row[1].strip("`"))
        assert issubclass(kind, builtin), name
        assert int(row[2]) == kind.exit_status, name


def test_exit_statuses_of_the_command_line_are_documented():
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    listed = {int(row[0]) for row in tables(text)[1][1:]}
    listed |= {int(row[2]) for row in tables(text)[0][1:]}
    named = {
        int(status)
        for status in re.findall(r"(?:^| {3})(?: {2})?(\d+) ", statuses.STATUSES, re.MULTILINE)
    }
    assert (
        named
        | {
            statuses.BUG,
            statuses.CANNOT_WRITE,
            statuses.SAVED,
        }
        <= listed
    )


def zarr_array(path, A, chunks):
    store = zarr.create_array(path, shape=A.shape, chunks=chunks, dtype=A.dtype, overwrite=True)
    store[:] = A


def ask_cluster_that_is_not_there():
    with bigspec.connect(scheduler="tcp://127.0.0.1:1", timeout=1):
        pass


def not_a_matrix():
    zarr_array("B.zarr", np.zeros((4, 5, 6)), (4, 5, 6))
    bigspec.norm("B.zarr")


def not_finite():
    A = np.ones((200, 50))
    A[150, 7] = np.nan
    zarr_array("N.zarr", A, (100, 50))
    bigspec.norm("N.zarr")


def wrong_adjoint():
    A = np.random.default_rng(0).standard_normal((20, 10))
    operator = LinearOperator(
        A.shape, matvec=lambda x: A @ x, rmatvec=lambda y: 2 * (A.T @ y), dtype=float
    )
    bigspec.norm(operator)


def damaged_chunk():
    shutil.copytree("A.zarr", "D.zarr")
    chunk = Path("D.zarr/c/1/0")
    chunk.write_bytes(chunk.read_bytes()[:100])
    bigspec.norm("D.zarr")


def not_zarr():
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("nothing here")
    bigspec.norm("folder")


def silent_store():
    raise retries.named_failure(TimeoutError("timed out"), "A.zarr", "c/1/0")


def changed_matrix():
    class Writer(bigspec.watch.Observer):
        def pass_finished(self, record):
            zarr.open_array("A.zarr")[3:5] = 7.0

    bigspec.norm("A.zarr", algorithm="power", rtol=1e-9, pin=False, progress=Writer())


def another_run():
    bigspec.norm("A.zarr", checkpoint="run", seed=1)
    bigspec.norm("A.zarr", checkpoint="run", seed=2)


def checkpoint_in_use():
    class Second(bigspec.watch.Observer):
        def pass_finished(self, record):
            bigspec.norm("A.zarr", checkpoint="run")

    bigspec.norm("A.zarr", checkpoint="run", progress=Second())


def not_a_history():
    Path("h.sqlite").write_text("notes, and more of them than a page of SQLite's has in front" * 99)
    bigspec.History("h.sqlite").rows()


def full_disk():
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupWriter, "put", full)
        bigspec.convert(sp.eye_array(4, format="coo"), "B.zarr")


RAISES = {
    "DestinationError": full_disk,
    "HistoryError": not_a_history,
    "ResumeError": another_run,
    "MatrixChangedError": changed_matrix,
    "CheckpointError": lambda: bigspec.norm("A.zarr", checkpoint="A.zarr"),
    "CheckpointInUseError": checkpoint_in_use,
    "ArgumentError": lambda: bigspec.norm("A.zarr", rtol=2),
    "MemoryLimitError": lambda: bigspec.norm("A.zarr", memory_limit="1MiB"),
    "DataError": not_a_matrix,
    "UnsupportedTypeError": lambda: bigspec.norm(np.array([["one", "two"]])),
    "NonFiniteError": not_finite,
    "AdjointError": wrong_adjoint,
    "ChunkError": damaged_chunk,
    "SourceError": not_zarr,
    "MissingSourceError": lambda: bigspec.norm("missing.zarr"),
    "StoreUnavailableError": silent_store,
    "ClusterError": ask_cluster_that_is_not_there,
}


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"BigspecError"}))
def test_example_message_is_the_real_one(name, reader):
    zarr_array("A.zarr", np.random.default_rng(0).standard_normal((200, 50)), (100, 50))
    rows = tables((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))[0][1:]
    message = next(row[3] for row in rows if row[0] == f"`{name}`")
    with pytest.raises(getattr(errors, name)) as caught:
        RAISES[name]()
    assert type(caught.value).__name__ == name
    assert shows(message.strip("`"), str(caught.value)), str(caught.value)


def dotted(value, prefix=""):
    """Names of all leaves: ``a.b`` in objects, ``a[].b`` in lists of objects."""
    if isinstance(value, dict):
        return {
            name
            for key, inner in value.items()
            for name in dotted(inner, f"{prefix}.{key}" if prefix else key)
        }
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {name for item in value for name in dotted(item, f"{prefix}[]")}
    return {prefix}


def documented(heading):
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    names = [row[0].strip("`") for row in tables(section)[0][1:]]
    assert len(names) == len(set(names))
    return set(names)


@pytest.mark.parametrize("source", ["store", "array", "dask", "operator"])
@pytest.mark.parametrize("algorithm", ["lanczos", "power"])
def test_json_page_has_the_fields_of_estimates(source, algorithm, reader):
    A = np.random.default_rng(0).standard_normal((60, 20))
    zarr_array("A.zarr", A, (30, 20))
    a = {
        "store": "A.zarr",
        "array": A,
        "dask": da.from_array(A, chunks=(30, 20)),
        "operator": LinearOperator(
            A.shape, matvec=lambda x: A @ x, rmatvec=lambda y: A.T @ y, dtype=float
        ),
    }[source]
    data = bigspec.norm(a, algorithm=algorithm, max_passes=2).to_dict()
    assert dotted(data) == documented("Estimate")
    assert dotted(bigspec.plan(a).to_dict()) == documented("Plan")


def test_json_page_has_the_fields_of_triplets(reader):
    data = bigspec.svds("examples/data/fashion_mnist.zarr", 3, max_passes=2).to_dict()
    assert dotted(data) == documented("Triplets")


def test_json_page_has_the_fields_of_a_checkpoint(reader):
    zarr_array("A.zarr", np.random.default_rng(0).standard_normal((60, 20)), (30, 20))
    bigspec.norm("A.zarr", checkpoint="run", max_passes=1)
    data = bigspec.show("run").to_dict()
    assert dotted({k: v for k, v in data.items() if k != "run"}) == documented("Checkpoint") - {
        "run"
    }


def test_json_page_has_the_fields_of_the_checkpoint_of_a_scan(tmp_path):
    bigspec.scan({"a": np.eye(3)}, checkpoint=tmp_path / "run").run()
    data = bigspec.show(tmp_path / "run").to_dict()
    assert dotted(data) == documented("Checkpoint of a scan")


def test_json_page_has_the_fields_of_a_conversion(reader):
    data = bigspec.convert(sp.eye_array(4, format="coo"), "B.zarr").to_dict()
    assert dotted(data) == documented("Conversion")


def test_json_page_has_the_fields_of_a_scan():
    data = bigspec.scan({"a": np.eye(3)}, max_norm=2.0).to_dict()
    assert dotted(data) == documented("Scan")


def test_json_page_has_the_fields_of_a_lipschitz_constant():
    data = bigspec.lipschitz([np.eye(3), "relu", np.eye(3)], max_constant=2.0).to_dict()
    assert dotted(data) == documented("Lipschitz")


def test_json_page_has_the_fields_of_the_gate():
    gate = bigspec.Gate(max_norm=2.0, max_change=0.1, reference=(1.0, 1.0))
    data = bigspec.norm(np.eye(3), gate=gate).to_dict()
    assert dotted({"gate": data["gate"]}) == documented("Gate")


def test_json_page_has_the_fields_of_a_history(reader, program):
    zarr_array("A.zarr", np.random.default_rng(0).standard_normal((60, 20)), (30, 20))
    run_command(
        Command("bigspec norm A.zarr --history h --max-change 1 --quiet > a.txt 2> warning.txt"),
        reader,
        program,
    )
    run_command(Command("bigspec history h --json h.json > h.txt"), reader, program)
    data = json.loads((reader / "h.json").read_text())
    for run in data["runs"]:
        for name in ("matrix", "gate", "versions"):
            assert isinstance(run[name], dict)
            run[name] = None
    assert dotted(data) == documented("History")


def test_json_page_has_the_lines_of_the_log(reader, program):
    zarr_array("A.zarr", np.random.default_rng(0).standard_normal((600, 200)), (30, 200))
    line = (
        "bigspec norm A.zarr --history h --max-change 1 --max-norm 1 --log-format json "
        "--heartbeat 1e-9 > a.txt 2> log.txt"
    )
    run_command(Command(line, status=3), reader, program)
    run_command(
        Command("bigspec norm B.zarr --log-format json 2>> log.txt", status=66), reader, program
    )
    lines = [json.loads(line) for line in (reader / "log.txt").read_text().splitlines()]
    section = (ROOT / "docs" / "json.md").read_text(encoding="utf-8").split("\n## Log\n")[1]
    listed = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in tables(section)[0][1:]}
    passes = {name.removeprefix("history[].") for name in documented("Estimate")
              if name.startswith("history[].")} - {"number"}  # fmt: skip
    for one in lines:
        named = set(listed[one["event"]]) - {"number", "history"}
        if one["event"] == "pass_finished":
            named |= passes
        assert set(one) - {"time", "level", "event", "run"} == named, one["event"]
    assert {one["event"] for one in lines} == set(listed) - {"log"}


def test_json_page_has_the_gate_that_is_written(reader, program):
    run_command(
        Command(
            "bigspec norm examples/data/fashion_mnist.zarr --max-norm 3e5 --json g.json "
            "--quiet > g.txt"
        ),
        reader,
        program,
    )
    gate = json.loads((reader / "g.json").read_text())["gate"]
    assert dotted({"gate": gate}) == documented("Gate")


# Links ---------------------------------------------------------------------------------------


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page):
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    for target in re.findall(r"\]\(([^)\s]+)\)", text.replace("\n", " ")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target
