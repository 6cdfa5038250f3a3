"""The course of a run: checkpoint, plan, passes, loop, last pass, answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from bigspec.algorithms import TopLanczos
from bigspec.matrices import Matrix
from bigspec.passes import Pass, find_executor, one_blas_thread, passes_over
from bigspec.run import KeptBlocks, Outcome, Progress, solve
from bigspec.run.identity import check_place, kept, prepared
from bigspec.run.options import RunOptions
from bigspec.run.plan import Plan
from bigspec.run.vectors import Vectors
from bigspec.watch import Observer

__all__ = ["Ending", "LastPass", "conduct"]

Answer = TypeVar("Answer")


class LastPass(Protocol):
    """Makes the vectors once the loop has ended; see `bigspec.run.vectors`."""

    def check(self, passes: Pass) -> None:
        """Refuse, before the first pass, what the last one could not do."""

    def make(self, passes: Pass, outcome: Outcome, observer: Observer) -> Vectors:
        """Make one more pass if one is needed, and return the vectors."""


@dataclass(frozen=True)
class Ending:
    """A run that has ended, for whoever presents it.

    Attributes
    ----------
    plan : Plan
    options : RunOptions
    progress : Progress
        What was known when this call began: which run it is, and its seconds so far.
    outcome : Outcome
    vectors : Vectors
    layout : dict
        How the matrix was cut, and where the passes ran.
    start_columns : int
        Old vectors in the start block.
    """

    plan: Plan
    options: RunOptions
    progress: Progress
    outcome: Outcome
    vectors: Vectors
    layout: dict[str, Any]
    start_columns: int

    @property
    def run(self) -> dict[str, Any]:
        """Which run it is; see `bigspec.run.identity`."""
        return self.progress.run

    @property
    def seconds(self) -> float:
        """Wall time of the run, in all processes."""
        return self.progress.seconds + time.monotonic() - self.options.began

    @property
    def bytes_read(self) -> int:
        """Decoded bytes read: by measurements, in all passes, and in the last one."""
        passes = sum(record.bytes_read for record in self.outcome.history)
        return self.plan.measured_bytes + passes + self.vectors.bytes_read


def conduct(
    matrix: Matrix, options: RunOptions, last: LastPass, present: Callable[[Ending], Answer]
) -> Answer:
    """Run from the checkpoint or from the start to the answer, and tell the observer.

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
        Its ``estimate`` is the answer so far, if a pass is complete.
    """
    observer, executor = options.observer, find_executor(matrix.resident)
    try:
        with (
            one_blas_thread(),
            kept(options.checkpoint, observer, options.wishes.algorithm) as (writer, held),
        ):
            if writer is not None:
                check_place(matrix)
            plan, progress, W = prepared(held, matrix, executor, options)
            observer.identified(progress.run.get("id", ""))
            layout = plan.layout.to_dict() | {"where": plan.where}
            passes = passes_over(matrix, plan.layout, executor)
            last.check(passes)
            observer.run_started(matrix.name, layout)
            algorithm = plan.algorithm
            if writer is not None and isinstance(algorithm, TopLanczos):
                algorithm = replace(algorithm, shelf=KeptBlocks(writer))
            columns = 0 if W is None else W.shape[1]

            def answered(outcome: Outcome) -> Answer:
                vectors = last.make(passes, outcome, observer)
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
                answer = answered(outcome)
            except KeyboardInterrupt as error:
                known = _interrupted(outcome) if outcome else getattr(error, "outcome", None)
                if known is not None:  # the interval was paid for, and holds
                    error.estimate = answered(known)  # type: ignore[attr-defined]
                raise
        observer.run_finished(answer)  # type: ignore[arg-type]
    finally:
        observer.close()
    return answer


def _interrupted(outcome: Outcome) -> Outcome:
    """Return what is known of a run whose last pass, for the vectors, was interrupted."""
    status = f"{outcome.status} The pass for the vectors was interrupted."
    return replace(outcome, stopped_by="interrupted", status=status)
