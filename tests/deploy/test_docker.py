"""deploy/docker/Dockerfile: its instructions, and (by hand, no engine) its install steps."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch

import pytest

from tests.deploy.interrupting import DEPLOY, ROOT

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def stages():
    """Lists of (instruction, argument), one a stage."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, argument = line.strip().partition(" ")
            if name == "FROM":
                found.append([])
            found[-1].append((name, argument.strip()))
    return found


def all_of(stage, name):
    return [argument for instruction, argument in stage if instruction == name]


def test_dockerfile_has_known_instructions_only():
    known = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "STOPSIGNAL", "USER"}
    assert {name for stage in stages() for name, _ in stage} <= known | {"WORKDIR"}


def test_bases_are_slim_and_pinned_and_of_a_python_that_bigspec_takes():
    build, final = stages()
    images = {all_of(stage, "FROM")[0].split()[0] for stage in (build, final)}
    assert len(images) == 1, "a virtual environment works only with the Python that made it"
    (image,) = images
    name, tag = image.split(":")
    assert name == "python"
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", tag)
    minor = ".".join(tag.split(".")[:2])
    assert f"Programming Language :: Python :: {minor}" in PROJECT["classifiers"]


def test_what_is_built_stays_behind_except_the_environment():
    build, final = stages()
    assert all_of(build, "FROM")[0].endswith(" AS build")
    assert all_of(final, "COPY") == ["--from=build /opt/bigspec /opt/bigspec"]
    assert not any("pip" in step for step in all_of(final, "RUN"))


def test_image_runs_bigspec_as_an_unprivileged_user():
    _, final = stages()
    user = all_of(final, "USER")[-1]
    assert all(int(number) > 0 for number in user.split(":"))
    order = [name for name, _ in final]
    assert max(i for i, name in enumerate(order) if name == "RUN") < order.index("USER")
    assert all_of(final, "ENTRYPOINT") == ['["bigspec"]']  # no shell: SIGTERM reaches bigspec
    assert "bigspec" in PROJECT["scripts"]
    assert "MALLOC_TRIM_THRESHOLD_=65536" in all_of(final, "ENV")[0]


def test_what_is_copied_is_what_the_build_needs_and_not_ignored():
    build, _ = stages()
    copied = {name for argument in all_of(build, "COPY") for name in argument.split()[:-1]}
    assert copied == {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "bigspec"}
    assert all((ROOT / name).exists() for name in copied)
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert ignored[0] == "*"
    assert all(any(fnmatch(name, pattern) for pattern in kept) for name in copied)


def test_extras_exist():
    build, _ = stages()
    ((_, extras),) = (argument.split("=") for argument in all_of(build, "ARG"))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


@pytest.mark.by_hand
@pytest.mark.timeout(600)
def test_install_steps_give_a_working_command(tmp_path):
    build, _ = stages()
    source, target = tmp_path / "source", tmp_path / "bigspec"
    source.mkdir()
    extras = all_of(build, "ARG")[0].partition("=")[2]
    for argument in all_of(build, "COPY"):
        *names, _ = argument.split()
        for name in names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
    for step in all_of(build, "RUN"):
        words = shlex.split(step.replace("/opt/bigspec", str(target)).replace("${EXTRAS}", extras))
        words[0] = sys.executable if words[0] == "python" else words[0]
        subprocess.run(words, cwd=source, check=True)
    shutil.rmtree(source)

    def bigspec(*arguments):
        command = [str(target / "bin" / "bigspec"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={"PATH": f"{target}/bin:/usr/bin:/bin"},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert PROJECT["version"] in bigspec("--version")
    answer = bigspec("norm", str(ROOT / "examples" / "data" / "fashion_mnist.zarr"), "--quiet")
    assert "sigma_1 in [26812" in answer
    assert not (target / "bin" / "pip").exists()
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file() and not p.is_symlink())
    print(f"{size / 2**20:.0f} MiB in the image besides its base")
