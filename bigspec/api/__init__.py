"""The public functions, each in a module of its own: validate once, choose, run, present."""
