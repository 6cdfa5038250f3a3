"""Workers that lack a module and so cannot unpickle the tasks of a pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from bigspec.errors import BigspecError, ClusterError

__all__ = ["naming_what_workers_lack"]

SHOWN = 3  # workers that a message names

# As text: Dask turns an error during a scatter into a plain Exception that quotes it. The second
# form names a class or a function that an older or newer version does not have.
NO_MODULE = re.compile(r"No module named '([\w.]+)'")
NO_NAME = re.compile(r"Can't get attribute '[\w.]+' on <module '(bigspec[\w.]*)'")


@contextmanager
def naming_what_workers_lack(client: Any) -> Iterator[None]:
    """Turn the failed import of a worker, or of the scheduler, into a message that names it.

    Raises
    ------
    ClusterError
        A module, mostly bigspec itself, is missing where the tasks are unpickled.
    """
    try:
        yield
    except BigspecError:
        raise
    except Exception as error:
        message = _lacking(client, error)
        if message is None:
            raise
        raise ClusterError(message) from error


def _lacking(client: Any, error: BaseException) -> str | None:
    """Say which workers lack the module in the error; None if the error is not about an import."""
    text = str(error)
    if error.__cause__ is not None:  # the scheduler says only that it could not unpickle a graph
        text += f"\n{error.__cause__}"
    match = NO_MODULE.search(text) or NO_NAME.search(text)
    if match is None:
        return None
    module = match[1]
    package, here = module.partition(".")[0], ""
    with suppress(ImportError):  # PackageNotFoundError: no package has the module
        here = version(package)
    wanted = f"{package}=={here}" if here else package
    return (
        f"{_places(client, module)}: expected the module {module!r} where the tasks run, got "
        f"{match[0]}. Install what this process has ({wanted}) in the environment of every worker "
        f"and of the scheduler: pip install {wanted!r}, or from here "
        f"client.register_plugin(distributed.PipInstall([{wanted!r}]))"
    )


def _places(client: Any, module: str) -> str:
    """Name the workers that lack a module."""
    try:
        found = client.run(find_spec, module, on_error="return")
    except Exception:  # the cluster is going away; the missing module is still the reason
        found = {}
    lacking = sorted(
        address for address, spec in found.items() if spec is None or isinstance(spec, ImportError)
    )
    if not lacking:
        return f"Dask scheduler {client.scheduler.address}"  # it unpickles graphs, too
    more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
    return f"Dask worker {', '.join(lacking[:SHOWN])}{more}"
