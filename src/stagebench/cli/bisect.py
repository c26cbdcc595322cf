"""`stagebench bisect`: find the release of a package from which on the code here is slower."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from stagebench.cli.commands import FOLDER, JSON
from stagebench.cli.output import Console, write_json_to
from stagebench.core.results import versioned
from stagebench.core.shown import teller
from stagebench.core.stages import STAGE_NAMES
from stagebench.gate.limits import RULES_FILE, read_rules, seconds_of
from stagebench.gate.runner.bisect import Search, bisect, releases
from stagebench.gate.runner.gate import gate
from stagebench.gate.runner.worktrees import state_of
from stagebench.gate.verdicts import Decision
from stagebench.suite.options import ROUNDS, option


@click.command(
    name="bisect",
    params=[
        ROUNDS,
        JSON,
        option("with", "Search the releases of this package.", required=True, dest="package"),
        option("good", "Start at this release, which is fast.", required=True),
        option("bad", "End at this release, which is slower.", required=True),
        option("stage", "Look at this stage alone. Default: all.", kind=STAGE_NAMES),
        option("select", "Run these benchmarks, as pytest's -k. Default: those of the stage, or all."),
        option("budget", "Take at most about this time, such as 30m. Default: no limit."),
        option("out", "Keep the search in this folder, and go on with the one in it.", kind=FOLDER, required=True),
    ],
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST ARGUMENTS]")
def command(
    package: str,
    good: str,
    bad: str,
    stage: str | None,
    select: str | None,
    budget: str | None,
    rounds: int,
    out: Path,
    json_path: Path | None,
    arguments: tuple[str, ...],
) -> None:
    """Find the release of a package that made the working tree slower.

    Releases are those that pip finds, without yanked ones and without those before a release. The last is gated against
    the first one. What that gate calls slower is then looked for in between, half of the rest at each step: times, or
    counters alone if no time is a regression. A release that can't be measured is left out.

    The exit code is 0 for none, 1 for a release that was found, and 2 if nothing was decided.
    """
    console, rules = Console(stderr=True), read_rules(Path(RULES_FILE))
    limit = None if budget is None else seconds_of(budget, "--budget")
    chosen = select or (f"test_stage and {stage}" if stage else None)

    def step(search: Search, release: str, left: float | None, folder: Path) -> Decision:
        counting, sides = search.counters_only, [f"{package}=={each}" for each in (search.releases[0], release)]
        given: dict[str, Any] = {
            "base_with": sides[:1],
            "head_with": sides[1:],
            "rounds": rounds,
            "arguments": arguments,
        }
        within = None if left is None or counting else f"{max(left, 1):.0f}s"
        given |= {"select": search.selection or None, "counters_only": counting, "budget": within}
        return gate(**given, out=folder, console=console)

    of = [state_of(Path()), sys.version, sys.prefix, f"{rounds} rounds", *arguments]
    search = Search(package, releases(package, good, bad), chosen or "", of)
    search = bisect(search, step, out, limit, teller(console))
    click.echo(search.described(rules))
    answer = {"answer": search.answer and search.answer[1], "error": search.error(rules)}
    write_json_to(json_path, versioned("bisect", asdict(search) | answer))
    decided = search.answer or search.steps[-1].verdict == "good"
    raise SystemExit((1 if search.answer else 0) if decided else 2)
