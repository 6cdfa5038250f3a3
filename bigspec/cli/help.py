"""How help looks: options by subject, examples at the end; and what a typo meant."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

import click

__all__ = ["EXAMPLES", "WIDTH", "bold", "meant", "write_examples", "write_options"]

SUBJECTS = (
    "Matrix", "Rows", "Stack", "Triplets", "Conversion", "Runs", "Accuracy and effort",
    "Where it runs", "Checkpoint", "Gate and history", "Output",
)  # fmt: skip
"""Of options, in the order of ``--help``."""

WIDTH = 100
"""Of help in a wide terminal, in characters; in a narrow one it is as wide as that."""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "bigspec": (
        ("the norm of a matrix", "bigspec norm A.zarr"),
        ("what a run would read and hold", "bigspec plan s3://bucket/A.zarr"),
        ("all options of a command, by subject", "bigspec norm --help"),
    ),
    "norm": (
        ("an interval of relative width 1e-6", "bigspec norm A.zarr --rtol 1e-6"),
        ("a run that goes on after a kill if you type it again",
         "bigspec norm s3://bucket/A.zarr --checkpoint s3://bucket/run"),
        ("a step of a pipeline that fails above 2.5",
         "bigspec norm A.h5ad --max-norm 2.5 --report run.html"),
        ("a nightly run, compared with the last one",
         "bigspec norm A.zarr --history h.sqlite --max-change 0.05 --warm"),
        ("the difference of two matrices", "bigspec norm A.zarr --minus B.zarr"),
        ("on a cluster", "bigspec norm A.zarr --scheduler tcp://host:8786"),
    ),
    "svds": (
        ("ten singular values and their vectors",
         "bigspec svds A.zarr -k 10 --u U.zarr --v V.npz"),
        ("principal components", "bigspec svds A.zarr -k 10 --center"),
    ),
    "scan": (
        ("every matrix of a network", "bigspec scan model.safetensors --report scan.html"),
        ("what changed since another checkpoint", "bigspec scan new.pt --minus old.pt"),
    ),
    "lipschitz": (
        ("an interval for a network", "bigspec lipschitz stack.toml"),
        ("a limit, and points of real data", "bigspec lipschitz stack.toml --max 50 --at x.npy"),
    ),
    "plan": (
        ("with less memory", "bigspec plan A.zarr --memory-limit 2GiB"),
        ("a run of svds", "bigspec plan A.zarr -k 20"),
    ),
    "show": (("what a checkpoint holds", "bigspec show s3://bucket/run"),),
    "history": (
        ("the last ten runs, and their page", "bigspec history h.sqlite --last 10 --html h.html"),
        ("accept an intended change", "bigspec history h.sqlite --accept 3f2a"),
    ),
    "convert": (
        ("Matrix Market to compressed rows", "bigspec convert A.mtx.gz A.zarr"),
        ("within 1 GiB", "bigspec convert A.npz A.zarr --format csc --memory-limit 1GiB"),
    ),
}  # fmt: skip
"""Of each command: what for, and what to type."""


def bold(text: str) -> str:
    """Return a heading in bold; click takes that away where no terminal shows it."""
    return text if os.environ.get("NO_COLOR") else click.style(text, bold=True)


def write_options(
    parameters: Iterable[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """List the options by subject, in columns of one width; those without one come last."""
    subjects: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None and isinstance(parameter, click.Option):
            subjects.setdefault(getattr(parameter, "group", ""), []).append(record)
    others = subjects.pop("", [])
    named = {
        subject: subjects.pop(subject) for subject in SUBJECTS if subject in subjects
    } | subjects
    every = [name for part in [*named.values(), others] for name, _ in part]
    widest = max(len(name) for name in every if len(name) <= 28)
    for subject, records in [*named.items(), ("Others" if named else "Options", others)]:
        padded = [(f"{name:<{widest}}", text) for name, text in records]
        with formatter.section(bold(subject)):
            formatter.write_dl(padded, col_max=widest)


def write_examples(name: str, formatter: click.HelpFormatter) -> None:
    """Write the examples of a command: what for, and below it what to type."""
    if name in EXAMPLES:
        with formatter.section(bold("Examples")):
            for what, line in EXAMPLES[name]:
                indent = " " * formatter.current_indent
                formatter.write(f"{indent}{what}:\n{indent}  {line}\n")


def meant(word: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that a mistyped word is nearest to, if one is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return near[0] if near else None
