"""What a session of pytest says of the runs that it is compared with, beside pytest-benchmark's table of times."""

from collections.abc import Collection, Sequence
from typing import Any

import pytest

from stagebench.core.checks import check
from stagebench.core.errors import ResultsError, StageError
from stagebench.core.results import SCHEMAS, Benchmark, Info, Results, Session, by_name, short_name
from stagebench.gate import decide
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import INEXACT, Rules
from stagebench.gate.verdicts import NOT_MEASURED, Verdict, exit_code
from stagebench.suite import selection

RULES = pytest.StashKey[Rules]()
VERDICTS = pytest.StashKey[list[Verdict]]()
_STATUS = pytest.StashKey[int]()
_BROKEN = pytest.StashKey[bool]()

Place = dict[str, str]
"""The identity of this session."""


def is_untimed(config: pytest.Config) -> bool:
    """Say whether pytest-benchmark calls benchmarks once, as with xdist, or not at all."""
    bench = _bench(config)
    return bench is not None and bool(bench.disabled or bench.skip)


def is_compared(config: pytest.Config) -> bool:
    """Say whether benchmarks were to run, and there is something to hold them against."""
    bench = _bench(config)
    return bool(bench and bench.compared_mapping) and not (config.option.collectonly or config.option.setuponly)


def differences(session: pytest.Session, place: Place) -> tuple[list[str], list[str]]:
    """Say what is wrong with the benchmarks of this session: gone, or with other work or content; and what else to say.

    A benchmark that did not run because the session failed, or was stopped, has not gone.
    """
    config, mine = session.config, _measured(session.config, place)
    here = set(by_name(mine))
    if session.exitstatus != pytest.ExitCode.OK:
        here |= {item.nodeid for item in session.items}
    wrong, said = [], []
    for stored in _compared(config, place):
        changes, allowed = _changes(mine, stored, config.option.stage_allow_changed)
        asked = by_name(_asked_for(config, stored))
        only_there = [name for name in by_name(stored) if name not in here]
        wrong += changes + [f"{short_name(n)}: in the baseline only, gone or renamed" for n in only_there if n in asked]
        said += allowed + [f"{short_name(n)}: in the baseline only, left out" for n in only_there if n not in asked]
    return wrong, said


def _changes(mine: Results, stored: Results, allowed: Collection[str]) -> tuple[list[str], list[str]]:
    """Return lines on other work and content, less of it too, and on what a person lets pass of it."""
    wrong = []
    for name, benchmark in by_name(mine).items():
        try:
            check(benchmark.get("extra_info", {}), Info, short_name(name), ResultsError)
        except ResultsError as error:
            wrong.append(str(error))
    judged = judge_counters([stored], [mine], Rules(), allowed)
    wrong += [f"{short_name(v.benchmark)}: {v.reason}" for v in judged if v.verdict != "pass" and not _is_luck(v)]
    return wrong, [f"{short_name(v.benchmark)}: {v.reason}" for v in judged if v.allowed]


def _is_luck(verdict: Verdict) -> bool:
    """Say whether there was less of what depends on what ran before."""
    return verdict.verdict == "improvement" and (verdict.counter or "").rpartition(".")[-1] in INEXACT


def verdicts(config: pytest.Config, place: Place) -> list[Verdict]:
    """Judge this one process as the gate does: its counters, and what vanished. Its times are a single sample."""
    if VERDICTS not in config.stash:
        head, rules, allowed = [_measured(config, place)], config.stash[RULES], config.option.stage_allow_changed
        config.stash[VERDICTS] = [
            verdict
            for stored in _compared(config, place)
            for verdict in decide.judge_benchmarks([_asked_for(config, stored)], head, rules, allowed)
        ]
    return config.stash[VERDICTS]


def differing_markers(config: pytest.Config, place: Place) -> list[str]:
    """Say how the markers of this session differ from the baseline's, of which the stricter hold."""
    here = [_measured(config, place)]
    return [line for stored in _compared(config, place) for line in decide.differing_markers([stored], here)]


def regressed(config: pytest.Config, place: Place, benchmarks: Sequence[Any]) -> list[str]:
    """Name what `--stage-gate` or `--benchmark-compare-fail` will fail: pytest-benchmark saves before it checks."""
    bench: Any = _bench(config)
    judged = verdicts(config, place) if config.option.stage_gate else []
    return [v.benchmark for v in judged if v.verdict in ("regression", "changed")] + [
        benchmark.fullname
        for benchmark in benchmarks
        for stored in bench.compared_mapping.values()
        if benchmark.fullname in stored
        for check in bench.compare_fail or ()
        if check.fails(benchmark, stored[benchmark.fullname]["stats"])
    ]


def gate_status(config: pytest.Config, place: Place) -> int:
    """Return the exit status as of `stagebench gate`, but for times: one process decides none."""
    judged = verdicts(config, place)
    config.stash[_STATUS] = exit_code(v for v in judged if (v.kind, v.verdict) != ("time", "inconclusive"))
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


def _measured(config: pytest.Config, place: Place) -> Results:
    """Return the benchmarks of this session that did not fail."""
    return _results([b.as_dict(include_data=False) for b in _bench(config).benchmarks if not b.has_error], place)


def _compared(config: pytest.Config, place: Place) -> list[Results]:
    """Return the runs that this session is compared with, which are of the same environment."""
    return [_results(list(stored.values()), place) for stored in _bench(config).compared_mapping.values()]


def _asked_for(config: pytest.Config, stored: Results) -> Results:
    """Return the baseline without what was left out on purpose: that is not missing."""
    asked = [b for b in stored["benchmarks"] if not selection.is_left_out(config, b)]
    return _results(asked, stored["machine_info"])


def _results(benchmarks: list[Benchmark], place: Place) -> Results:
    own: Session = {"schema": SCHEMAS["results"], "failed": 0, "exit_status": 0, "regressed": []}
    return {"benchmarks": benchmarks, "machine_info": place, "stagebench": own}
