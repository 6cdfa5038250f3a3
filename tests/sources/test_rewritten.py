"""Stores that are rewritten after they were opened: no norm of a matrix that never was."""

from __future__ import annotations

import pickle
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from zarr.buffer.cpu import Buffer as CPUBuffer
from zarr.storage import MemoryStore, WrapperStore

import bigspec
from bigspec.errors import MatrixChangedError
from bigspec.kernels.buffers import Buffers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

A = np.random.default_rng(7).standard_normal((40, 6))
B = 3.0 * A[::-1]
OTHERS: dict[str, tuple[np.ndarray[Any, Any], dict[str, Any], str]] = {
    "more rows": (np.vstack([B, B]), {}, r"shape was \[40, 6\], is \[80, 6\]"),
    "fewer rows": (B[:20], {}, r"shape was \[40, 6\], is \[20, 6\]"),
    "half as wide numbers": (
        np.hstack([B, B]).astype(np.float32),
        {"chunks": (10, 12)},
        r'data_type was "float64", is "float32"',
    ),
    "other chunks": (B, {"chunks": (20, 3)}, r"chunk_grid was .*20"),
    "a fill value": (B, {"fill_value": 7.0}, r"fill_value was 0\.0, is 7\.0"),
}


def write(place: Any, entries: np.ndarray[Any, Any], **options: Any) -> zarr.Array[Any]:
    shape = {"shape": entries.shape, "dtype": entries.dtype}
    made = zarr.create_array(place, **shape, **({"chunks": (10, 6)} | options))
    made[...] = entries
    return made


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("form", ["alone", "in a sum", "on a worker"])
def test_another_array_in_the_place_of_the_opened_one_has_no_interval(
    tmp_path: Path, kind: str, form: str
) -> None:
    path = tmp_path / "A.zarr"
    write(path, A)
    matrix = bigspec.open_matrix(path)
    copy = pickle.dumps(matrix)
    assert bigspec.norm(matrix).lower <= np.linalg.norm(A, 2) * (1 + 1e-12)
    shutil.rmtree(path)
    entries, options, difference = OTHERS[kind]
    write(path, entries, **options)
    use: dict[str, Callable[[], Any]] = {
        "alone": lambda: bigspec.norm(matrix),
        "in a sum": lambda: bigspec.norm(matrix - 2.0 * bigspec.open_matrix(A)),
        "on a worker": lambda: pickle.loads(copy).handle.open(Buffers()),
    }
    with pytest.raises(MatrixChangedError, match=rf"A\.zarr: expected the array .*{difference}"):
        use[form]()


def test_another_group_in_the_place_of_the_opened_one_has_no_interval(tmp_path: Path) -> None:
    path = tmp_path / "S.zarr"
    for factor in (1.0, 3):
        shutil.rmtree(path, ignore_errors=True)
        S: Any = sp.csr_array(A * (A > 0.5)) * factor
        group = zarr.create_group(path)
        group.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(A.shape)}
        )
        for part in ("data", "indices", "indptr"):
            entries = getattr(S, part)
            fill = factor if part == "data" else 0
            write(path / part, entries, chunks=(8,), fill_value=fill)
        if factor == 1.0:
            matrix = bigspec.open_matrix(path)
            bigspec.norm(matrix)
    with pytest.raises(MatrixChangedError, match=r"S\.zarr/data: .*fill_value was 1\.0, is 3\.0"):
        bigspec.norm(matrix)


class Rewriting(WrapperStore[Any]):
    """Another fill value lies there as soon as a chunk was read."""

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        value = await super().get(key, *args, **options)
        if key.startswith("c/"):
            document = (await self._store.get("zarr.json", *args)).to_bytes()
            other = document.replace(b'"fill_value": 0.0', b'"fill_value": 7.0')
            self._store._store_dict["zarr.json"] = CPUBuffer.from_bytes(other)
        return value


def test_a_store_that_is_rewritten_in_the_only_pass_has_no_interval() -> None:
    store = MemoryStore()
    write(store, A)
    matrix = bigspec.open_matrix(zarr.open_array(Rewriting(store), mode="r"))
    with pytest.raises(MatrixChangedError, match=r"fill_value was 0\.0, is 7\.0"):
        bigspec.norm(matrix, max_passes=1)


def test_words_for_people_may_change_and_a_fill_value_may_be_nan(tmp_path: Path) -> None:
    path = tmp_path / "A.zarr"
    array = write(path, A, fill_value=np.nan)
    matrix = bigspec.open_matrix(path)
    array.attrs["units"] = "m"
    found = bigspec.norm(matrix)
    assert found.lower <= np.linalg.norm(A, 2) * (1 + 1e-12) <= found.upper * (1 + 1e-9)
