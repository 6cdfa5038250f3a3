"""Build the sdist and the wheel, and run tests of the sdist against what the wheel installs.

python -P tests/wheel.py                  # the public functions, the commands, the doors
python -P tests/wheel.py tests            # all but what looks at the source tree
python -P tests/wheel.py tests/api -x     # any arguments of pytest

The environment must have what the tests need (the extra `test`); `build` is fetched into a fresh
one. The sources are taken out of the unpacked sdist, so bigspec comes from the wheel, or the run
fails.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
USUAL = ["tests/api", "tests/cli", "tests/adapters", "tests/conversion", "tests/test_start.py"]
OF_THE_SOURCES = ["tests/test_architecture.py", "tests/test_names.py", "tests/test_docs.py"]
"""Files that compare the source tree with its pages."""
ASKED = """
import pathlib, bigspec, importlib.metadata
print(pathlib.Path(bigspec.__file__).parent, importlib.metadata.version("bigspec"))
"""


def run(*command, **options):
    print("+", *(str(part) for part in command), flush=True)
    subprocess.run([*map(str, command)], check=True, **options)


def build(folder):
    """Build the sdist, and the wheel from it; return both."""
    tools = folder / "tools"
    venv.create(tools, with_pip=True)
    run(tools / "bin" / "python", "-m", "pip", "install", "-q", "build")
    run(tools / "bin" / "python", "-m", "build", "-o", folder / "dist", ROOT)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    for made in (sdist, wheel):
        print(f"{made.name}: {made.stat().st_size / 1e6:.2f} MB", flush=True)
    return sdist, wheel


def main():
    asked = sys.argv[1:] or USUAL
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sdist, wheel = build(folder)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (tree,) = (path for path in folder.glob("bigspec-*") if path.is_dir())
        shutil.rmtree(tree / "bigspec")
        site = folder / "site"
        run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel)
        environment = os.environ | {"PYTHONPATH": str(site)}
        said = subprocess.run(
            [sys.executable, "-P", "-c", ASKED],
            cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip
        if not said.startswith(str(site)):
            sys.exit(f"bigspec comes from {said}, not from the wheel")
        ignored = [f"--ignore={name}" for name in OF_THE_SOURCES]
        command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *ignored]
        run(*command, *asked, cwd=tree, env=environment)


if __name__ == "__main__":
    main()
