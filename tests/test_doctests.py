"""``help(bigspec.norm)`` has examples, and every example of a docstring runs."""

import doctest
import inspect
from pathlib import Path

import pytest

import bigspec

ROOT = Path(__file__).parents[1]
SHOWN = (
    "norm", "svds", "plan", "open_matrix", "centered", "standardized", "scaled", "low_rank",
    "convert", "Gate", "show",
)  # fmt: skip
FOUND = {
    test.name: test
    for thing in (bigspec, *(getattr(bigspec, name) for name in bigspec.__all__))
    for test in doctest.DocTestFinder(recurse=inspect.isclass(thing)).find(
        thing, getattr(thing, "__name__", "bigspec"), extraglobs={"bigspec": bigspec}
    )
    if test.examples
}


def test_help_of_what_people_call_has_examples():
    assert set(SHOWN) <= set(FOUND)


@pytest.mark.parametrize("name", sorted(FOUND))
def test_examples_of_docstrings_run(name, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    ran = doctest.DocTestRunner().run(FOUND[name])
    assert ran.failed == 0
    assert ran.attempted
