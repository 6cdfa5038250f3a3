"""Chosen tensors of a network brought to a norm: what is stored, what stays, kills, refusals."""

import errno
import json

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import bigspec
from bigspec.cli import main
from bigspec.errors import ArgumentError, DataError, DestinationError, SourceError
from bigspec.networks import normal_copy

RNG = np.random.default_rng(0)


def weights(shape=(24, 16), dtype="f4"):
    return (RNG.standard_normal(shape) * 3).astype(dtype)


WHOLE = {
    "a.weight": weights(), "a.bias": weights((24,)), "b.weight": weights((10, 30), "f2"),
    "c.weight": weights((12, 12), ml_dtypes.bfloat16), "d.weight": weights((9, 7), "f8"),
    "ids": np.arange(5), "conv.weight": weights((4, 3, 3, 3)), "none": np.zeros((0, 3), "f4"),
}  # fmt: skip
CHOSEN = ["[abcd].weight"]


@pytest.fixture
def source(tmp_path):
    place = tmp_path / "model.safetensors"
    save_file(WHOLE, place, metadata={"format": "pt", "made": "here"})
    return place


def exact(values):
    return float(np.linalg.norm(values.astype(float), 2))


@pytest.mark.parametrize("by", ["upper", "lower"])
def test_chosen_tensors_have_the_norm_and_all_others_their_bytes(by, source, tmp_path):
    done = bigspec.normalize_model(source, tmp_path / "B.safetensors", only=CHOSEN, to=0.7, by=by)
    found = load_file(tmp_path / "B.safetensors")
    assert list(found) == list(load_file(source))
    rows = {one.name: one for one in done.tensors}
    assert set(rows) == {"a.weight", "b.weight", "c.weight", "d.weight"}
    for name, before in WHOLE.items():
        after = found[name]
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        if name not in rows:
            assert after.tobytes() == before.tobytes()
            continue
        one, norm = rows[name], exact(after)
        assert one.lower <= norm * (1 + 1e-15)
        assert norm <= one.upper * (1 + 1e-15)
        assert norm <= 0.7 * (1 + 1e-15) if by == "upper" else norm >= 0.7 * (1 - 1e-15)
        assert one.source_lower <= exact(before) * (1 + 1e-14)
        assert exact(before) <= one.source_upper * (1 + 1e-14)
        assert norm == pytest.approx(0.7, rel=2e-2)
    with safe_open(tmp_path / "B.safetensors", "np") as file:
        metadata = file.metadata()
    note = json.loads(metadata.pop("bigspec"))
    assert metadata == {"format": "pt", "made": "here"}
    assert note["tensors"]["a.weight"]["upper"] == rows["a.weight"].upper
    assert (done.copied, done.files) == (4, 1)


