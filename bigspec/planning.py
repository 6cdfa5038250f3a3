"""Choosing the algorithm, the block size and the layout, and saying why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from bigspec.algorithms import Algorithm, Gram, Lanczos, Power, TopLanczos
from bigspec.errors import ArgumentError, MemoryLimitError
from bigspec.kernels import working_dtype
from bigspec.layout import Layout, choose_layout, format_bytes, keep_layout
from bigspec.matrices import Matrix, OperatorMatrix
from bigspec.passes import Executor, Measurement, measure, with_factors

__all__ = ["ALGORITHMS", "Plan", "Wishes", "check_wishes", "make_plan", "resume_plan"]

ALGORITHMS = ("auto", "lanczos", "power", "gram")
DEFAULT_BLOCK = 16
# Blocks of the iterate's size held at the client: the recurrence, the image, temporaries.
BLOCKS = {"lanczos": 6, "power": 5, "gram": 3}
# Typical passes to a relative width of 1e-3 by block size (method, section 9: a gap of 0.7).
PASSES = {1: 15, 2: 11, 4: 8, 8: 7, 16: 6, 32: 5}
MEASURE_FROM = 256 << 20  # smaller matrices are done before a measurement pays
MEASURE_SPARSE_FROM = 16 << 20  # there blocks differ by more, and a part is measured
PREFER_DEFAULT = 0.85  # another block size must be this much cheaper, or noise would choose
WHOLE = 256  # order up to which the block for triplets spans the whole space
GRAM_ALWAYS = 512  # order up to which H is formed without measuring
GRAM_MOST = 4096
FLOPS = 2e10  # of one core, for the eigenproblem of the Gram matrix


@dataclass(frozen=True)
class Wishes:
    """What the caller fixed, and what is left open (None, "auto").

    Attributes
    ----------
    algorithm : str
    block_size : int or None
    extra : int
        Columns of a warm start.
    memory_limit : int or None
        Bytes one process may hold; None for half of what it has.
    count : int
        Singular triplets; 0 for the norm.
    shelved : bool
        Whether a checkpoint takes a basis that does not fit.
    stored : bool
        Whether the left vectors are written to a store.
    """

    algorithm: str = "auto"
    block_size: int | None = None
    extra: int = 0
    memory_limit: int | None = None
    count: int = 0
    shelved: bool = False
    stored: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run would read, hold and do.

    Attributes
    ----------
    matrix : Matrix
    algorithm : Algorithm
    block_size : int
        Random columns; the order of H for the Gram algorithm.
    layout : Layout
    where : str
        What runs the passes.
    choices : tuple of str
        What was chosen, and why.
    measured_bytes : int
        Bytes read to measure the first slab.
    """

    matrix: Matrix = field(repr=False)
    algorithm: Algorithm[Any]
    block_size: int
    layout: Layout = field(repr=False)
    where: str
    choices: tuple[str, ...]
    measured_bytes: int = 0

    @property
    def bytes_per_pass(self) -> int:
        """Decoded bytes that one pass reads."""
        return self.matrix.nbytes * self.layout.reads_per_pass

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        return {
            "schema": "bigspec.plan/1",
            "matrix": self.matrix.identity,
            "algorithm": self.algorithm.name,
            "block_size": self.block_size,
            "bytes_per_pass": self.bytes_per_pass,
            "where": self.where,
            "layout": self.layout.to_dict(),
            "choices": list(self.choices),
        }

    def __str__(self) -> str:
        layout, memory = self.layout, self.layout.memory
        m, n = self.matrix.shape
        reads = "read once" if layout.reads_per_pass == 1 else "read TWICE (no strip fits)"
        carried = f"operands {format_bytes(memory.carried)}, " if memory.carried else ""
        held = (
            f"{format_bytes(memory.total)} of {format_bytes(memory.limit)} a process: "
            f"iterates {format_bytes(memory.iterates)}, {carried}partial sums "
            f"{format_bytes(memory.results)}, {memory.tasks} task(s) of {format_bytes(memory.task)}"
        )
        panels = f"{layout.panels} panels of {layout.orientation}, {reads}"
        lines = [
            self.matrix.name,
            f"  matrix      {m} x {n} {self.matrix.dtype}, {format_bytes(self.matrix.nbytes)}",
            f"  pass        {panels}: {format_bytes(self.bytes_per_pass)} a pass",
            f"  runs on     {self.where}",
            f"  algorithm   {self.algorithm.name}, block of {self.block_size}",
            f"  memory      {held}",
        ]
        return "\n".join(lines + [f"  because     {choice}" for choice in self.choices])


