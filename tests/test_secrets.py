"""Secrets in URLs: every output of every door is searched for them, and runs outlive a renewal."""

import http.server
import json
import logging
import re
import threading
from functools import partial

import fsspec
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from click.testing import CliRunner

import bigspec
from bigspec import cli
from bigspec.checkpoint import Checkpoint
from bigspec.sources import retries

USER, PASSWORD, SIGNATURE = "annabelle", "hunter2pass", "c2lnbmF0dXJl"
SECRETS = [text.encode() for text in (USER, PASSWORD, SIGNATURE)]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files; a signature stands in front of a key, as Zarr puts it together."""

    def translate_path(self, path):
        return super().translate_path(re.sub(r"\?[^/]*", "", path))

    def do_GET(self):
        if "/broken.zarr" in self.path and "/c/" in self.path:
            self.send_error(500)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    rng = np.random.default_rng(0)
    for name in ("A.zarr", "B.zarr", "broken.zarr", "damaged.zarr"):
        array = zarr.create_array(folder / name, shape=(40, 20), chunks=(10, 20), dtype="f8")
        array[:] = rng.standard_normal((40, 20))
    (folder / "damaged.zarr" / "c" / "1" / "0").write_bytes(b"nonsense")
    group = zarr.create_group(folder / "S.zarr")
    A = sp.random_array((30, 20), density=0.3, rng=rng, format="csr")
    group.attrs.update({"encoding-type": "csr_matrix", "shape": [30, 20]})
    for part in ("data", "indices", "indptr"):
        group.create_array(part, data=getattr(A, part))
    return folder


@pytest.fixture(scope="module")
def address(folder):
    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def few_retries(monkeypatch):
    monkeypatch.setattr(retries, "POLICY", retries.RetryPolicy(2, 0.01, 0.01))


def signed(address, name, number=1):
    """A URL with all kinds of secrets."""
    query = f"?part=7&X-Amz-Date={number}&X-Amz-Signature={SIGNATURE}{number}"
    return f"http://{USER}:{PASSWORD}{number}@{address}/{name}{query}"


def assert_clean(*outputs):
    for output in outputs:
        held = output if isinstance(output, bytes) else str(output).encode()
        assert not [secret for secret in SECRETS if secret in held], held


def written(folder):
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


def run(*args):
    result = CliRunner().invoke(cli.main, [str(arg) for arg in args], prog_name="bigspec")
    assert_clean(result.output, result.stderr)
    return result


def test_no_output_of_a_run_has_a_secret(address, tmp_path):
    A, B = signed(address, "A.zarr"), signed(address, "B.zarr")
    place = f"memory://{USER}:{PASSWORD}@here/run"
    files = {name: tmp_path / name for name in ("n.json", "n.html", "s.json", "s.html", "v.npz")}
    history = ["--history", tmp_path / "past.db", "--warm", "--seed", 1]
    done = run(
        "norm", A, "--minus", B, "--checkpoint", place, *history, "--log-format", "json",
        "--json", files["n.json"], "--report", files["n.html"],
    )  # fmt: skip
    assert done.exit_code == 0
    assert "***" in done.stderr
    assert run(
        "svds", A, "-k", 2, "--u", f"memory://{USER}:{PASSWORD}@here/u", "--v", files["v.npz"],
        *history, "--json", files["s.json"], "--report", files["s.html"],
    ).exit_code == 0  # fmt: skip
    assert run("svds", A, "-k", 2, "--start", place, "--max-passes", 1).exit_code == 0
    for command in (
        ["show", place, "--json", "-"], ["show", place], ["plan", A, "--json", "-"], ["plan", A],
        ["history", tmp_path / "past.db", "--json", "-"],
        ["history", tmp_path / "past.db", "--html", tmp_path / "past.html"],
    ):  # fmt: skip
        assert run(*command).exit_code == 0, command
    held = fsspec.filesystem("memory")
    assert_clean(*written(tmp_path), *held.cat(held.find("")).values())
    assert files["n.json"].exists()


def test_no_error_has_a_secret(address, tmp_path):
    A, history = signed(address, "A.zarr"), ["--history", tmp_path / "past.db"]
    for source, status in [
        (signed(address, "nothing.zarr"), 66),
        (signed(address, "broken.zarr"), None),
        (signed(address, "damaged.zarr"), 65),
        (signed(address, "S.zarr") + "::/nothing", 66),
        (signed(address, "A.mtx"), 66),
        (f"http://{USER}:{PASSWORD}@{address}:99999999/A.zarr", None),
        (f"ftp://{USER}:{PASSWORD}@127.0.0.1:1/A.zarr", None),
        (f"nosuch://{USER}:{PASSWORD}@{address}/A.zarr", 66),
        (f"sftp://{USER}:{PASSWORD}@{address}/A.zarr?sig={SIGNATURE}", None),
        (f"/nowhere/A.zarr?sig={SIGNATURE}", 66),
    ]:
        for command, log in ((["norm"], "text"), (["svds", "-k", 1], "json")):
            done = run(*command, source, *history, "--debug", "--log-format", log)
            assert done.exit_code == status or (status is None and done.exit_code)
    for args in (
        ["norm", A, "--minus", signed(address, "nothing.zarr")],
        ["norm", A, "--start", signed(address, "nothing.npz")],
        ["norm", A, "--scale", signed(address, "nothing.npy")],
        ["norm", A, "--checkpoint", signed(address, "nothing")],
        ["svds", A, "-k", 1, "--u", signed(address, "nothing")],
        ["show", signed(address, "nothing")],
        ["plan", signed(address, "nothing.zarr")],
        ["norm", A, "--history", signed(address, "past.db")],
        ["convert", A, tmp_path / "C.zarr"],
        ["convert", signed(address, "nothing.zarr"), tmp_path / "C.zarr"],
    ):
        done = run(*args, "--debug")
        assert done.exit_code != 0, args
    assert run("history", tmp_path / "past.db", "--json", "-").exit_code == 0
    assert_clean(*written(tmp_path))


def test_what_python_shows_has_no_secret(address, tmp_path, capsys):
    url = signed(address, "A.zarr")
    A = bigspec.open_matrix(url)
    checkpoint = Checkpoint(f"memory://{USER}:{PASSWORD}@there/run")
    estimate = bigspec.norm(A - signed(address, "B.zarr"), checkpoint=checkpoint, progress=True)
    triplets = bigspec.svds(A, 2, left=False)
    opened = bigspec.norm(zarr.open(url, mode="r"))
    sparse = bigspec.open_matrix(signed(address, "S.zarr"))
    for answer in (estimate, triplets, opened):
        assert_clean(repr(answer), answer.summary(), answer.to_json(), answer.to_html())
        assert_clean(answer._repr_html_(), answer.matrix, answer.checkpoint)
    assert_clean(repr(A), repr(A.H), repr(A - A), repr(sparse))
    assert_clean(repr(checkpoint), bigspec.plan(url), repr(bigspec.plan(url)))
    shown = bigspec.show(checkpoint.where)
    assert_clean(shown, repr(shown), json.dumps(shown.to_dict()))
    assert_clean(bigspec.convert(signed(address, "S.zarr"), tmp_path / "S.zarr"))
    assert_clean(*capsys.readouterr(), *written(tmp_path))


def test_lines_of_other_packages_have_no_secret_in_the_json_log(address, capsys):
    from bigspec.watch.json_log import JsonLog, taking_over

    with JsonLog() as log, taking_over(log):
        logging.getLogger("fsspec.http").warning("asked %s", signed(address, "A.zarr"))
    said = capsys.readouterr().err
    assert f"asked http://***@{address}/A.zarr?part=7&***" in said
    assert_clean(said)


def test_a_run_goes_on_when_its_signature_and_password_were_renewed(address, tmp_path):
    call = {"checkpoint": tmp_path / "run", "seed": 1, "rtol": 1e-9, "block_size": 2}
    whole = bigspec.norm(signed(address, "A.zarr"), seed=1, rtol=1e-9, block_size=2)
    first = bigspec.norm(signed(address, "A.zarr"), max_passes=1, **call)
    assert whole.passes > 1 == first.passes
    again = bigspec.norm(signed(address, "A.zarr", 2), **call)
    assert (again.lower, again.upper, again.passes) == (whole.lower, whole.upper, whole.passes)
    assert again.run_id == first.run_id


def test_a_run_that_an_older_version_saved_with_its_password_goes_on(
    address, tmp_path, monkeypatch
):
    url = f"http://{USER}:{PASSWORD}@{address}/A.zarr"
    call = {"checkpoint": tmp_path / "run", "seed": 1, "rtol": 1e-9, "block_size": 2}
    with monkeypatch.context() as old:
        old.setattr("bigspec.sources.zarr_place.bare", lambda value: value)
        old.setattr("bigspec.matrices.shown", lambda text: text)
        old.setattr("bigspec.sources.locations.shown", lambda text: text)
        bigspec.norm(url, max_passes=1, **call)
    assert PASSWORD.encode() in b"".join(written(tmp_path))
    assert_clean(bigspec.show(tmp_path / "run").to_dict())
    assert bigspec.norm(url.replace(PASSWORD, "another"), **call).converged


def test_a_series_keeps_its_name_when_a_password_was_renewed(address, tmp_path):
    for number in (1, 2):
        args = ["--history", tmp_path / "past.db", "--max-change", 0.1, "--quiet"]
        assert run("norm", signed(address, "A.zarr", number), *args).exit_code == 0
    rows = bigspec.History(tmp_path / "past.db").rows(signed(address, "A.zarr", 3))
    assert len(rows) == 2
    assert rows[1].gate["reference"] == [rows[0].lower, rows[0].upper]


def test_the_identity_of_a_url_without_secrets_is_what_it_was(address):
    url = f"http://{address}/A.zarr"
    assert bigspec.open_matrix(url).identity["where"] == f"http://http://{address}/A.zarr"
    assert bigspec.open_matrix(f"{url}?part=7").identity["where"].endswith("/A.zarr?part=7")
    assert bigspec.open_matrix(url).name == url
