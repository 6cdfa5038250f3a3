"""The command `bigspec scan`: options, outputs, exit statuses, the history."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bigspec import History, cli
from bigspec.cli import scan as scan_command
from bigspec.networks.table import COLUMNS
from tests.networks.killing import terminated
from tests.networks.models import sigma, transformer


@pytest.fixture
def model(tmp_path):
    np.savez(tmp_path / "m.npz", **transformer(layers=2))
    return str(tmp_path / "m.npz")


def run(*arguments):
    return CliRunner().invoke(cli.main, ["scan", *arguments, "--quiet"])


def test_the_table_of_all_rows(model, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    result = run(model)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    heads = lines[0].replace("stable rank", "stable-rank").split()
    assert " ".join(heads) == "name shape norm layer stable-rank edge scale largest kind"
    assert len([line for line in lines if line.startswith("layers.")]) == 12
    assert lines[-2] == model
    assert lines[-1].startswith("  14 norms: 14 certain; ")


def test_only_not_sort_top_split_and_all(model):
    result = run(model, "--only", "layers.*", "--not", "*qkv*", "--sort", "norm", "--top", "2")
    names = [line.split()[0] for line in result.stdout.splitlines()[1:3]]
    assert all(name.endswith("mlp.weight") for name in names)
    result = run(model, "--only", "*mlp*", "--split", "mlp=2")
    assert "layers.1.mlp.weight[1]" in result.stdout
    assert "layers.0.norm.weight" in run(model, "--all").stdout


def test_the_columns_of_the_option_are_those_of_the_table():
    assert tuple(COLUMNS) == scan_command.COLUMNS


def test_files_have_every_row(model, tmp_path):
    out = {name: str(tmp_path / f"out.{name}") for name in ("json", "csv", "html")}
    result = run(model, "--top", "1", "--json", out["json"], "--csv", out["csv"],
                 "--report", out["html"], "--seed", "3")  # fmt: skip
    assert result.exit_code == 0
    document = json.loads(Path(out["json"]).read_text())
    assert len(document["rows"]) == 14
    assert document["seed"] == 3
    assert len(Path(out["csv"]).read_text().splitlines()) == 15
    page = Path(out["html"]).read_text()
    assert all(row["name"] in page for row in document["rows"])
    only = run(model, "--json", "-")
    assert json.loads(only.stdout)["schema"] == "bigspec.scan/1"


@pytest.mark.parametrize(
    ("limit", "status", "said"),
    [
        ("1000", 0, ""),
        ("17", 3, "failed: embed.weight: the norm exceeds max_norm 17.0: it is at least "),
        ("inside", 4, "undecided: embed.weight: max_norm "),
    ],
)
def test_a_limit_names_the_rows_that_decide(limit, status, said, model):
    if limit == "inside":
        limit = repr(float(sigma(transformer(layers=2)["embed.weight"])))
        result = run(model, "--only", "embed*", "--max-norm", limit)
    else:
        result = run(model, "--max-norm", limit)
    assert result.exit_code == status
    assert result.stderr.startswith(f"bigspec: {said}" if said else "")


def test_rows_with_nan_are_65_under_a_limit_and_a_row_without(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.full((2, 2), np.nan), b=np.eye(3))
    assert run(str(tmp_path / "m.npz")).exit_code == 0
    result = run(str(tmp_path / "m.npz"), "--max-norm", "9")
    assert (result.exit_code, result.stderr) == (65, "bigspec: not finite: NaN or Inf in a\n")


def test_a_gate_of_a_file(model, tmp_path):
    file = tmp_path / "limits.toml"
    file.write_text('["*"]\nmax_norm = 100\n["*.mlp.weight"]\nmin_norm = 50\n')
    result = run(model, "--gate", str(file))
    assert result.exit_code == 3
    assert "layers.1.mlp.weight: the norm is below min_norm 50.0" in result.stderr
    file.write_text('["no.such.*"]\nmax_norm = 100\n')
    assert run(model, "--gate", str(file)).exit_code == 2


def test_another_model(model, tmp_path):
    W = transformer(layers=2)
    np.savez(
        tmp_path / "other.npz", **{k: v * np.float32(2) for k, v in W.items() if "conv" not in k}
    )
    result = run(model, "--minus", str(tmp_path / "other.npz"))
    assert result.exit_code == 0
    assert f"  only in {model}: conv.weight" in result.stdout.splitlines()
    assert "change" in result.stdout.splitlines()[0]


def test_the_history_draws_a_tensor_over_the_steps_of_a_training(model, tmp_path):
    past = str(tmp_path / "past.db")
    for _ in range(2):
        assert run(model, "--history", past, "--series", "net").exit_code == 0
    assert run(model, "--history", past, "--series", "net", "--max-norm", "17").exit_code == 3
    rows = History(past).rows("net:embed.weight")
    assert [row.exit_status for row in rows] == [0, 0, 3]
    assert [row.accepted for row in rows] == [True, True, False]
    assert rows[0].lower <= sigma(transformer(layers=2)["embed.weight"]) <= rows[0].upper
    assert History(past).count() == 3 * 14
    shown = CliRunner().invoke(cli.main, ["history", past, "--series", "net:embed.weight"])
    assert shown.exit_code == 0
    assert "net:embed.weight" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steal"], "--steal needs --checkpoint URL"),
        (["--series", "x"], "--series needs --history FILE"),
        (["--top", "0"], "Invalid value for '--top'"),
        (["--sort", "colour"], "Invalid value for '--sort'"),
        (["--max-norm", "-1"], "expected a finite number >= 0"),
        (["--split", "qkv"], "split: expected PATTERN=N"),
        (["--only", "x"], "expected a row that the patterns choose"),
    ],
)
def test_wrong_usage(arguments, said, model):
    result = run(model, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_model_that_is_not_there(tmp_path):
    result = run(str(tmp_path / "no.safetensors"))
    assert result.exit_code == 66


def test_the_time_limit_is_75_with_a_checkpoint_and_0_without(model, tmp_path):
    result = run(model, "--time-limit", "1e-9", "--checkpoint", str(tmp_path / "run"))
    assert result.exit_code == 75
    assert "run the same command again to go on" in result.stderr
    assert run(model, "--checkpoint", str(tmp_path / "run")).exit_code == 0
    result = run(model, "--time-limit", "1e-9")
    assert result.exit_code == 0
    assert "not reached: 14 rows" in result.stdout


@pytest.mark.parametrize("saved", [True, False])
def test_sigterm_after_the_first_task(saved, model, tmp_path):
    place = ["--checkpoint", str(tmp_path / "run")] if saved else []
    code, out, err = terminated(["scan", model, "--quiet", *place], tmp_path)
    assert code == (75 if saved else 128 + signal.SIGTERM)
    assert "terminated" in err
    assert ("not reached: " in out) == (not saved)


def test_a_result_file_that_cannot_be_written(model, tmp_path):
    result = run(model, "--csv", str(tmp_path / "no" / "x.csv"))
    assert result.exit_code == 2
    assert "is not a writable directory" in result.stderr