def make_plan(matrix: Matrix, executor: Executor, wishes: Wishes, *, look: bool = True) -> Plan:
    """Choose what the caller left open.

    Parameters
    ----------
    matrix : Matrix
    executor : Executor
    wishes : Wishes
    look : bool
        May the first slab be read, to measure reading against multiplying? False for
        `bigspec.plan`, which reads nothing.

    Raises
    ------
    ArgumentError, MemoryLimitError
    """
    check_wishes(matrix, wishes)
    limit = wishes.memory_limit or executor.memory() // 2
    planner = _Planner(matrix, executor, wishes, limit)
    if wishes.count:
        return planner.plan_top()
    measured = planner.measure() if look else None
    return planner.plan(measured)


def resume_plan(
    matrix: Matrix, executor: Executor, wishes: Wishes, run: dict[str, Any]
) -> tuple[Plan, bool]:
    """Plan the rest of a run that was interrupted, with what it had chosen.

    Parameters
    ----------
    matrix, executor, wishes
        As in `make_plan`; `wishes` no longer decides algorithm and block size.
    run : dict
        See `bigspec.resuming`.

    Returns
    -------
    Plan
    kept : bool
        Whether the panels are the same, so that the bits are.

    Raises
    ------
    MemoryLimitError
        The run does not fit any more, or only with iterates of another length.
    """
    name, b, cut = run["algorithm"], run["block_size"], run["cut"]
    limit = wishes.memory_limit or executor.memory() // 2
    planner = _Planner(matrix, executor, replace(wishes, extra=run["extra"]), limit)
    choices = list(run["choices"])
    layout = planner.kept_layout(name, b, cut)
    kept = layout is not None
    if layout is None:
        layout = planner.layout(name, b)
        if layout.orientation != cut["orientation"]:
            msg = (
                f"memory_limit: expected room for the panels of {cut['orientation']} that the "
                f"checkpoint was begun with, got {format_bytes(limit)}, which allows only panels "
                f"of {layout.orientation}. Give it the memory it had"
            )
            raise MemoryLimitError(msg)
        choices.append(
            "panels cut anew, because those of the checkpoint do not fit the memory limit: the "
            "last bits are not those of an uninterrupted run, and panels are not compared with "
            "the first pass"
        )
    if wishes.count:
        algorithm: Algorithm[Any] = planner.top(b, layout)
        where = executor.name
        return Plan(matrix, algorithm, b, layout, where, tuple(choices)), kept
    basis = min(run["basis_bytes"], layout.memory.spare)
    if name == "lanczos" and basis < run["basis_bytes"]:
        choices.append(
            f"basis of at most {format_bytes(basis)}, less than before: once it no longer fits, "
            "the bits are not those of an uninterrupted run"
        )
    algorithm = _build(name, b, basis)
    where = executor.name
    return Plan(matrix, algorithm, b, layout, where, tuple(choices), run["measured_bytes"]), kept


def _build(name: str, block_size: int, basis_bytes: int) -> Algorithm[Any]:
    if name == "lanczos":
        # The basis lives at the client; a cluster's limit says nothing about that process.
        return Lanczos(block_size, basis_bytes=basis_bytes)
    return Gram() if name == "gram" else Power(block_size)


