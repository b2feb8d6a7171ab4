"""Entry point for `python -m offramp.cli`."""

from offramp.cli.main import main

main()
