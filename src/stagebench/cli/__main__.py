"""`python -m stagebench.cli`."""

from stagebench.cli import main

main()
