"""`python -m offramp`: the command `offramp`, as torchrun starts it."""

from offramp.cli import main

main()
