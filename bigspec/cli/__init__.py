"""The command line: options in, text and JSON out, an exit status for every ending."""

from bigspec.cli.commands import main

__all__ = ["main"]
