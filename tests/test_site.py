"""The documentation site: it builds without a warning and without a network, and has every page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bigspec
from bigspec import cli

pytest.importorskip("mkdocs", reason='needs the extra "docs"')
ROOT = Path(__file__).parents[1]
NO_NETWORK = """
import socket, sys
def refuse(*_):
    raise OSError("the site is built without a network")
socket.socket.connect = socket.create_connection = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--quiet", "--site-dir", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("site")
    environment = {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, str(place)], cwd=ROOT, capture_output=True, text=True,
        timeout=200, check=False, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_every_page_is_in_the_menu_and_nothing_is_loaded_from_elsewhere(site):
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r": (\S+\.md)", menu)) == pages
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*src=\"?([^\s\">]+)", text)
        loaded += re.findall(r'<link rel="?stylesheet"? href="?([^\s">]+)', text)
        assert loaded
        assert not [where for where in loaded if "//" in where], page.name


def test_the_reference_has_every_public_name_and_every_command(site):
    python = (site / "reference.html").read_text(encoding="utf-8")
    for name in set(bigspec.__all__) - {"errors", "watch"}:  # modules, with pages of their own
        assert f'id="bigspec.{name}"' in python, name
    commands = (site / "commands.html").read_text(encoding="utf-8")
    for name in cli.main.commands:
        assert f'id="bigspec-{name}"' in commands, name
    assert "--failure-probability" in commands


def test_a_search_finds_words_of_the_pages(site):
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert all(word in index for word in ("glossary", "Christoffel", "--max-change"))
