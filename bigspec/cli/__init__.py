"""The command line: options in, text and JSON out, an exit status for every ending."""

from bigspec.cli.commands import main
from bigspec.cli.convert import convert_command
from bigspec.cli.lipschitz import lipschitz_command
from bigspec.cli.scan import scan_command
from bigspec.cli.svds import svds_command

__all__ = ["main"]

main.add_command(convert_command)
main.add_command(lipschitz_command)
main.add_command(scan_command)
main.add_command(svds_command)
