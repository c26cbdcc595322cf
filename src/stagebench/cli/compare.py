"""`stagebench compare`: the gate's verdicts between runs that are already stored, outside pytest and without torch."""

from pathlib import Path

import click

from stagebench.cli.decision import deciding
from stagebench.core.errors import GateError
from stagebench.gate import decide
from stagebench.gate.limits import RULES_FILE, read_rules
from stagebench.gate.verdicts import Decision

_PATH = click.Path(path_type=Path)


@click.command(name="compare")
@click.argument("paths", metavar="[BASE HEAD]", nargs=-1, type=_PATH)
@click.option("--base", "bases", multiple=True, type=_PATH, help="A run, or a folder of runs; repeatable.")
@click.option("--head", "heads", multiple=True, type=_PATH, help="The same; the first is paired with the first base.")
@click.option("--config", type=_PATH, help="Has the limits; pyproject.toml by default, where there is one.")
@deciding
def command(
    decision: Decision,
    paths: tuple[Path, ...],
    bases: tuple[Path, ...],
    heads: tuple[Path, ...],
    config: Path | None,
) -> None:
    """Compare runs that `pytest benchmarks --benchmark-json` wrote.

    BASE and HEAD are a run each, or a folder of runs: a process a file, paired by name in order. What `stagebench
    bench` wrote, or a baseline made of it, is as many processes as it holds. Counters decide between two runs already;
    times need several processes a side, best interleaved as `stagebench gate` runs them.

    A process counts once: a file that is there twice, on one side or on both, or equal to another, is refused.

    The exit code is 0 for a pass, 1 for a regression or other content, 2 for what could not be measured, 3 for what is
    inconclusive. --json and --markdown are written in each case.
    """
    if len(paths) not in (0, 2):
        raise GateError(f"a comparison has a base and a head, got {len(paths)} paths; more go with --base and --head")
    if config and not config.is_file():
        raise GateError(f"--config must be a file, got {config}")
    rules = read_rules(config or Path(RULES_FILE))
    base, head = decide.read_sides([*paths[:1], *bases], [*paths[1:], *heads])
    decision.verdicts = decide.judge_benchmarks(base, head, rules, decision.allowed)
    decision.rules_differ += decide.differing_markers(base, head)
