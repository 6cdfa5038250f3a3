"""The newest whole record of a checkpoint, and the damage to later ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bigspec.checkpoint.codec import Codec, Former, UnknownClassError, Wire
from bigspec.checkpoint.lease import gone
from bigspec.checkpoint.store import Damaged, Store
from bigspec.errors import CheckpointError
from bigspec.sources.storage_options import Options

__all__ = ["block_names", "describe", "load_latest", "newest"]

Array = np.ndarray[Any, Any]

ADVICE = {"Scan": "use `bigspec scan`", "Progress": "use `bigspec norm` or `bigspec svds`"}
"""The command to use, by the name in its records."""

NOT_ENCODED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What decoding raises if no run encoded the data."""


@dataclass(frozen=True)
class Found:
    """A whole record: its number, its value, and its other data."""

    value: Any
    number: int
    kind: str
    saved: str


def newest(
    store: Store, codec: Codec, read_block: Callable[[str], Array]
) -> tuple[Found | None, list[str]]:
    """Return the newest whole record, and the damage to later ones.

    Raises
    ------
    CheckpointError
        There are records, but all are damaged.
    """
    numbers: list[int] = []
    while True:
        before, numbers = numbers, store.records()
        damage: list[str] = []
        for number in reversed(numbers):
            try:
                data = store.read_record(number)
                if data is None:  # never complete
                    continue
                value = codec.decode(data["value"], cache(read_block))
                if not isinstance(data["kind"], str) or not isinstance(data["saved"], str):
                    damage.append(f"records/{number:06d} does not say what it is")
                    continue
                return Found(value, number, data["kind"], data["saved"]), damage
            except UnknownClassError as error:  # the checksum is right, so it is no damage
                advice = ADVICE.get(error.args[0], "give the algorithm that made it, as an object")
                msg = (
                    f"{store.where}: expected states of a known algorithm, got {error.args[0]!r}. "
                    f"To go on with this run, {advice}"
                )
                raise CheckpointError(msg) from error
            except Damaged as error:
                damage.append(str(error))
            except NOT_ENCODED as error:
                damage.append(
                    f"records/{number:06d} does not decode ({type(error).__name__}: {error})"
                )
        if not damage:
            return None, damage
        if numbers == before:  # else the owner may have replaced records during the read
            break
    msg = (
        f"{store.where}: every saved step is damaged: {'; '.join(damage)}. Remove it, or name "
        "another place, to start again"
    )
    raise CheckpointError(msg)


def load_latest(
    where: str | os.PathLike[str],
    types: Iterable[Wire | Former],
    storage: Options | None = None,
) -> Any:
    """Read the newest whole value of a checkpoint without owning it.

    Raises
    ------
    CheckpointError
        No record is there, or none is whole.
    """
    store = Store(where, read_only=True, storage=storage)
    found, _ = newest(store, Codec(types), store.read_block)
    return _there(found, store).value


def describe(
    where: str | os.PathLike[str],
    types: Iterable[Wire | Former],
    storage: Options | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return the newest value without its blocks, and facts about the checkpoint.

    The facts are the time of the save, the owner, whether its process is known to be gone, and
    the number of blocks.
    """
    store = Store(where, read_only=True, storage=storage)
    found, damage = newest(store, Codec(types), lambda _: np.zeros((0, 0)))
    found = _there(found, store)
    try:
        owner = store.read_document("owner")
    except Damaged:
        owner = None
    return found.value, {
        "where": store.where,
        "record": found.number,
        "kind": found.kind,
        "saved": found.saved,
        "blocks": len(store.names("blocks")),
        "owner": owner,
        "abandoned": owner is not None and gone(owner),
        "damage": damage,
    }


def _there(found: Found | None, store: Store) -> Found:
    if found is None:
        msg = (
            f"{store.where}: expected a checkpoint, got nothing; check the path, or wait for the "
            "first save"
        )
        raise CheckpointError(msg)
    return found


def block_names(data: Any) -> list[str]:
    """Return the names of the blocks in encoded data."""
    if isinstance(data, list):
        return [name for item in data for name in block_names(item)]
    if isinstance(data, dict):
        if data.get("object") == "StoredBlock":  # the name in a record
            return [data["fields"]["block"]]
        if isinstance(data.get("array"), dict) and "block" in data["array"]:
            return [data["array"]["block"]]
        return [name for item in data.values() for name in block_names(item)]
    return []
