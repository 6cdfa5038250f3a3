"""What a user says of a store besides its URL: credentials, endpoints, settings of its client.

The names are those of fsspec's file systems (s3fs, gcsfs, adlfs), which most users know. A mapping
under the name of a protocol, such as ``{"s3": {"anon": True}}``, is for URLs of that protocol, as
fsspec has it for chained URLs; all else is for every URL of the call.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bigspec.errors import ArgumentError

__all__ = ["PROTOCOLS", "Options", "as_options", "is_url", "options_for", "protocol_of"]

Options = dict[str, Any]

ALIASES = {"s3a": "s3", "gcs": "gs", "https": "http", "abfs": "az", "abfss": "az"}
"""Protocols by the name that stands for all of their kind."""
PROTOCOLS = {"s3", "gs", "az", "http", *ALIASES}
HERE = ("file://", "local://")


def as_options(options: Any, *places: Any) -> Options | None:
    """Check the argument `storage_options` of a call.

    Parameters
    ----------
    options : mapping or None
    *places : object
        All places of the call: one of them must be a URL, or the options would do nothing.

    Raises
    ------
    ArgumentError
        Its message never has a value, because a value may be a secret.
    """
    if options is None:
        return None
    if not isinstance(options, Mapping):
        msg = f"storage_options: expected a mapping of names to values, got {type(options)}"
        raise ArgumentError(msg)
    odd = [type(name).__name__ for name in options if not isinstance(name, str)]
    if odd:
        msg = f"storage_options: expected names as str, got {odd[0]}"
        raise ArgumentError(msg)
    if options and not any(is_url(place) for place in places):
        msg = (
            f"storage_options: expected a URL such as s3://bucket/A.zarr beside "
            f"{', '.join(sorted(options))}, got none; give them where the store is opened"
        )
        raise ArgumentError(msg)
    return dict(options) or None


def is_url(place: Any) -> bool:
    """Whether a place is a URL that is opened by a client library."""
    place = getattr(place, "where", place)  # of a `Checkpoint`
    if not isinstance(place, (str, os.PathLike)):
        return False
    text = os.fspath(place)
    return isinstance(text, str) and "://" in text and not text.startswith(HERE)


def protocol_of(url: str) -> str:
    """Return the protocol of a URL: of the innermost one, if it is a chain of fsspec's."""
    return url.rpartition("::")[2].partition("://")[0].lower()


def options_for(url: str, options: Options | None) -> Options:
    """Return the options for one URL: those of its protocol, and those of no protocol.

    What fsspec's configuration says (files, ``FSSPEC_S3_KEY`` and its kin) stands behind them.
    """
    from fsspec.config import conf

    protocol = protocol_of(url)
    kind = ALIASES.get(protocol, protocol)
    chained = "::" in url
    mine: Options = dict(conf.get(protocol, {}))
    own: Options = {}
    for name, value in (options or {}).items():
        if name not in PROTOCOLS or not isinstance(value, Mapping):
            mine[name] = value
        elif chained:  # fsspec itself hands them to the links of the chain
            own[name] = dict(value)
        elif ALIASES.get(name, name) == kind:
            own.update(value)
    return mine | own
