"""What a session of pytest says of the runs that it is compared with, beside pytest-benchmark's table of times."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from stagebench.core.errors import StageError
from stagebench.gate import baseline, decide
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import Rules
from stagebench.gate.verdicts import NOT_MEASURED, Verdict, exit_code
from stagebench.suite import selection

RULES = pytest.StashKey[Rules]()
VERDICTS = pytest.StashKey[list[Verdict]]()
_STATUS = pytest.StashKey[int]()
_BROKEN = pytest.StashKey[bool]()

Benchmark = Mapping[str, Any]
Place = Mapping[str, str]
"""The identity of this session."""


def is_untimed(config: pytest.Config) -> bool:
    """Whether pytest-benchmark calls benchmarks once, as with xdist, or not at all."""
    bench = _bench(config)
    return bench is not None and bool(bench.disabled or bench.skip)


def is_compared(config: pytest.Config) -> bool:
    """Whether benchmarks were to run, and there is something to hold them against."""
    bench = _bench(config)
    return bool(bench and bench.compared_mapping) and not (config.option.collectonly or config.option.setuponly)


def differences(session: pytest.Session, place: Place) -> tuple[list[str], list[str]]:
    """Say what is wrong with the benchmarks of this session: gone, or with other work or content; and what else to say.

    A benchmark that did not run because the session failed, or was stopped, has not gone.
    """
    config, mine = session.config, _measured(session.config)
    here = {b["fullname"] for b in mine}
    if session.exitstatus != pytest.ExitCode.OK:
        here |= {item.nodeid for item in session.items}
    wrong, said = [], []
    for stored in _compared(config):
        changes, allowed = _changes(mine, stored, place, config.option.allow_changed)
        only_there = [b for b in stored if b["fullname"] not in here]
        gone = _asked_for(config, only_there)
        wrong += changes + [f"{_short(b['fullname'])}: in the baseline only, gone or renamed" for b in gone]
        said += allowed
        said += [f"{_short(b['fullname'])}: in the baseline only, left out" for b in only_there if b not in gone]
    return wrong, said


def _changes(
    mine: Sequence[Benchmark], stored: Sequence[Benchmark], place: Place, allowed: Collection[str]
) -> tuple[list[str], list[str]]:
    """Lines on other work and content, and on what a person lets pass of it."""
    judged = judge_counters([{"benchmarks": stored}], [{"benchmarks": mine, "machine_info": place}], Rules(), allowed)
    graver = [v for v in judged if v.verdict not in ("pass", "improvement")]
    let_pass = {v.benchmark for v in judged if v.allowed} - {v.benchmark for v in graver}
    work = baseline.work_differences([b for b in mine if b["fullname"] not in let_pass], stored)
    told = {line.partition(": ")[0] for line in work}
    content = [f"{_short(v.benchmark)}: {v.reason}" for v in graver if _short(v.benchmark) not in told]
    return work + content, [f"{_short(v.benchmark)}: {v.reason}" for v in judged if v.allowed]


def verdicts(config: pytest.Config, place: Place) -> list[Verdict]:
    """What the gate says of this one process: of its counters, and of what vanished. Its times are a single sample."""
    if VERDICTS not in config.stash:
        head = {"benchmarks": _measured(config), "machine_info": place}
        config.stash[VERDICTS] = [
            verdict
            for stored in _compared(config)
            for verdict in decide.judge_benchmarks(
                [{"benchmarks": _asked_for(config, stored)}], [head], config.stash[RULES], config.option.allow_changed
            )
        ]
    return config.stash[VERDICTS]


def differing_markers(config: pytest.Config) -> list[str]:
    """How the markers of this session differ from the baseline's, of which the stricter hold."""
    here = [{"benchmarks": _measured(config)}]
    return [line for stored in _compared(config) for line in decide.differing_markers([{"benchmarks": stored}], here)]


def regressed(config: pytest.Config, place: Place, benchmarks: Sequence[Any]) -> list[str]:
    """What `--gate` or `--benchmark-compare-fail` is about to fail: pytest-benchmark saves before it checks."""
    bench: Any = _bench(config)
    judged = verdicts(config, place) if config.option.gate else []
    return [v.benchmark for v in judged if v.verdict in ("regression", "changed")] + [
        benchmark.fullname
        for benchmark in benchmarks
        for stored in bench.compared_mapping.values()
        if benchmark.fullname in stored
        for check in bench.compare_fail or ()
        if check.fails(benchmark, stored[benchmark.fullname]["stats"])
    ]


def gate_status(config: pytest.Config, place: Place) -> int:
    """The exit status as of `stagebench gate`; a time that one process can't decide counts with `--gate-time` only."""
    judged = verdicts(config, place)
    undecided = [v for v in judged if v.kind == "time" and v.verdict == "inconclusive"]
    config.stash[_STATUS] = exit_code(v for v in judged if config.option.gate_time or v not in undecided)
    return config.stash[_STATUS]


def note_failure(config: pytest.Config, error: BaseException) -> None:
    """Note where a benchmark's own check failed: that is a verdict, as no other error is."""
    if isinstance(error, AssertionError | StageError | pytest.fail.Exception):
        config.stash[_BROKEN] = True


def as_of_gate(config: pytest.Config, status: int) -> int:
    """Make pytest's exit status one of `stagebench gate`, of which 1 is a verdict: an error could not measure."""
    if status in (pytest.ExitCode.OK, pytest.ExitCode.USAGE_ERROR, config.stash.get(_STATUS, None)):
        return status
    return status if status == pytest.ExitCode.TESTS_FAILED and config.stash.get(_BROKEN, False) else NOT_MEASURED


def _bench(config: pytest.Config) -> Any:
    """pytest-benchmark's session; None where that plugin is not loaded."""
    return getattr(config, "_benchmarksession", None)


def _measured(config: pytest.Config) -> list[dict[str, Any]]:
    """The benchmarks of this session that did not fail."""
    return [b.as_dict(include_data=False) for b in _bench(config).benchmarks if not b.has_error]


def _compared(config: pytest.Config) -> list[list[dict[str, Any]]]:
    """The benchmarks of each run that this session is compared with."""
    return [list(stored.values()) for stored in _bench(config).compared_mapping.values()]


def _asked_for(config: pytest.Config, stored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The baseline without what was left out on purpose: that is not missing."""
    return [b for b in stored if not selection.is_left_out(config, b)]


def _short(name: str) -> str:
    return name.split("::")[-1]
