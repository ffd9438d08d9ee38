"""`python -m edgeshare`: the command line, also where no script is installed."""

from edgeshare.cli.main import main

main()
