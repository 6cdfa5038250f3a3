"""``bigspec convert``: a sparse matrix into a chunked group."""

from __future__ import annotations

from typing import Any

import click

import bigspec
from bigspec.cli.interrupts import terminable
from bigspec.cli.options import OUTPUT, WHERE, debug_option, json_option, storage_option
from bigspec.cli.output import deliver
from bigspec.cli.statuses import Command
from bigspec.cli.values import count_or_text, option
from bigspec.cli.watching import watched, watching_options

__all__ = ["convert_command"]

CONVERSION = "Conversion"


@click.command("convert", cls=Command)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST.zarr")
@option(
    CONVERSION,
    "--format",
    "form",
    type=click.Choice(["csr", "csc"]),
    help="Compressed rows or columns. [default: as SRC; csr for triplets and Matrix Market]",
)
@option(
    CONVERSION,
    "--dtype",
    metavar="TYPE",
    help="Type of the values, such as float32. [default: as SRC]",
)
@option(
    CONVERSION,
    "--columns",
    metavar="ROW,COL,VALUE",
    help="Columns of a Parquet or Arrow table, by name or position. Without VALUE every value is 1."
    " [default: the columns of a table that has three]",
)
@option(
    CONVERSION,
    "--renumber",
    is_flag=True,
    help="Number whole-number ids by their place among the distinct ones, like text ids.",
)
@option(
    WHERE,
    "--memory-limit",
    callback=count_or_text,
    metavar="SIZE",
    help="Memory that the conversion may use, such as 512MiB. [default: half of the process's]",
)
@option(
    WHERE,
    "--scratch",
    metavar="DIR",
    help="Folder for temporary files of the sort. [default: beside DST]",
)
@option(
    CONVERSION,
    "--raw",
    is_flag=True,
    help="Use the stored numbers and ignore what attributes say about them.",
)
@option(
    CONVERSION,
    "--missing-chunks",
    type=click.Choice(["fill", "error"]),
    default="fill",
    show_default=True,
    help="Count a missing chunk of values as the fill value (fill), or refuse it (error).",
)
@storage_option
@option(CONVERSION, "--overwrite", is_flag=True, help="Replace DST once the new one is complete.")
@option(OUTPUT, "--quiet", is_flag=True, help="Show no progress on stderr.")
@watching_options
@json_option
@debug_option
def convert_command(
    source: str,
    destination: str,
    form: str | None,
    dtype: str | None,
    columns: str | None,
    renumber: bool,
    memory_limit: int | str | None,
    scratch: str | None,
    raw: bool,
    missing_chunks: str,
    storage_options: dict[str, Any] | None,
    overwrite: bool,
    quiet: bool,
    json_file: str | None,
) -> None:
    """Write the sparse matrix SRC as a chunked Zarr group, which bigspec reads panel by panel.

    SRC is AnnData's CSR or CSC group, 10x, SciPy's .npz, Matrix Market (.mtx, .mtx.gz), or a table
    of triplets in Parquet or Arrow files (one, a folder, a URL), of any size. AnnData reads
    DST.zarr as well. DST.zarr appears once it is complete. After a command was killed, the same
    command continues where it stopped.
    """
    with terminable(), watched(quiet=quiet) as observer:
        done = bigspec.convert(
            source,
            destination,
            format=form,
            dtype=dtype,
            columns=columns,
            renumber=renumber,
            memory_limit=memory_limit,
            scratch=scratch,
            raw=raw,
            missing_chunks=missing_chunks,
            overwrite=overwrite,
            progress=observer,
            storage_options=storage_options,
        )
    deliver(str(done), done.to_dict(), json_file)
