"""The planner, for the norm and for k triplets: it chooses what the caller left open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from bigspec.algorithms import REGISTRY, Algorithm, Row
from bigspec.errors import MemoryLimitError, ResumeError, format_bytes
from bigspec.expressions import Combination
from bigspec.kernels import working_dtype
from bigspec.kernels.compiled import COMPILED, NUMPY, available, multiplies
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.panels.choose_layout import choose_layout, keep_layout
from bigspec.panels.first import FirstSlab
from bigspec.panels.layout import Layout
from bigspec.passes import Executor, Measurement, measure, where, with_factors
from bigspec.run.choices import (
    DEFAULT_BLOCK,
    algorithm_choice,
    block_choice,
    layout_choices,
    triplet_choices,
    widest_block,
)
from bigspec.run.costs import Setting
from bigspec.run.pinning import pinned_layout
from bigspec.run.plan import Plan, Wishes, check_wishes

__all__ = ["make_plan", "resume_plan"]

MEASURE_FROM = 256 << 20  # bytes; smaller matrices are done before a measurement pays
MEASURE_SPARSE_FROM = 16 << 20  # sparse: block sizes matter more, and a part is measured
NARROWER, NARROWER_SEVERAL = (8, 4, 1), (64, 32, 16, 8)  # blocks to try if wider ones do not fit


def make_plan(matrix: Matrix, executor: Executor, wishes: Wishes, *, look: bool = True) -> Plan:
    """Choose what the caller left open.

    Parameters
    ----------
    matrix : Matrix
    executor : Executor
    wishes : Wishes
    look : bool
        Whether to read the first slab and time it. `bigspec.plan` reads nothing and passes False.

    Raises
    ------
    ArgumentError, MemoryLimitError
    """
    check_wishes(matrix, wishes)
    limit = wishes.memory_limit or executor.memory() // 2
    planner = _Planner(matrix, executor, wishes, limit)
    return planner.plan(planner.measure() if look else None)


def resume_plan(
    matrix: Matrix, executor: Executor, wishes: Wishes, run: dict[str, Any]
) -> tuple[Plan, bool]:
    """Plan the rest of an interrupted run, with the choices that it made.

    Parameters
    ----------
    matrix, executor, wishes
        See `make_plan`; but algorithm and block size come from `run`.
    run : dict
        See `bigspec.run.identity`.

    Returns
    -------
    Plan
    same : bool
        Whether the panels are the same, which makes the bits the same.

    Raises
    ------
    MemoryLimitError
        The run no longer fits, or only fits with panels along the other side.
    ResumeError
        It multiplies with a kernel that is not installed.
    """
    b, cut, count = run["block_size"], run["cut"], wishes.count
    kernel = cut.get("kernel", NUMPY)
    if kernel not in ((NUMPY, COMPILED) if available() else (NUMPY,)):
        msg = (
            f"checkpoint: the run multiplies with the kernel {kernel!r} of bigspec-compiled, which "
            "is not installed here. Install it (deploy/compiled), or begin the run again elsewhere"
        )
        raise ResumeError(msg)
    limit = wishes.memory_limit or executor.memory() // 2
    row = wishes.row or REGISTRY.named(run["algorithm"], several=count > 0)
    planner = _Planner(matrix, executor, replace(wishes, extra=run["extra"]), limit)
    choices = list(run["choices"])
    layout = planner.same_layout(row, b, cut)
    same = layout is not None
    if layout is None:
        layout = planner.layout(row, b)
        if layout.orientation != cut["orientation"]:
            msg = (
                f"memory_limit: the run was started with panels of {cut['orientation']}, and "
                f"{format_bytes(limit)} has room only for panels of {layout.orientation}. Give it "
                "as much memory as before"
            )
            raise MemoryLimitError(msg)
        choices.append(
            "new panels, because those of the checkpoint do not fit the memory limit: the last "
            "bits may differ from those of an uninterrupted run, and panels are not compared "
            "with the first pass"
        )
    basis = layout.memory.spare
    if not count:
        basis = min(run["basis_bytes"], basis)
        if row.basis and basis < run["basis_bytes"]:
            choices.append(
                f"basis of at most {format_bytes(basis)}, less than before: if it does not fit, "
                "the last bits may differ from those of an uninterrupted run"
            )
    layout = replace(layout, kernel=kernel)
    algorithm = planner.algorithm(row, b, layout, basis)
    chosen = planner.finish(algorithm, b, layout, choices, run["measured_bytes"])
    return replace(chosen, layout=pinned_layout(chosen, planner.wishes, executor)), same


class _Room(TypedDict):
    blocks: int
    limit: int
    tasks: int
    local: bool
    waiting: int


@dataclass(frozen=True)
class _Planner:
    matrix: Matrix
    executor: Executor
    wishes: Wishes
    limit: int

    @property
    def order(self) -> int:
        return min(self.matrix.shape)

    def layout(self, row: Row, block_size: int) -> Layout:
        columns = self.columns(row, block_size)
        order = self.order if row.entries else None
        layout = choose_layout(self.matrix, columns, order=order, **self.room(row))
        return with_factors(layout, self.matrix, columns)

    def same_layout(self, row: Row, block_size: int, cut: dict[str, Any]) -> Layout | None:
        columns = self.columns(row, block_size)
        layout = keep_layout(self.matrix, cut, columns, **self.room(row))
        try:
            return None if layout is None else with_factors(layout, self.matrix, columns)
        except MemoryLimitError:
            return None

    def columns(self, row: Row, block_size: int) -> int:
        return block_size + (0 if row.entries else self.wishes.extra)

    def room(self, row: Row) -> _Room:
        return {
            "blocks": row.blocks,
            "limit": self.limit,
            "tasks": 1 if isinstance(self.matrix, OperatorMatrix) else self.executor.tasks,
            "local": self.executor.local,
            "waiting": self.executor.waiting,
        }

    def measure(self) -> Measurement | None:
        """Time the first slab, if the matrix is large and there is something to choose."""
        matrix, wishes, gram = self.matrix, self.wishes, REGISTRY.named("gram")
        own = not isinstance(wishes.algorithm, str) or wishes.count > 0
        closed = own or wishes.block_size is not None or wishes.algorithm == gram.name
        dense = matrix.shape[0] * matrix.shape[1] * matrix.dtype.itemsize
        dense_here = matrix.resident and matrix.streams and matrix.nbytes == dense
        sparse = matrix.cell_nbytes is not None
        enough = MEASURE_SPARSE_FROM if sparse else MEASURE_FROM
        known = isinstance(matrix, OperatorMatrix) or dense_here or not matrix.streams
        # Not below 4: at flat edges one column may never certify (section 9 of the method).
        sizes = [b for b in (4, 8, 16, 32) if b <= self.order]
        if known or closed or not sizes or matrix.nbytes < enough:
            return None
        try:
            layout = self.layout(REGISTRY.named("lanczos"), min(DEFAULT_BLOCK, self.order))
        except MemoryLimitError:
            return None
        if layout.reads_per_pass == 2:
            return None
        forms = wishes.algorithm == "auto" and self.fits(gram)
        if forms:
            layout = _higher(layout, self.layout(gram, self.order))
        # Products share the cores, no matter how many tasks wait for a link.
        cores = min(layout.memory.tasks, self.executor.tasks)
        memory = replace(layout.memory, tasks=cores)
        layout = replace(layout, memory=memory, kernel=self.kernel())
        result = self.executor.call(measure, matrix, layout, sizes, forms, self.executor.local)
        assert isinstance(result, Measurement)
        return result

    def kernel(self) -> str:
        """Return what multiplies: the compiled products, where the entries are arrays of theirs.

        One worker of a cluster is asked. Another one that lacks the package ends the run.
        """
        matrix = self.matrix
        arrays = matrix.nbytes == matrix.shape[0] * matrix.shape[1] * matrix.dtype.itemsize
        arrays &= not isinstance(matrix, OperatorMatrix | Combination)
        if arrays and multiplies(matrix.dtype) and available() and self.executor.call(available):
            return COMPILED
        return NUMPY

    def fits(self, row: Row) -> bool:
        """Whether an algorithm on H itself fits in one read."""
        try:
            return self.layout(row, self.order).reads_per_pass == 1
        except MemoryLimitError:
            return False

    def plan(self, measured: Measurement | None) -> Plan:
        setting = Setting(self.matrix, self.wishes, self.executor.tasks, measured)
        first, choices = self.first_choice(setting)
        row, b, layout, algorithm = self.fit(first)
        if row.several:
            choices += triplet_choices(setting, b, layout)
        elif (row, b) != first:
            choices += [f"{row.name} with a block of {b}: the largest that fits the memory limit"]
        if not row.entries and (kernel := self.kernel()) != NUMPY:
            layout = replace(layout, kernel=kernel)
            choices += ["products by bigspec-compiled, from the second pass on"]
        choices += layout_choices(setting, layout)
        b = layout.iterate_length if row.entries else b
        slab, read = self.first_slab(measured, layout)
        chosen = self.finish(algorithm, b, layout, choices, read)
        waiting = 0 if slab is None or measured is None else measured.bytes_read
        layout = pinned_layout(chosen, self.wishes, self.executor, waiting)
        return replace(chosen, first_slab=slab, layout=layout)

    def first_slab(
        self, measured: Measurement | None, layout: Layout
    ) -> tuple[FirstSlab | None, int]:
        """Return the measured slab, if the first pass takes it, and the bytes to read again.

        Until its panels' turn it lies beside the slabs of all tasks, in memory that is left over.
        """
        if measured is None or measured.slab is None or layout.reads_per_pass == 2:
            return None, 0 if measured is None else measured.bytes_read
        taken = 0
        panels = (layout.panel(index) for index in range(layout.panels))
        for slab in (slab for panel in panels for slab in layout.slabs(panel)):
            if not measured.slab.holds(layout.rectangle(slab, (0, layout.iterate_length))):
                break
            taken = slab[1]
        room = self.matrix.views or measured.bytes_read <= layout.memory.spare
        if not (taken and room):
            return None, measured.bytes_read
        rows, columns = measured.slab.rectangle or (slice(0, 0), slice(0, 0))
        height = (rows if layout.orientation == "rows" else columns).stop
        return measured.slab, measured.bytes_read * (height - taken) // height

    def finish(
        self, algorithm: Algorithm[Any], b: int, layout: Layout, choices: list[str], read: int
    ) -> Plan:
        place = where(self.matrix, self.executor, b)
        vectors = self.vectors_bytes(layout)
        return Plan(self.matrix, algorithm, b, layout, place, tuple(choices), read, vectors)

    def first_choice(self, setting: Setting) -> tuple[tuple[Row, int], list[str]]:
        """Return the best algorithm and block size if memory did not matter."""
        wishes, order, row = self.wishes, self.order, self.wishes.row
        if wishes.count:
            b = wishes.block_size or widest_block(wishes.count, order)
            return (row or REGISTRY.named("lanczos", several=True), min(b, order)), []
        if row is not None and row.entries:
            return (row, order), []
        if row is not None and wishes.own_block is not None:
            return (row, min(wishes.own_block, order)), []
        b, why_b = block_choice(setting)
        if row is not None:
            return (row, b), [why_b] if why_b else []
        row, why = algorithm_choice(setting, b, self.fits)
        if row.entries:
            return (row, order), [why]
        return (row, b), [why, why_b] if why_b else [why]

    def candidates(self, first: tuple[Row, int]) -> Iterator[tuple[Row, int]]:
        """Yield the candidates in turn; blocks get smaller if the caller fixed none."""
        (row, b), wishes = first, self.wishes
        own = not isinstance(wishes.algorithm, str)
        given = wishes.algorithm != "auto" or row.several or row.entries
        rows = [row] if given else [row, REGISTRY.named("power")]
        fixed = own or row.entries or wishes.block_size is not None
        narrower = NARROWER_SEVERAL if row.several else NARROWER
        for size in [b] if fixed else [b, *(size for size in narrower if size < b)]:
            yield from ((candidate, size) for candidate in rows)

    def fit(self, first: tuple[Row, int]) -> tuple[Row, int, Layout, Algorithm[Any]]:
        """Return the first candidate that fits the memory limit.

        If none fits, raise the error of the first one.
        """
        error: MemoryLimitError | None = None
        for row, b in self.candidates(first):
            try:
                layout = self.layout(row, b)
                return row, b, layout, self.algorithm(row, b, layout, layout.memory.spare)
            except MemoryLimitError as refusal:
                error = error or refusal
        assert error is not None
        raise error

    def algorithm(self, row: Row, b: int, layout: Layout, basis: int) -> Algorithm[Any]:
        """Make the algorithm, with at most `basis` bytes for its basis.

        Raises
        ------
        MemoryLimitError
            The basis of an object given by the caller does not fit.
        """
        given = self.wishes.algorithm
        if row.several:
            basis = self.basis_beside_vectors(b, layout)
        if isinstance(given, str):
            assert row.make is not None
            # The basis lies in this process; a cluster's limit says nothing about it.
            return row.make(b, basis, self.wishes.count)
        holds = getattr(given, "basis_bytes", 0)
        if holds > layout.memory.spare:
            memory = layout.memory
            msg = (
                f"memory_limit: expected at least {format_bytes(memory.total + holds)} for "
                f"{row.name} with {format_bytes(holds)} for its basis, got "
                f"{format_bytes(memory.limit)}. Give the basis less, or the run more"
            )
            raise MemoryLimitError(msg)
        return given

    def vectors_bytes(self, layout: Layout) -> int:
        """Return the memory of the vectors of k triplets; 0 for a norm."""
        wishes, item = self.wishes, working_dtype(self.matrix.dtype).itemsize
        short, long_ = (
            extent * wishes.count * item for extent in (layout.iterate_length, layout.along.extent)
        )
        rows = layout.orientation == "rows"
        # The rows of the last pass, LAPACK's copy of them, its vectors, and a copy in C order.
        elsewhere = rows and (wishes.left_in_store or not wishes.left)
        return 2 * short + (0 if elsewhere else 4 * long_)

    def basis_beside_vectors(self, b: int, layout: Layout) -> int:
        """Return the bytes that passes and vectors leave for the basis.

        Raises
        ------
        MemoryLimitError
            The vectors do not fit, or too little of the basis fits for an answer.
        """
        k, memory = self.wishes.count, layout.memory
        item = working_dtype(self.matrix.dtype).itemsize
        block = layout.iterate_length * (b + self.wishes.extra) * item
        rows, vectors = layout.orientation == "rows", self.vectors_bytes(layout)
        blocks = 1 if self.wishes.basis_in_checkpoint else max(3, 1 + -(-(k + 8) // b))
        basis = memory.spare - vectors
        if basis >= blocks * block:
            return basis
        least = memory.total + vectors + blocks * block
        advice = (
            [] if self.wishes.basis_in_checkpoint else ["a checkpoint, which can hold the basis"]
        )
        advice += (
            ["u_store, which holds the left vectors"]
            if rows and self.wishes.left and not self.wishes.left_in_store
            else []
        )
        msg = (
            f"memory_limit: expected at least {format_bytes(least)} for {k} triplets of "
            f"{self.matrix.name} {self.matrix.shape} {self.matrix.dtype} at block_size={b} (passes "
            f"{format_bytes(memory.total)}, vectors {format_bytes(vectors)}, basis "
            f"{format_bytes(blocks * block)}), got {format_bytes(memory.limit)}. Give "
            f"{' or '.join(['more memory', *advice])}."
        )
        raise MemoryLimitError(msg)


def _higher(one: Layout, other: Layout) -> Layout:
    """Return the layout with the higher first slab; the other's may be cut from it."""
    if other.orientation != one.orientation:
        return one
    return max(one, other, key=lambda layout: next(layout.slabs(layout.panel(0)))[1])
