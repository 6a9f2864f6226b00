"""`python -m rsd` is the command `rsd`."""

from rsd.cli.main import main

main()
