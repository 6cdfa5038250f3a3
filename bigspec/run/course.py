"""The course of a run: checkpoint, plan, passes, loop, last pass, answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

from bigspec.algorithms import TopLanczos
from bigspec.matrices import Grid, Matrix
from bigspec.passes import Pass, check_persisted, find_executor, one_blas_thread, passes_over
from bigspec.run import CheckpointBlocks, Outcome, RunState, solve
from bigspec.run.identity import check_place, checkpoint_of, prepare
from bigspec.run.loop import basis_nbytes
from bigspec.run.options import RunOptions
from bigspec.run.plan import Plan
from bigspec.run.vectors import Vectors
from bigspec.sources.array_handle import ArrayHandle
from bigspec.watch import Observer

__all__ = ["Ending", "LastPass", "conduct"]

Answer = TypeVar("Answer")


class LastPass(Protocol):
    """The pass for the vectors, after the loop; see `bigspec.run.vectors`."""

    def check(self, passes: Pass) -> None:
        """Raise before the first pass if the last pass would be impossible."""

    def make(self, passes: Pass, outcome: Outcome, observer: Observer) -> Vectors:
        """Return the vectors, after one more pass if they need it."""


@dataclass(frozen=True)
class Ending:
    """The end of a run, with all that an answer needs.

    Attributes
    ----------
    plan : Plan
    options : RunOptions
    progress : RunState
        The run when this call began: its description, and its seconds so far.
    outcome : Outcome
    vectors : Vectors
    layout : dict
        How the matrix was read, and where the passes ran.
    start_columns : int
        Number of old vectors in the start block.
    """

    plan: Plan
    options: RunOptions
    progress: RunState
    outcome: Outcome
    vectors: Vectors
    layout: dict[str, Any]
    start_columns: int

    @property
    def run(self) -> dict[str, Any]:
        """The description of the run; see `bigspec.run.identity`."""
        return self.progress.run

    @property
    def seconds(self) -> float:
        """Wall time of the run, in all processes."""
        return self.progress.seconds + time.monotonic() - self.options.began

    @property
    def missing_as(self) -> str:
        """The value that entries of missing chunks count as; empty if no chunk is missing."""
        lacking = self.vectors.missing_chunks or any(
            record.missing_chunks for record in self.outcome.history
        )
        return self.plan.matrix.missing_as if lacking else "0"

    @property
    def bytes_read(self) -> int:
        """Decoded bytes that measurements, passes and the last pass have read."""
        passes = sum(record.bytes_read for record in self.outcome.history)
        return self.plan.measured_bytes + passes + self.vectors.bytes_read


def conduct(
    matrix: Matrix, options: RunOptions, last: LastPass, present: Callable[[Ending], Answer]
) -> Answer:
    """Make a run, or finish the one in a checkpoint, and return the answer.

    Parameters
    ----------
    matrix : Matrix
    options : RunOptions
    last : LastPass
        Makes the vectors.
    present : callable
        Makes the answer.

    Raises
    ------
    BigspecError
        See `bigspec.norm`.
    KeyboardInterrupt
        Its ``estimate`` is the answer so far, once a pass is complete.
    """
    check_persisted(matrix)
    _check_still(matrix)
    observer, executor = options.observer, find_executor(matrix.resident)
    try:
        with (
            one_blas_thread(),
            checkpoint_of(options.checkpoint, observer, options.wishes.algorithm) as (
                writer,
                found,
            ),
            ExitStack() as stack,
        ):
            if writer is not None:
                check_place(matrix)
            plan, progress, W = prepare(found, matrix, executor, options)
            observer.identified(progress.run.get("id", ""))
            layout = plan.layout.to_dict() | {"where": plan.where}
            passes = passes_over(matrix, plan.layout, executor, plan.block_size, plan.first_slab)
            stack.callback(passes.close)
            last.check(passes)
            observer.run_started(matrix.name, layout)
            algorithm = plan.algorithm
            if writer is not None and isinstance(algorithm, TopLanczos):
                algorithm = replace(algorithm, store=CheckpointBlocks(writer))
            columns = 0 if W is None else W.shape[1]

            def answer_from(outcome: Outcome) -> Answer:
                passes.make_room(basis_nbytes(outcome.state) + plan.vectors_bytes)
                vectors = last.make(passes, outcome, observer)
                _check_still(matrix)
                return present(Ending(plan, options, progress, outcome, vectors, layout, columns))

            outcome = None
            try:
                outcome = solve(
                    passes,
                    algorithm,
                    options.budget,
                    entropy=progress.run["entropy"],
                    failure_probability=options.failure_probability,
                    start=W,
                    observer=observer,
                    progress=progress,
                    writer=writer,
                )
                answer = answer_from(outcome)
            except KeyboardInterrupt as error:
                known = _after_interrupt(outcome) if outcome else getattr(error, "outcome", None)
                if known is not None:  # the interval holds
                    error.estimate = answer_from(known)  # type: ignore[attr-defined]
                raise
        observer.run_finished(answer)  # type: ignore[arg-type]
    finally:
        observer.close()
    return answer


def _check_still(matrix: Matrix) -> None:
    """Refuse a matrix whose store holds another one by now.

    The content tokens of a pass show it only to later passes, and not where all bytes are those of
    the matrix that was opened, read as entries of that one.

    Raises
    ------
    MatrixChangedError
    """
    for handle in _handles(matrix):
        handle.check_still()


def _handles(part: Any) -> Iterator[ArrayHandle]:
    """Find the stored arrays that a matrix is made of."""
    if isinstance(part, ArrayHandle):
        yield part
    elif isinstance(part, tuple):
        for one in part:
            yield from _handles(one)
    elif is_dataclass(part) and not isinstance(part, (type, Grid)):
        for entry in fields(part):
            yield from _handles(getattr(part, entry.name, None))


def _after_interrupt(outcome: Outcome) -> Outcome:
    """Return the outcome of a run that was interrupted in its last pass, for the vectors."""
    status = f"{outcome.status} The pass for the vectors was interrupted."
    return replace(outcome, stopped_by="interrupted", status=status)
