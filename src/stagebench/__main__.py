"""`python -m stagebench`."""

from stagebench.cli import main

if __name__ == "__main__":  # processes that are started for tensor parallelism import it too
    main(prog_name="stagebench")
