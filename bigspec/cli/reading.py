"""Options that say how arrays are read: which dimensions make the rows, what is missing, raw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bigspec import api
from bigspec.errors import ArgumentError

if TYPE_CHECKING:
    from bigspec.matrices import Matrix

__all__ = ["Reading"]


@dataclass(frozen=True)
class Reading:
    """What ``--rows``, ``--fill``, ``--raw`` and ``--missing-chunks`` say, and how to reach it."""

    rows: str | None
    fill: float | None
    raw: bool
    missing_chunks: str
    storage: dict[str, Any] | None = field(default=None, repr=False)

    def source(self, memory_limit: int | str | None, source: str) -> Any:
        """Return the source as it is, or the opened matrix if one of these options is given."""
        plain = self.rows is None and self.fill is None and not self.raw
        if plain and self.missing_chunks == "fill":
            return source
        return self.matrices(memory_limit, source)[0]

    def matrices(self, memory_limit: int | str | None, *sources: str) -> list[Matrix]:
        """Open each source with the options that are meant for it.

        They are meant for every source that takes them: with ``--minus`` one of the two may be a
        file without dimensions or attributes, but not both.

        Raises
        ------
        ArgumentError
            No source takes them.
        """
        names = None if self.rows is None else [name.strip() for name in self.rows.split(",")]
        limit = api.as_bytes(memory_limit)
        opened: list[Matrix] = []
        refusals: list[ArgumentError] = []
        for source in sources:
            try:
                opened.append(
                    api.open_within(
                        source,
                        limit,
                        rows=names,
                        fill=self.fill,
                        raw=self.raw,
                        missing_chunks=self.missing_chunks,
                        storage=self.storage,
                    )
                )
            except ArgumentError as error:
                refusals.append(error)
                if len(refusals) == len(sources):
                    raise refusals[0] from None
                opened.append(
                    api.open_within(
                        source, limit, missing_chunks=self.missing_chunks, storage=self.storage
                    )
                )
        return opened
