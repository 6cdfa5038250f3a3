"""``bigspec normalize``: a matrix divided by its certified norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

import bigspec
from bigspec.cli.interrupts import terminable
from bigspec.cli.options import (
    ACCURACY,
    OUTPUT,
    AccuracyFlags,
    JsonFlags,
    PlaceFlags,
    SourceFlags,
    cluster_of,
    taking,
)
from bigspec.cli.output import deliver
from bigspec.cli.reading import Reading
from bigspec.cli.statuses import Command
from bigspec.cli.values import option
from bigspec.cli.watching import watched, watching_options
from bigspec.errors import ArgumentError

__all__ = ["normalize_command"]

RESULT = "Normalization"


@dataclass(frozen=True)
class NormalizeFlags:
    """What it has in common with `norm`."""

    source: SourceFlags
    accuracy: AccuracyFlags
    place: PlaceFlags
    json: JsonFlags


@click.command("normalize", cls=Command)
@taking(NormalizeFlags)
@click.argument("destination", metavar="[DST]", required=False)
@option(
    RESULT,
    "--to",
    type=float,
    default=1.0,
    show_default=True,
    metavar="X",
    help="Norm to scale SRC to.",
)
@option(
    RESULT,
    "--by",
    type=click.Choice(["upper", "lower"]),
    default="upper",
    show_default=True,
    help="End of the interval that is brought to X: with upper the norm is at most X, with "
    "lower at least.",
)
@option(
    RESULT,
    "--dtype",
    metavar="TYPE",
    help="Type of what is written, such as float32. [default: as SRC; floating for integers]",
)
@option(
    RESULT,
    "--name",
    default="weight",
    show_default=True,
    metavar="NAME",
    help="Name of the tensor in a safetensors file.",
)
@option(
    RESULT,
    "--in-place",
    is_flag=True,
    help="Replace SRC, a Zarr store of its own, once the new one is complete.",
)
@option(
    RESULT,
    "--only",
    multiple=True,
    metavar="GLOB",
    help="Of a network in safetensors: the tensors to normalize; may be given several times. All "
    "others are copied.",
)
@option(RESULT, "--overwrite", is_flag=True, help="Replace DST once the new one is complete.")
@option(
    ACCURACY, "--seed", type=int, metavar="N", help="Seed of the random start (always recorded)."
)
@option(OUTPUT, "--quiet", is_flag=True, help="Show no progress on stderr.")
@watching_options
def normalize_command(
    flags: NormalizeFlags,
    destination: str | None,
    to: float,
    by: str,
    dtype: str | None,
    name: str,
    in_place: bool,
    only: tuple[str, ...],
    overwrite: bool,
    seed: int | None,
    quiet: bool,
) -> None:
    """Write SRC times a factor that provably brings its spectral norm to X.

    DST.zarr becomes a Zarr array, or for a sparse SRC a group that AnnData reads as well;
    DST.safetensors a file with one tensor. The interval is stored beside the entries. DST appears
    once it is complete. After a command was killed, the same command continues where it stopped.

    With --only, SRC is a network in safetensors, a file or a folder of shards, and so is DST.
    """
    source, accuracy, place = flags.source, flags.accuracy, flags.place
    if only:
        said = {
            "--dtype": dtype, "--in-place": in_place, "--name": name != "weight",
            "--raw": source.raw, "--fill": source.fill is not None, "--rows": source.rows,
            "--block-size": accuracy.block_size,
        }  # fmt: skip
        _normalize_model(flags, destination, {
            "only": only, "to": to, "by": by, "overwrite": overwrite, "seed": seed,
        }, [flag for flag, given in said.items() if given], quiet=quiet)  # fmt: skip
        return
    if in_place and (source.raw or source.fill is not None):
        msg = "in_place: expected the matrix as it lies there, got --raw or --fill; name a DST"
        raise ArgumentError(msg)
    reading = Reading(source.rows, source.fill, source.raw, source.missing_chunks)
    with terminable(), watched(quiet=quiet) as observer, cluster_of(place):
        done = bigspec.normalize(
            # The path itself where that is enough: only a path is replaced in place.
            source.source if in_place else reading.source(place.memory_limit, source.source),
            destination,
            to=to,
            by=by,
            dtype=dtype,
            in_place=in_place,
            overwrite=overwrite,
            name=name,
            rtol=accuracy.rtol,
            failure_probability=accuracy.failure_probability,
            block_size=accuracy.block_size,
            seed=seed,
            memory_limit=place.memory_limit,
            missing_chunks=source.missing_chunks if in_place else "fill",
            progress=observer,
        )
    deliver(str(done), done.to_dict(), flags.json.json_file)


def _normalize_model(
    flags: NormalizeFlags,
    destination: str | None,
    own: dict[str, Any],
    unfit: list[str],
    *,
    quiet: bool,
) -> None:
    """Normalize tensors of a network."""
    if unfit:
        msg = (
            f"--only: expected no flag of a single matrix, got {unfit[0]}; leave it out, or --only"
        )
        raise ArgumentError(msg)
    if destination is None:
        msg = "--only: expected a DST for the network, got none; name a file, or a folder"
        raise ArgumentError(msg)
    accuracy, place = flags.accuracy, flags.place
    with terminable(), watched(quiet=quiet) as observer, cluster_of(place):
        done = bigspec.normalize_model(
            flags.source.source,
            destination,
            rtol=accuracy.rtol,
            failure_probability=accuracy.failure_probability,
            memory_limit=place.memory_limit,
            progress=observer,
            **own,
        )
    deliver(str(done), done.to_dict(), flags.json.json_file)
