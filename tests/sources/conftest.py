"""What the source tests share: no waiting between retries, and a store that fails on schedule."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from zarr.storage import WrapperStore

from bigspec.sources import retries

if TYPE_CHECKING:
    from collections.abc import Iterator


class FailingStore(WrapperStore[Any]):
    """Raises ``errors[k]`` on the k-th read of a chunk, ``None`` meaning that the read works.

    Once the schedule is used up every read works, or fails with the last error if `forever`.
    """

    def __init__(self, store: Any, errors: list[Exception | None], forever: bool = False) -> None:
        super().__init__(store)
        rest = itertools.repeat(errors[-1] if forever else None)
        self.schedule = itertools.chain(errors, rest)

    def _with_store(self, store: Any) -> FailingStore:
        copy = FailingStore(store, [None])
        copy.schedule = self.schedule
        return copy

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        if key.startswith("c/"):
            error = next(self.schedule)
            if error is not None:
                raise error
        return await super().get(key, *args, **kwargs)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry as often as always, without the pauses."""
    monkeypatch.setattr(retries, "POLICY", retries.RetryPolicy(5, 0.0, 0.0))


@pytest.fixture
def failing_store() -> type[FailingStore]:
    return FailingStore


@pytest.fixture
def memory_url() -> Iterator[str]:
    """Yield a fresh place in fsspec's in-process file system."""
    url = "memory://bigspec-tests/A.zarr"
    yield url
    fsspec.filesystem("memory").rm("/bigspec-tests", recursive=True)
