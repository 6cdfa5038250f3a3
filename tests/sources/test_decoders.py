"""Decoders fill exactly the memory they are given, whatever the bytes say."""

from __future__ import annotations

import contextlib
import struct
import zlib
from typing import Any

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigspec.sources.decoders import DECODERS, DamagedChunk

OUT = 800
ENCODERS = {
    "blosc": numcodecs.Blosc(),
    "gzip": numcodecs.GZip(),
    "lz4": numcodecs.LZ4(),
    "zlib": numcodecs.Zlib(),
    "zstd": numcodecs.Zstd(),
}


def encoded(name: str, count: int) -> np.ndarray[Any, Any]:
    values = (np.arange(count) % 7).astype(np.uint8)
    return np.frombuffer(ENCODERS[name].encode(values), np.uint8)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("count", [0, OUT - 8, OUT + 8, 10 * OUT])
def test_another_decoded_size_is_refused(name: str, count: int) -> None:
    guarded = np.full(3 * OUT, 99, np.uint8)
    # A zstd frame without content is refused by numcodecs itself.
    with pytest.raises((DamagedChunk, RuntimeError), match=r"it decodes to|invalid input data"):
        DECODERS[name](encoded(name, count), guarded[OUT : 2 * OUT])
    assert (guarded[:OUT] == 99).all()
    assert (guarded[2 * OUT :] == 99).all()


@given(st.sampled_from(sorted(DECODERS)), st.data())
@settings(max_examples=300, deadline=None)
def test_damage_never_writes_out_of_bounds(name: str, data: st.DataObject) -> None:
    stored = encoded(name, OUT).copy()
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, stored.size - 1))] = data.draw(st.integers(0, 255))
    stored = stored[: data.draw(st.integers(0, stored.size))]
    guarded = np.full(3 * OUT, 99, np.uint8)
    with contextlib.suppress(ValueError, RuntimeError, zlib.error):
        DECODERS[name](stored, guarded[OUT : 2 * OUT])
    assert (guarded[:OUT] == 99).all()
    assert (guarded[2 * OUT :] == 99).all()


def zstd_frame(payload: bytes, declare_size: bool) -> bytes:
    """Build a frame by hand (RFC 8878): one raw block, with or without the size in the header."""
    header = struct.pack("<BQ", 0b11100000, len(payload)) if declare_size else b"\x00\x58"
    block = (len(payload) << 3 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd" + header + block + payload


@pytest.mark.parametrize("declare_size", [True, False])
def test_zstd_frames_with_and_without_a_size(declare_size: bool) -> None:
    payload = bytes(range(200))
    out = np.zeros(200, np.uint8)
    DECODERS["zstd"](np.frombuffer(zstd_frame(payload, declare_size), np.uint8), out)
    assert out.tobytes() == payload
    with pytest.raises(DamagedChunk, match="it decodes to 200 bytes, 300 expected"):
        DECODERS["zstd"](
            np.frombuffer(zstd_frame(payload, declare_size), np.uint8), np.zeros(300, np.uint8)
        )


def test_gzip_members_are_joined() -> None:
    halves = [ENCODERS["gzip"].encode(np.full(OUT // 2, k, np.uint8)) for k in (1, 2)]
    out = np.zeros(OUT, np.uint8)
    DECODERS["gzip"](np.frombuffer(b"".join(halves) + b"\0\0", np.uint8), out)
    np.testing.assert_array_equal(out, np.repeat([1, 2], OUT // 2))