def check_wishes(matrix: Matrix, wishes: Wishes) -> None:
    """Raise `ArgumentError` for wishes that contradict the matrix or one another."""
    if wishes.algorithm not in ALGORITHMS:
        msg = f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {wishes.algorithm!r}"
        raise ArgumentError(msg)
    order = min(matrix.shape)
    if wishes.count < 0 or wishes.count > order:
        msg = (
            f"k: expected 1 <= k <= min(m, n) = {order} for {matrix.name} {matrix.shape}, got "
            f"{wishes.count}"
        )
        raise ArgumentError(msg)
    if wishes.count and wishes.algorithm not in ("auto", "lanczos"):
        msg = f"algorithm: expected 'lanczos' or 'auto' for triplets, got {wishes.algorithm!r}"
        raise ArgumentError(msg)
    if wishes.block_size is not None and wishes.block_size < 1:
        msg = f"block_size: expected at least 1, got {wishes.block_size!r}; 16 is a good choice"
        raise ArgumentError(msg)
    if wishes.algorithm == "gram" and wishes.block_size is not None:
        msg = (
            f"block_size: expected none with algorithm='gram', which has no random block, got "
            f"{wishes.block_size}"
        )
        raise ArgumentError(msg)
    if wishes.algorithm == "gram" and isinstance(matrix, OperatorMatrix):
        msg = (
            f"algorithm: expected 'lanczos' or 'power' for the operator {matrix.name}, got 'gram', "
            "which needs entries"
        )
        raise ArgumentError(msg)


class _Room(TypedDict):
    blocks: int
    limit: int
    tasks: int
    local: bool


