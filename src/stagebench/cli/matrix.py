"""`stagebench matrix`: compare models, versions, engines and backends by one plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from stagebench.analysis.report import document
from stagebench.cli.commands import FOLDER, JSON
from stagebench.cli.output import Console, write_json_to
from stagebench.core.json_files import write_text
from stagebench.core.machine.locks import locked, measurement
from stagebench.core.shown import progress, show, teller
from stagebench.gate.limits import RULES_FILE, Rules, read_rules, seconds_of
from stagebench.gate.matrix_report import as_json, compare, processes_for, tables
from stagebench.gate.runner.fresh_process import Variant
from stagebench.gate.runner.matrix import Matrix, read_plan
from stagebench.gate.runner.recording import Recording, plan_of
from stagebench.gate.runner.worktrees import worktrees
from stagebench.models.registry import ANY, registration_of
from stagebench.suite.options import PATH, POSITIVE, ROUNDS, option


@click.command(
    name="matrix",
    params=[
        ROUNDS,
        JSON,
        option("processes", "Time each cell in this many processes. Default: 12, or more to decide.", kind=POSITIVE),
        option("select", "Run these benchmarks, as pytest's -k. Default: those of the rules, or all."),
        option("budget", "Take at most about this time, such as 30m. Default: no limit."),
        option("out", "Keep the runs in this folder, and go on with those in it.", kind=FOLDER, required=True),
    ],
)
@click.argument("plan", type=PATH)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PYTEST ARGUMENTS]")
def command(
    plan: Path, processes: int | None, budget: str | None, out: Path, json_path: Path | None, **planned: Any
) -> None:
    """Compare each cell of PLAN, a model with a version, an engine and a backend, with the first one, by the stage.

    A plan is a file of TOML with one or several of the lists models, versions, engines and backends, and the table
    reference if that is another cell than the first. Each round runs one process of each cell, in an order that is
    drawn. A cell that can't be run is named, and left out. The same command goes on with what is in --out.

    OUT/report.md and OUT/report.html are written. The exit code is 0, or 2 if a cell could not be measured.
    """
    console, rules, cells = Console(stderr=True), read_rules(Path(RULES_FILE)), read_plan(plan)
    for name in dict.fromkeys(cell.model for cell in cells):
        if name and not name.startswith(ANY):
            registration_of(name)
    limit = None if budget is None else seconds_of(budget, "--budget")
    number, say = processes_for(cells, rules, processes), teller(console)
    planned["select"] = rules.select if planned["select"] is None else planned["select"]
    held = locked(out, "--out must be a folder that no other matrix writes to")
    with measurement(say), worktrees(Path(), None) as both, held, progress(console) as begin:
        matrix = Matrix.resumed(out, cells)
        recordings = []
        for i, (cell, python) in enumerate(zip(cells, matrix.environments(both.home, say), strict=True)):
            variant = Variant("", both.head, python, both.imports["head"], both.not_from)
            of_cell = planned | {"arguments": (*planned["arguments"], *cell.arguments)}
            recordings.append(Recording(out / f"{i:02}", variant, plan_of(both.head, **of_cell)))
        for step in matrix.measure(recordings, number, limit, say):
            begin(step)
    _report(matrix, rules, out, json_path)
    say(f"the report is {out / 'report.html'}, and report.md beside it")
    raise SystemExit(2 if matrix.failed else 0)


def _report(matrix: Matrix, rules: Rules, out: Path, json_path: Path | None) -> None:
    found = compare(matrix, rules)
    sections, title = tables(matrix, *found), f"Compared with {matrix.cells[0].named()}"
    shown = {heading: [table] for heading, table in sections.items()}
    write_text(out / "report.md", document.to_markdown(title, shown))
    write_text(out / "report.html", document.to_html(title, shown))
    write_json_to(json_path, as_json(matrix, *found))
    console = Console(stderr=str(json_path) == "-")
    for heading, table in sections.items():
        show(replace(table, title=heading), console)
        console.print()
