"""The command line, `offramp VERB`. Users and the rules of the workflow call the same commands.

Each command reads files, calls one module, and writes files. It imports what it needs when it is called, so that
`--help` and the commands that only read records start quickly.
"""

from offramp.cli.main import cli, main

__all__ = ["cli", "main"]