def test_shards_keep_their_names_and_their_index(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    names = {f"model-0000{k}-of-00002.safetensors": {f"{k}.weight": weights(), f"{k}.bias":
             weights((3,))} for k in (1, 2)}  # fmt: skip
    for file, tensors in names.items():
        save_file(tensors, folder / file)
    index = {"weight_map": {name: file for file, tensors in names.items() for name in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    done = bigspec.normalize_model(folder, tmp_path / "B", only="*.weight", seed=1)
    assert sorted(p.name for p in (tmp_path / "B").iterdir()) == [
        *sorted(names), "model.safetensors.index.json",
    ]  # fmt: skip
    for file in names:
        found = load_file(tmp_path / "B" / file)
        assert 0.99 <= exact(found[f"{file[10]}.weight"]) <= 1.0
    assert (done.files, done.copied, len(done.tensors)) == (2, 2, 2)
    for file in names:
        with safe_open(tmp_path / "B" / file, "np") as opened:
            note = json.loads(opened.metadata()["bigspec"])
            assert list(note["tensors"]) == [f"{file[10]}.weight"]
    with pytest.raises(ArgumentError, match="expected a folder for 2 shards"):
        bigspec.normalize_model(folder, tmp_path / "C.safetensors", only="*.weight")
    with pytest.raises(ArgumentError, match="another place than the source"):
        bigspec.normalize_model(folder, folder, only="*.weight", overwrite=True)


def test_a_full_disk_keeps_the_norms_and_goes_on(source, tmp_path, monkeypatch):
    place, calls = tmp_path / "B.safetensors", []
    write = normal_copy._write_scaled

    def full(file, tensor, factor, token):
        calls.append(tensor.name)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, tensor, factor, token)

    monkeypatch.setattr(normal_copy, "SAVED", 1)
    monkeypatch.setattr(normal_copy, "_write_scaled", full)
    with pytest.raises(DestinationError, match="No space left"):
        bigspec.normalize_model(source, place, only=CHOSEN, seed=1)
    assert not place.exists()
    monkeypatch.setattr("bigspec.networks.normalizing.norm", None)  # none is computed again
    bigspec.normalize_model(source, place, only=CHOSEN, seed=1)
    assert len(set(calls)) == len(calls) - 1 == 4
    monkeypatch.undo()
    bigspec.normalize_model(source, tmp_path / "C.safetensors", only=CHOSEN, seed=1)
    assert load_file(place)["a.weight"].tobytes() == (
        load_file(tmp_path / "C.safetensors")["a.weight"].tobytes()
    )


REFUSED = {
    "*.bias": "'a.bias', of shape [24]",
    "conv*": "'conv.weight', of shape [4, 3, 3, 3]: the norm of a kernel depends on the image",
    "ids": "'ids', of type int64",
    "none": "'none', of shape [0, 3]",
    "absent": "got 'absent'; there are",
    "f8": "'f8', of type float8_e4m3fn, whose numbers a scale",
    "s.weight": "'s.weight', which tensor 's.weight_scale' scales",
    "o.weight_orig": "'o.weight_orig', which tensor 'o.weight_u' scales or divides again",
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_a_tensor_that_cannot_be_normalized_is_named(pattern, tmp_path):
    place = tmp_path / "A.safetensors"
    more = {"f8": np.ones((3, 3), ml_dtypes.float8_e4m3fn), "s.weight": weights(),
            "s.weight_scale": np.ones(1, "f4"), "o.weight_orig": weights(),
            "o.weight_u": weights((24,))}  # fmt: skip
    save_file(WHOLE | more, place)
    with pytest.raises(ArgumentError) as caught:
        bigspec.normalize_model(place, tmp_path / "B.safetensors", only=pattern)
    assert REFUSED[pattern] in str(caught.value).replace('"', "'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A.safetensors"]


def test_zeros_other_formats_and_the_source_itself_are_refused(source, tmp_path):
    save_file({"z": np.zeros((3, 3), "f4")}, tmp_path / "Z.safetensors")
    with pytest.raises(DataError, match=r"'z'.* zeros alone"):
        bigspec.normalize_model(tmp_path / "Z.safetensors", tmp_path / "B.safetensors", only="z")
    save_file({"z": np.full((3, 3), np.nan, "f4")}, tmp_path / "Z.safetensors")
    with pytest.raises(DataError, match=r"tensor 'z'.*NaN"):
        bigspec.normalize_model(tmp_path / "Z.safetensors", tmp_path / "B.safetensors", only="z")
    np.savez(tmp_path / "A.npz", a=np.eye(3))
    with pytest.raises(SourceError, match="expected safetensors on this machine"):
        bigspec.normalize_model(tmp_path / "A.npz", tmp_path / "B.safetensors", only="a")
    with pytest.raises(ArgumentError, match="another place than the source"):
        bigspec.normalize_model(source, source, only="a.weight", overwrite=True)
    with pytest.raises(ArgumentError, match="expected a norm > 0"):
        bigspec.normalize_model(source, tmp_path / "B.safetensors", only="a.weight", to="one")


@pytest.mark.parametrize(("dtype", "to"), [("f2", 1e6), (ml_dtypes.bfloat16, 1e39), ("f4", 1e39)])
def test_a_norm_whose_numbers_the_type_does_not_hold(dtype, to, tmp_path):
    """Infinities were written, with an interval around the norm that was asked for."""
    source, place = tmp_path / "A.safetensors", tmp_path / "B.safetensors"
    save_file({"a": np.diag([3.0, -4.0]).astype(dtype)}, source)
    said = r"to: expected a norm whose numbers .* holds, got 1e\+.* 'a' is .*; give a smaller norm"
    with pytest.raises(ArgumentError, match=said):
        bigspec.normalize_model(source, place, only="a", to=to)
    assert not place.exists()
    bigspec.normalize_model(source, place, only="a", to=to / 1e3, overwrite=True)
    assert np.isfinite(load_file(place)["a"].astype(float)).all()


def test_the_command_takes_patterns_and_no_flag_of_a_single_matrix(source, tmp_path):
    place = tmp_path / "B.safetensors"
    command = ["normalize", str(source), str(place), "--only", "a.w*", "--only", "d.w*", "--quiet"]
    shown = CliRunner().invoke(main, [*command, "--json", str(tmp_path / "B.json")])
    assert shown.exit_code == 0, shown.output
    assert "2 tensors of norm at most 1.0, 6 copied, 1 file" in shown.output
    data = json.loads((tmp_path / "B.json").read_text())
    assert [one["name"] for one in data["tensors"]] == ["d.weight", "a.weight"]  # as they lie
    wrong = CliRunner().invoke(main, [*command, "--dtype", "float32"])
    assert wrong.exit_code == 2
    assert "got --dtype" in wrong.output
    wrong = CliRunner().invoke(main, ["normalize", str(source), "--only", "a.w*"])
    assert wrong.exit_code == 2
    assert "--only: expected a DST" in wrong.output
