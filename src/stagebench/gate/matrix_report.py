"""Compare each cell of a matrix with its reference, and lay the comparison out stage by stage."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from stagebench.core import statistics
from stagebench.core.errors import GateError
from stagebench.core.results import Results, by_name, is_reference, versioned
from stagebench.core.shown import MS, NAMES, RATIO, SENTENCES, WORDS, Table
from stagebench.gate.counters import does_other_work, judge_counters
from stagebench.gate.decide import judge_presence, judge_times
from stagebench.gate.limits import Rules
from stagebench.gate.runner.matrix import Cell, Matrix
from stagebench.gate.runner.recording import PROOF
from stagebench.gate.verdicts import Verdict

Runs = Mapping[int, Results]  # of one cell, by number
REFERENCE, UNDECIDED, OTHER = "reference", "undecided", "other work"
BY_DEFAULT = 12  # timing processes of a cell, or as many as can decide
_DECISIONS = {"regression": "slower", "improvement": "faster", "pass": "not slower", "inconclusive": UNDECIDED}
_STYLES = {"slower": "red", "faster": "cyan", "not slower": "green", UNDECIDED: "bright_black", REFERENCE: ""}
_CELL = {"model": WORDS, "version": NAMES, "engine": WORDS, "backend": WORDS}


@dataclass(frozen=True, slots=True)
class Row:
    """What a cell takes for one stage, beside the reference."""

    stage: str  # or another benchmark
    cell: Cell
    decision: str
    why: str = ""
    seconds: float | None = None  # the median of its processes
    ratio: float | None = None  # to the reference: the median of pairs
    interval: tuple[float, float] | None = None


def processes_for(cells: Sequence[Cell], rules: Rules, given: int | None) -> int:
    """Return how many processes time each cell; raise GateError for a number that could decide on nothing."""
    least = statistics.least_pairs(rules.spread_over(len(cells) - 1).alpha)
    if given is not None and given < least:
        raise GateError(f"--processes must be at least {least} to decide on {len(cells)} cells, got {given}")
    return given or max(least, BY_DEFAULT)


def compare(matrix: Matrix, rules: Rules) -> tuple[list[Row], list[tuple[Cell, Verdict]]]:
    """Return a row for each stage of each cell that was measured, and the counters that differ from the reference's.

    All comparisons together have the error rates of one gate.
    """
    reference, runs, each = matrix.cells[0], matrix.runs[0], rules.spread_over(len(matrix.cells) - 1)
    stages = _stages(runs[PROOF], reference)
    rows = [Row(stages[name], reference, REFERENCE, "", _seconds(runs, name), 1.0) for name in stages]
    differing: list[tuple[Cell, Verdict]] = []
    for i, cell in enumerate(matrix.cells):
        if i and cell.named() not in matrix.failed:
            named = {number: _renamed(run, cell, stages) for number, run in matrix.runs[i].items()}
            same = (cell.model, cell.engine) == (reference.model, reference.engine)
            counters = judge_counters([runs[PROOF]], [named[PROOF]], rules) if same else []
            differing += [(cell, v) for v in counters if v.kind == "counter" and v.verdict != "pass"]
            found = _rows(runs, named, cell, each, counters)
            rows += [replace(row, stage=stages.get(row.stage, cell.label(row.stage))) for row in found]
    return rows, differing


def _stages(run: Results, cell: Cell) -> dict[str, str]:
    """Return what each benchmark of a cell times, by its name."""
    labels = {name: cell.label(name) for name in by_name(run) if not is_reference(name)}
    many = Counter(labels.values())
    return {name: label if many[label] == 1 else name for name, label in labels.items()}


def _renamed(run: Results, cell: Cell, stages: Mapping[str, str]) -> Results:
    """Return results with the reference's names of the same stages."""
    names, own = {stage: name for name, stage in stages.items()}, _stages(run, cell)
    return {**run, "benchmarks": [{**b, "fullname": names.get(own.get(n, n), n)} for n, b in by_name(run).items()]}


def _rows(base: Runs, head: Runs, cell: Cell, rules: Rules, counters: Sequence[Verdict]) -> Iterator[Row]:
    """Yield a row for each benchmark, named as in the reference, by the pairs of its rounds."""
    pairs = sorted((base.keys() & head.keys()) - {PROOF})
    sides = [base[n] for n in pairs], [head[n] for n in pairs]
    other = {v.benchmark: v.reason for v in counters if does_other_work(v)}
    for v in (*judge_times(*sides, rules, ()), *judge_presence(*sides)):
        if v.kind != "time":  # the reference workload
            continue
        decision = _DECISIONS[v.verdict] if v.n else "not in both"
        why = "" if v.verdict in ("regression", "improvement", "pass") and v.n else v.reason
        decision, why = (OTHER, other[v.benchmark]) if v.benchmark in other else (decision, why)
        span = None if v.interval is None else (1 + v.interval[0], 1 + v.interval[1])
        ratio = None if v.estimate is None else 1 + v.estimate
        yield Row(v.benchmark, cell, decision, why, _seconds(head, v.benchmark), ratio, span)


def _seconds(runs: Runs, name: str) -> float | None:
    found = [by_name(run)[name]["stats"]["median"] for number, run in runs.items() if number and name in by_name(run)]
    return float(np.median(found)) if found else None


def as_json(matrix: Matrix, rows: Sequence[Row], differing: Sequence[tuple[Cell, Verdict]]) -> dict[str, Any]:
    """Return all of it for a program: seconds, and ratios to the reference."""
    cells = [asdict(row) | {"cell": row.cell._asdict()} for row in rows]
    counters = [{"cell": cell._asdict(), "benchmark": v.benchmark, "why": v.reason} for cell, v in differing]
    return versioned("report", {"rows": cells, "not_measured": matrix.failed, "counters": counters})


def tables(matrix: Matrix, rows: Sequence[Row], differing: Sequence[tuple[Cell, Verdict]]) -> dict[str, Table]:
    """Return a table for each stage by its name, then what could not be measured, and what differs beside times."""
    cell, found = tuple(_CELL.items()), {}
    columns = (*cell, ("median", MS), ("ratio", RATIO), ("interval", RATIO), ("decision", WORDS), ("why", SENTENCES))
    for stage in dict.fromkeys(row.stage for row in rows):
        own = [row for row in rows if row.stage == stage]
        values = [(*r.cell, r.seconds, r.ratio, r.interval, r.decision, r.why) for r in own]
        found[stage] = Table("", columns, values, styles=[_STYLES.get(row.decision, "yellow") for row in own])
    found["not measured"] = Table("", (("cell", NAMES), ("because", SENTENCES)), [*matrix.failed.items()])
    others = [(*c, matrix.cells[0].label(v.benchmark), v.reason) for c, v in differing]
    found["other counters than the reference's"] = Table("", (*cell, ("stage", WORDS), ("why", SENTENCES)), others)
    return {title: table for title, table in found.items() if table.rows}
