"""`offramp VERB`: what every rule of the workflow calls, and a person can type.

A verb reads files, calls one module, writes files. What it needs is imported inside, so that `--help` and the
verbs right of the record start at once.
"""

from offramp.cli.main import cli, main

__all__ = ["cli", "main"]
