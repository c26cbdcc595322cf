"""`stagebench compare`: the gate's verdicts between runs that are already stored, outside pytest and without torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click
from rich.console import Console

from stagebench import gate, gate_report, verdict
from stagebench.cli.output import append_to, markdown_option, refusals, write_json_to
from stagebench.errors import GateError
from stagebench.gate_rules import read_rules
from stagebench.gate_runs import StoredRun
from stagebench.results import processes_of, read_run

_PATH = click.Path(path_type=Path)


@click.command(name="compare")
@click.argument("paths", metavar="[BASE HEAD]", nargs=-1, type=_PATH)
@click.option("--base", "bases", multiple=True, type=_PATH, help="A run, or a folder of runs; repeatable.")
@click.option("--head", "heads", multiple=True, type=_PATH, help="Likewise; the first is paired with the first base.")
@click.option("--config", type=_PATH, help="Has the limits; pyproject.toml by default, where there is one.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@markdown_option
def command(
    paths: tuple[Path, ...],
    bases: tuple[Path, ...],
    heads: tuple[Path, ...],
    config: Path | None,
    json_path: Path | None,
    markdown: Path | None,
) -> None:
    """Compare runs that `pytest benchmarks --benchmark-json` wrote.

    BASE and HEAD are a run each, or a folder of runs: a process a file, paired by name in order. What `stagebench
    record` wrote, or a baseline made of it, is as many processes as it holds. Counters decide between two runs already;
    times need several processes a side, best interleaved as `stagebench gate` runs them.

    The exit code is 0 for a pass, 1 for a regression, 2 for what could not be measured, 3 for what is inconclusive.
    """
    with refusals():
        if len(paths) not in (0, 2):
            raise GateError(
                f"a comparison has a base and a head, got {len(paths)} paths; more go with --base and --head"
            )
        if config and not config.is_file():
            raise GateError(f"--config must be a file, got {config}")
        rules = read_rules(config or Path("pyproject.toml"))
        verdicts = gate.judge(_read([*paths[:1], *bases]), _read([*paths[1:], *heads]), rules)
        if json_path:
            write_json_to(json_path, gate_report.to_json(verdicts))
        if markdown:
            append_to(markdown, gate_report.to_markdown(verdicts))
    Console(stderr=str(json_path) == "-").print(gate_report.to_table(verdicts))
    sys.exit(verdict.exit_code(verdicts))


def _read(paths: Iterable[Path]) -> list[StoredRun]:
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    return [process for file in files for process in processes_of(read_run(file))]
