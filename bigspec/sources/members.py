"""The members of a zip archive: the place of each, checked before a byte of it is read.

The directory at the end of an archive has the places of its members, and each member has its own
header. Both are claims of the writer of the file.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from bigspec.errors import SourceError
from bigspec.sources.archives import DEFLATED
from bigspec.sources.file_bytes import Content, Reading

__all__ = ["check_sum", "member_bytes", "members_of", "place_of_member"]

HEAD = struct.Struct("<4s5H3I2H")
ENCRYPTED = 1
BROKEN = (
    zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, KeyError, EOFError,
    OverflowError, IndexError, RuntimeError, struct.error,
)  # fmt: skip
"""Errors of `zipfile` for a damaged directory."""


def members_of(content: Content) -> dict[str, zipfile.ZipInfo]:
    """Return the directory of an archive, without the headers of its members.

    Raises
    ------
    SourceError
        It is damaged, cut short, or names a member twice.
    """
    try:
        with zipfile.ZipFile(Reading(content)) as archive:
            infos = archive.infolist()
    except BROKEN as error:
        msg = (
            f"{content.name}: its list of members, at its end, cannot be read ({error}); it was "
            "cut short or damaged: copy it again"
        )
        raise SourceError(msg) from error
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.filename in found:
            msg = f"{content.name}: it has two members called {info.filename!a:.80}; write it again"
            raise SourceError(msg)
        found[info.filename] = info
    return found


def place_of_member(content: Content, info: zipfile.ZipInfo) -> int:
    """Return the first byte of the content of a member, by its own header.

    Raises
    ------
    SourceError
        Its header is missing or wrong, it goes past the end of the file, or it is encrypted.
    """
    what = f"the member {info.filename!a:.80}"
    orig = info.orig_filename
    names = {orig.encode("utf-8", "replace"), orig.encode("cp437", "replace")}
    # One request for both: a name of another length than in the directory is another name.
    length = HEAD.size + max(map(len, names))
    content.check(info.header_offset, HEAD.size, what)
    length = min(length, content.size - info.header_offset)
    raw = content.at(info.header_offset, length, what).tobytes()
    signature, _, flags, method, *_, name, extra = HEAD.unpack(raw[: HEAD.size])
    own_name = raw[HEAD.size : HEAD.size + name]
    if signature != b"PK\x03\x04" or own_name not in names or method != info.compress_type:
        msg = (
            f"{content.name}: expected {what} at byte {info.header_offset}, as its directory says, "
            "got something else there; it is damaged: copy it again"
        )
        raise SourceError(msg)
    if (flags | info.flag_bits) & ENCRYPTED:
        msg = f"{content.name}: {what} is encrypted; write the file again without a password"
        raise SourceError(msg)
    start = int(info.header_offset + HEAD.size + name + extra)
    content.check(start, info.compress_size, what)
    return start


def member_bytes(content: Content, info: zipfile.ZipInfo, most: int | None = None) -> Any:
    """Return the unpacked bytes of a member; the checksum is compared unless `most` is given.

    Parameters
    ----------
    content : Content
    info : zipfile.ZipInfo
        Of `members_of`.
    most : int, optional
        Return only this many bytes, the first ones.

    Returns
    -------
    ndarray of uint8
        A view of the file if it is not packed.

    Raises
    ------
    SourceError
        It is damaged, or packed by another method than deflate.
    """
    what = f"the member {info.filename!a:.80}"
    start = place_of_member(content, info)
    size = info.file_size if most is None else min(most, info.file_size)
    if info.compress_type == zipfile.ZIP_STORED:
        if info.compress_size != info.file_size:
            msg = f"{content.name}: {what} is stored with two sizes; it is damaged: copy it again"
            raise SourceError(msg)
        return _sound(content, info, content.at(start, size, what))
    if info.compress_type != zipfile.ZIP_DEFLATED:
        msg = f"{content.name}: expected {what} stored or deflated, got another compression"
        raise SourceError(msg)
    if info.file_size > DEFLATED * info.compress_size:
        msg = (
            f"{content.name}: {what} says that {info.compress_size} bytes unpack to "
            f"{info.file_size}, which they cannot; it is damaged: copy it again"
        )
        raise SourceError(msg)
    packed = content.at(start, info.compress_size, what)
    try:
        raw = zlib.decompressobj(-15).decompress(packed.data, max(size, 1))
    except zlib.error as error:
        msg = f"{content.name}: {what} cannot be unpacked ({error}); copy the file again"
        raise SourceError(msg) from error
    if len(raw) < size:
        msg = f"{content.name}: expected {size} bytes in {what}, got {len(raw)}; copy it again"
        raise SourceError(msg)
    return _sound(content, info, np.frombuffer(raw, np.uint8)[:size])


def check_sum(content: Content, info: zipfile.ZipInfo, raw: Any) -> None:
    """Compare the bytes of a member with the checksum in the directory.

    Raises
    ------
    SourceError
    """
    if zlib.crc32(raw.data if isinstance(raw, np.ndarray) else raw) != info.CRC:
        msg = (
            f"{content.name}: the checksum of the member {info.filename!a:.80} is wrong; the file "
            "is damaged: copy it again"
        )
        raise SourceError(msg)


def _sound(content: Content, info: zipfile.ZipInfo, raw: Any) -> Any:
    if len(raw) == info.file_size:
        check_sum(content, info, raw)
    return raw
