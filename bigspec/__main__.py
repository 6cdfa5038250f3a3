"""``python -m bigspec`` is the command line."""

from bigspec.cli import main

if __name__ == "__main__":
    main(prog_name="bigspec")
