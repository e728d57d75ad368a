"""`python -m ribbon_server`, the same as the console script."""

from ribbon_server.cli import main

main()
