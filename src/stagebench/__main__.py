"""`python -m stagebench`."""

from stagebench.cli import main

main(prog_name="stagebench")
