"""The command ``bigspec svds``: singular triplets, the vectors into files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import bigspec
from bigspec.cli.options import RunFlags, taking
from bigspec.cli.performance import performance_option
from bigspec.cli.runs import Inputs, run
from bigspec.cli.statuses import STATUSES, CannotWriteError, Command
from bigspec.cli.values import option, writable_place
from bigspec.cli.watching import watching_options
from bigspec.names import shown
from bigspec.results.files import replacing

if TYPE_CHECKING:
    from bigspec.results import Triplets

__all__ = ["svds_command"]

TRIPLETS = "Triplets"


@click.command("svds", cls=Command, epilog=STATUSES)
@taking(RunFlags)
@option(TRIPLETS, "-k", "count", type=int, required=True, metavar="K", help="Number of triplets.")
@option(
    TRIPLETS, "--u", "u_store", metavar="URL", help="Write the left vectors there, as a Zarr array."
)
@option(
    TRIPLETS,
    "--v",
    "v_file",
    type=click.Path(dir_okay=False, writable=True),
    callback=writable_place,
    metavar="FILE.npz",
    help="Write vh, s, lower and upper; --start reads this file.",
)
@performance_option
@watching_options
@click.pass_context
def svds_command(
    ctx: click.Context, flags: RunFlags, count: int, u_store: str | None, v_file: str | None
) -> None:
    """Compute the K largest singular triplets of SRC, each value as a certified interval.

    With --center these are principal components. Left vectors need --u and one more pass. The gate
    and the history use the largest value, which is the norm.
    """

    def compute(inputs: Inputs) -> Triplets:
        return bigspec.svds(
            inputs.matrix,
            count,
            rtol=flags.accuracy.rtol,
            failure_probability=flags.accuracy.failure_probability,
            block_size=flags.accuracy.block_size,
            start=inputs.start,
            seed=flags.effort.seed,
            checkpoint=inputs.checkpoint,
            max_passes=flags.effort.max_passes,
            time_limit=flags.effort.time_limit,
            memory_limit=flags.place.memory_limit,
            pin=flags.memory.pin,
            left=u_store is not None,
            u_store=u_store,
            progress=inputs.observer,
            gate=inputs.gate,
            storage_options=flags.storage.wanted(
                inputs.matrix, inputs.start, inputs.checkpoint, u_store
            ),
        )

    def save(triplets: Triplets) -> bool:
        lacking = u_store is not None and triplets.u is None
        if lacking:
            place = shown(str(u_store))
            click.echo(
                f"bigspec: {place} is not written: no time was left for the last pass", err=True
            )
        if v_file is not None:
            _save(v_file, triplets)
        return lacking

    run(ctx, flags, compute, save, u_store)


def _save(path: str, tri: Triplets) -> None:
    if tri.vh is None:
        said = f"{shown(path)} is not written: no time was left for the vectors"
        click.echo(f"bigspec: {said}", err=True)
        return
    import numpy as np  # here: `bigspec --help` does without

    try:
        with replacing(path) as file:
            np.savez(file, vh=tri.vh, s=tri.s, lower=tri.lower, upper=tri.upper)
    except OSError as exc:
        msg = f"cannot write {path!r}: {exc.strerror or exc}; the result is on standard output"
        raise CannotWriteError(msg) from exc
