"""`python -m offramp.cli`: the command `offramp`."""

from offramp.cli.main import main

main()