@dataclass(frozen=True)
class _Planner:
    matrix: Matrix
    executor: Executor
    wishes: Wishes
    limit: int

    @property
    def order(self) -> int:
        return min(self.matrix.shape)

    def layout(self, algorithm: str, block_size: int) -> Layout:
        columns = self.columns(algorithm, block_size)
        order = self.order if algorithm == "gram" else None
        layout = choose_layout(self.matrix, columns, order=order, **self.room(algorithm))
        return with_factors(layout, self.matrix, columns)

    def kept_layout(self, algorithm: str, block_size: int, cut: dict[str, Any]) -> Layout | None:
        columns = self.columns(algorithm, block_size)
        layout = keep_layout(self.matrix, cut, columns, **self.room(algorithm))
        try:
            return None if layout is None else with_factors(layout, self.matrix, columns)
        except MemoryLimitError:
            return None

    def columns(self, algorithm: str, block_size: int) -> int:
        return block_size + (0 if algorithm == "gram" else self.wishes.extra)

    def room(self, algorithm: str) -> _Room:
        return {
            "blocks": BLOCKS[algorithm],
            "limit": self.limit,
            "tasks": 1 if isinstance(self.matrix, OperatorMatrix) else self.executor.tasks,
            "local": self.executor.local,
        }

    def measure(self) -> Measurement | None:
        """Time the first slab, if something is open and the matrix large enough to care."""
        matrix, wishes = self.matrix, self.wishes
        open_ = wishes.block_size is None and wishes.algorithm != "gram"
        dense_here = matrix.resident and matrix.streams and matrix.nbytes == _dense_bytes(matrix)
        sparse = matrix.piece_nbytes is not None
        enough = MEASURE_SPARSE_FROM if sparse else MEASURE_FROM
        known = isinstance(matrix, OperatorMatrix) or dense_here or not matrix.streams
        # Not below 4: at flat edges one column may never certify (section 9 of the method).
        sizes = [b for b in (4, 8, 16, 32) if b <= self.order]
        if known or not open_ or not sizes or matrix.nbytes < enough:
            return None
        try:
            layout = self.layout("lanczos", min(DEFAULT_BLOCK, self.order))
        except MemoryLimitError:
            return None
        if layout.reads_per_pass == 2:
            return None
        gram = wishes.algorithm == "auto" and self.order <= GRAM_MOST and self.gram_fits()
        result = self.executor.call(measure, matrix, layout, sizes, gram)
        assert isinstance(result, Measurement)
        return result

    def gram_fits(self) -> bool:
        try:
            return self.layout("gram", self.order).reads_per_pass == 1
        except MemoryLimitError:
            return False

    def plan(self, measured: Measurement | None) -> Plan:
        b, why_b = self.block_size(measured)
        name, why = self.algorithm(b, measured)
        choices = [why] if why else []
        if name == "gram":
            layout = self.layout("gram", self.order)
            b = layout.iterate_length
        else:
            choices += [why_b] if why_b else []
            name, b, layout, more = self.fit(name, b)
            choices += more
        choices += self.orientation(layout)
        algorithm = _build(name, b, layout.memory.spare)
        read = measured.bytes_read if measured else 0
        return Plan(self.matrix, algorithm, b, layout, self.executor.name, tuple(choices), read)

    def plan_top(self) -> Plan:
        """Plan a run for the k largest triplets: the widest block that fits."""
        k, n, wished = self.wishes.count, self.order, self.wishes.block_size
        widest = n if n <= WHOLE else min(n, max(DEFAULT_BLOCK, k + 8))
        sizes = (
            {min(wished, n)} if wished else {widest, *(b for b in (64, 32, 16, 8) if b < widest)}
        )
        error: MemoryLimitError | None = None
        for b in sorted(sizes, reverse=True):
            try:
                layout = self.layout("lanczos", b)
                algorithm = self.top(b, layout)
            except MemoryLimitError as refusal:
                error = error or refusal
                continue
            why = f"block of {b}: the largest that fits the memory limit"
            if b == widest:
                why = (
                    f"block of {b}: k + 8 columns (at least {DEFAULT_BLOCK}) need the fewest passes"
                )
                if n <= WHOLE:
                    why = f"block of {b}: one pass over the whole space of order {n}"
            choices = [why] if wished is None else []
            side = "left" if layout.orientation == "rows" else "right"
            choices += [f"one more pass for the {side} vectors"]
            choices += self.orientation(layout)
            where = self.executor.name
            return Plan(self.matrix, algorithm, b, layout, where, tuple(choices))
        assert error is not None
        raise error

    def top(self, b: int, layout: Layout) -> TopLanczos:
        """Return the algorithm for k triplets with the memory that a layout leaves.

        Raises
        ------
        MemoryLimitError
            The vectors do not fit, or so little of the basis that no answer could come of it.
        """
        k, memory = self.wishes.count, layout.memory
        item = working_dtype(self.matrix.dtype).itemsize
        block = layout.iterate_length * (b + self.wishes.extra) * item
        short, long_ = layout.iterate_length * k * item, layout.swept.extent * k * item
        rows = layout.orientation == "rows"
        vectors = 2 * short + (0 if rows and self.wishes.stored else 3 * long_)
        blocks = 1 if self.wishes.shelved else max(3, 1 + -(-(k + 8) // b))
        basis = memory.spare - vectors
        if basis >= blocks * block:
            return TopLanczos(b, basis_bytes=basis, count=k)
        least = memory.total + vectors + blocks * block
        advice = [] if self.wishes.shelved else ["a checkpoint, which takes the basis"]
        advice += (
            ["u_store, which takes the left vectors"] if rows and not self.wishes.stored else []
        )
        msg = (
            f"memory_limit: expected at least {format_bytes(least)} for {k} triplets of "
            f"{self.matrix.name} {self.matrix.shape} {self.matrix.dtype} at block_size={b} (passes "
            f"{format_bytes(memory.total)}, vectors {format_bytes(vectors)}, {blocks} block(s) of "
            f"the basis {format_bytes(blocks * block)}), got {format_bytes(memory.limit)}. Give "
            f"{' or '.join(['more memory', *advice])}."
        )
        raise MemoryLimitError(msg)

    def fit(self, name: str, b: int) -> tuple[str, int, Layout, list[str]]:
        """Shrink what is open until the iterates fit."""
        names = [name] if self.wishes.algorithm != "auto" else [name, "power"]
        sizes = [b] if self.wishes.block_size is not None else sorted({b, 8, 4, 1}, reverse=True)
        error: MemoryLimitError | None = None
        for size in (size for size in sizes if size <= b):
            for candidate in names:
                try:
                    layout = self.layout(candidate, size)
                except MemoryLimitError as refusal:
                    error = error or refusal
                    continue
                smaller = (candidate, size) != (name, b)
                why = f"{candidate} with a block of {size}: the largest that fits the memory limit"
                return candidate, size, layout, [why] if smaller else []
        assert error is not None
        raise error

    def block_size(self, measured: Measurement | None) -> tuple[int, str]:
        if self.wishes.block_size is not None:
            return min(self.wishes.block_size, self.order), ""
        default = min(DEFAULT_BLOCK, self.order)
        if measured is None:
            return default, f"block of {default}: the default, certifies soonest when reading rules"
        cost = {b: PASSES[b] * (measured.reading + t) for b, t in measured.multiplying.items()}
        best = min(cost, key=lambda b: cost[b])
        if default in cost and cost[best] > PREFER_DEFAULT * cost[default]:
            best = default
        return best, (
            f"block of {best}: measured per pass and core, reading {measured.reading:.2g} s, "
            f"products {measured.multiplying[best]:.2g} s at {best} columns"
        )

    def algorithm(self, b: int, measured: Measurement | None) -> tuple[str, str]:
        name, n = self.wishes.algorithm, self.order
        if name != "auto":
            return name, ""
        if isinstance(self.matrix, OperatorMatrix):
            return "lanczos", "lanczos: fewest passes, and an operator has no entries for gram"
        if self.wishes.block_size is not None:
            return "lanczos", "lanczos: fewest passes for the block size given"
        if n <= GRAM_ALWAYS and self.gram_fits():
            return "gram", f"gram: A^H A of order {n} is exact after one pass"
        if measured is None or measured.gram is None:
            return "lanczos", f"lanczos: fewest passes (gram would need A^H A of order {n})"
        eig = 4 * n**3 / FLOPS
        gram = measured.reading + measured.gram
        other = PASSES.get(b, 6) * (measured.reading + measured.multiplying[b])
        cores = max(1, self.executor.tasks)
        if gram / cores + eig < other / cores:
            return "gram", (
                f"gram: one pass of {gram:.2g} core-seconds against about {PASSES.get(b, 6)} "
                f"passes and {other:.2g} core-seconds for lanczos"
            )
        return "lanczos", f"lanczos: about {other:.2g} core-seconds against {gram:.2g} for gram"

    def orientation(self, layout: Layout) -> list[str]:
        m, n = self.matrix.shape
        natural = "rows" if n <= m else "columns"
        said = []
        if layout.orientation != natural:
            said.append(
                f"panels of {layout.orientation}: a strip of chunks along the smaller side does "
                "not fit the memory limit, one along the larger side does"
            )
        if layout.reads_per_pass == 2:
            said.append("two reads a pass: no strip of chunks fits the memory limit")
        if layout.memory.tasks < min(self.executor.tasks, layout.panels) and not isinstance(
            self.matrix, OperatorMatrix
        ):
            said.append(
                f"{layout.memory.tasks} of {self.executor.tasks} threads: more strips at once do "
                "not fit the memory limit"
            )
        return said


def _dense_bytes(matrix: Matrix) -> int:
    return matrix.shape[0] * matrix.shape[1] * matrix.dtype.itemsize
