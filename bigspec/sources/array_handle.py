"""Zarr arrays that travel to the process that reads them, and the counts of every read."""

from __future__ import annotations

import json
import pickle
import threading
import uuid
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import zarr
from zarr.api.asynchronous import open as open_node
from zarr.core.sync import sync

from bigspec.errors import BigspecError, MatrixChangedError, MissingSourceError
from bigspec.sources import retries
from bigspec.sources.codecs import capped, check_codecs
from bigspec.sources.fetching import Fetch, chunk_keys, fetching
from bigspec.sources.locations import open_failure, read_metadata
from bigspec.sources.missing_chunks import Absences, Missing, asked, watched
from bigspec.sources.zarr_place import is_far

if TYPE_CHECKING:
    from zarr.buffer.cpu import NDBuffer

    from bigspec.kernels.buffers import Buffers

__all__ = ["ArrayHandle"]

OPEN = 32
"""Arrays that a process holds open for handles that may come again."""
PATIENCE = 5.0
"""Seconds to wait for a second look at the metadata."""


class ArrayHandle:
    """A zarr array that travels as bytes and is opened in the process that first reads it.

    A scheduler on the way neither needs the store's package nor sees the file. A worker gets the
    handle anew in every pass. It finds the array open that it opened for the last one: asking for
    the metadata again would cost a round trip to the store before the first chunk.

    Parameters
    ----------
    array : zarr.Array or None
    packed : bytes
        The same, pickled.
    name : str
        Its name in messages.
    missing : Missing, optional
        Rule for chunks that are not in the store.
    token : str, optional
        The same for all copies of one handle, and for no others.
    """

    def __init__(
        self,
        array: zarr.Array[Any] | None,
        packed: bytes,
        name: str,
        missing: Missing | None = None,
        token: str | None = None,
    ) -> None:
        self._array = None if array is None else watched(capped(array))
        self._form = "" if array is None else _form(array)
        self._packed = packed
        self._name = name
        self._token = token or uuid.uuid4().hex
        self._absences = Absences(name, missing or Missing())
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[ArrayHandle], tuple[None, bytes, str, Missing, str]]:
        parts = (None, self._packed, self._name, self._absences.rule, self._token)
        return (ArrayHandle, parts)

    def read(
        self, selection: Any, buffers: Buffers | None = None, out: NDBuffer | None = None
    ) -> Any:
        """Read a selection, once, and count its chunks; see `settle`."""
        array = self.open(buffers)
        with asked() as keys, fetching(self.fetch(selection, buffers)):
            block = array.get_basic_selection(selection, out=out)
        self.settle(keys, buffers)
        return block

    def settle(self, keys: dict[str, bool], buffers: Buffers | None) -> None:
        """Count the chunks of a read, once it is certain which are missing; see `Absences`."""
        self._absences.settle(self.open(buffers), keys, buffers)

    def ahead(self, selection: Any, buffers: Buffers) -> None:
        """Ask for the chunks that this thread reads next; `buffers` keeps them until then."""
        name = (id(self), _text(selection))
        if name not in buffers.ahead and (fetch := self._fetch(selection, 1)) is not None:
            buffers.ahead[name] = fetch

    def fetch(self, selection: Any, buffers: Buffers | None = None) -> Fetch | None:
        """Return the chunks of a selection, requested ahead or now.

        None where one at a time is as fast: on this machine, and for a single chunk.
        """
        if buffers is not None and buffers.ahead:
            fetch: Fetch | None = buffers.ahead.pop((id(self), _text(selection)), None)
            if fetch is not None:
                return fetch
        return self._fetch(selection, 2)

    def _fetch(self, selection: Any, least: int) -> Fetch | None:
        array = self.open()
        if not is_far(array):
            return None
        keys = chunk_keys(array, selection)
        return Fetch(array.store._store, list(keys)) if len(keys) >= least else None  # type: ignore[attr-defined]

    def open(self, buffers: Buffers | None = None) -> zarr.Array[Any]:
        """Return the array; the first call in a process checks that it is there.

        Zarr reads a chunk that does not exist as the fill value. So a worker that does not see
        the store would read zeros, and the norm would silently be wrong.
        """
        with self._lock:
            if self._array is None:
                try:
                    again = partial(_opened, self._token, self._packed, self._name)
                    self._array = retries.with_retries(again, buffers)
                except BigspecError:
                    raise
                except FileNotFoundError as error:
                    msg = (
                        f"{self._name}: this process does not see it; every worker must reach "
                        "the same path, on a shared disk or an object store"
                    )
                    raise MissingSourceError(msg) from error
                except Exception as error:
                    raise open_failure(error, self._name) from error
            return self._array

    def check_still(self) -> None:
        """Refuse an array whose metadata changed since it was opened.

        Its chunks would be read as those of the old one. A store that does not answer is left to
        the reads of its chunks, which say why.

        Raises
        ------
        MatrixChangedError
        """
        if self._array is None:
            return
        metadata, place = self._array.metadata, self._array.store_path
        found = open_node(
            store=place.store,
            path=place.path,
            mode="r",
            zarr_format=metadata.zarr_format,
            use_consolidated=False,
        )
        try:
            now = sync(found, timeout=PATIENCE)
        except Exception:  # noqa: BLE001, RUF100 - whatever a store raises
            return
        if _form(now) != self._form:
            raise _changed(self._name, self._form, _form(now))


def _form(array: Any) -> str:
    """Return what the bytes of an array's chunks mean: its metadata without what is for people."""
    metadata = array.metadata.to_dict()
    told = {"attributes", "dimension_names", "consolidated_metadata"}
    return json.dumps({k: metadata[k] for k in metadata.keys() - told}, sort_keys=True, default=str)


def _changed(name: str, before: str, now: str) -> MatrixChangedError:
    """Return the error for an array that is another one now; it names what differs."""
    was, found = json.loads(before), json.loads(now)
    differences = "; ".join(
        f"{key} was {json.dumps(was.get(key))}, is {json.dumps(found.get(key))}"
        for key in sorted(was.keys() | found.keys())
        if was.get(key) != found.get(key)
    )
    return MatrixChangedError(
        f"{name}: expected the array that was opened, got another one in its place ({differences}"
        "). Open it again, on a store that stays while the run lasts"
    )


@lru_cache(maxsize=OPEN)
def _opened(token: str, packed: bytes, name: str) -> zarr.Array[Any]:  # noqa: ARG001 - it is the key
    """Open an array that came as bytes; once for all copies of its handle."""
    # These bytes came inside a pickle that has been loaded already, so this adds no risk.
    sent = pickle.loads(packed)
    array = read_metadata(sent.store, sent.path, sent.metadata.zarr_format)
    if not isinstance(array, zarr.Array):
        msg = f"no Zarr array at {sent.path!r} any more"
        raise FileNotFoundError(msg)
    if _form(array) != _form(sent):
        raise _changed(name, _form(sent), _form(array))
    check_codecs(array, name)
    return watched(capped(array))


def _text(selection: Any) -> str:
    return repr(selection)
