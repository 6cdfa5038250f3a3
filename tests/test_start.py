"""What starting loads: a name of bigspec when it is used, and nothing heavy for ``--help``."""

import json
import subprocess
import sys

import pytest

import bigspec

HEAVY = {"numpy", "scipy", "dask", "distributed", "zarr", "numcodecs", "fsspec", "h5py", "sqlite3"}


def loaded(code, *arguments):
    """The modules in a fresh process after some code, whose last line of output they are."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def tops(modules):
    return {name.split(".")[0] for name in modules}


def test_import_bigspec_loads_the_lazy_loader_alone():
    modules = loaded("import bigspec")
    assert {name for name in modules if name.startswith("bigspec")} == {"bigspec"}
    assert "lazy_loader" in modules
    assert not tops(modules) & (HEAVY | {"click"})


@pytest.mark.parametrize(
    "command", ["", "norm", "svds", "plan", "show", "history", "convert", "scan"]
)
def test_help_loads_the_command_line_alone(command):
    code = """
import contextlib, sys
from bigspec.cli import main
with contextlib.suppress(SystemExit):
    main(prog_name="bigspec")
"""
    modules = loaded(code, *[word for word in (command, "--help") if word])
    rooms = {name.split(".")[1] for name in modules if name.startswith("bigspec.")}
    assert rooms == {"api", "cli", "errors", "history", "names", "results", "watch"}
    assert not tops(modules) & HEAVY


def test_the_norm_of_an_array_loads_no_statistics_no_pictures_and_no_formats():
    modules = loaded("import numpy, bigspec\nbigspec.norm(numpy.eye(3))")
    assert {"numpy", "dask"} <= modules
    assert not {"scipy.stats", "h5py", "h5netcdf", "matplotlib", "tqdm"} & modules


def test_dir_shows_the_public_names_only():
    assert dir(bigspec) == sorted(bigspec.__all__)
    assert not [name for name in dir(bigspec) if name.startswith("_")]
    assert len(dir(bigspec)) == 34


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="spectrum"):
        bigspec.spectrum  # noqa: B018
