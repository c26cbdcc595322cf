"""Compare a session of pytest with a stored run: found and readable before anything is measured, judged at its end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.utils import get_machine_id, load_storage

from stagebench.core.checks import check
from stagebench.core.errors import ResultsError
from stagebench.core.results import SCHEMAS, Info, Results, by_name, read_results, require_sound, short_name
from stagebench.gate import baseline, decide
from stagebench.gate.counters import judge_counters
from stagebench.gate.limits import INEXACT, Rules
from stagebench.gate.verdicts import Decision, Verdict
from stagebench.suite import selection
from stagebench.suite.options import PREFIX

_COLUMNS = ("min", "max", "mean", "stddev", "median", "iqr", "outliers", "rounds", "iterations")
"""What pytest-benchmark's table takes from a stored run; its own list is elsewhere in each of its versions."""


def find(config: pytest.Config, identity: Callable[[], dict[str, str]]) -> str | None:
    """Let a bare `--benchmark-compare` mean the baseline of this environment; return what to say of it.

    Raise ResultsError for a run that can't be shown beside this one, and UsageError where there is no such run, or none
    to judge by: pytest-benchmark would go on and compare with nothing.
    """
    asked, note = config.getoption("benchmark_compare", None), None
    if isinstance(asked, str):
        for path in _named(config, asked):
            _require_table(path)
    elif asked is True:
        root, here = config.rootpath / config.option.stage_baselines, identity()
        found = baseline.find(root, here)
        if found is None:
            config.option.benchmark_compare = []
            note = f"no baseline yet for this environment, so nothing is compared; {baseline.closest(root, here)}"
        else:
            _require_table(found)
            config.option.benchmark_compare = str(found)
            note = f"comparing with {found.parent.name}/{found.name}"
    fails = "--benchmark-compare-fail" if config.getoption("benchmark_compare_fail", None) else None
    judge = f"{PREFIX}gate" if config.option.stage_gate else fails
    if judge and not config.getoption("benchmark_compare", None):
        how = note or "--benchmark-compare names it, or finds the one of this environment"
        raise pytest.UsageError(f"{judge} needs a baseline: {how}")
    return note


def _named(config: pytest.Config, asked: str) -> list[Path]:
    """Return the stored runs that were asked for, by path, number or pattern."""
    place, netrc = config.option.benchmark_storage, config.option.benchmark_netrc
    if place.startswith("elasticsearch"):
        return []
    storage = load_storage(place, logger=None, default_machine_id=get_machine_id(), netrc=netrc)
    try:
        named: list[Path] = storage.query(asked) if asked else []
    except ValueError:  # neither a file nor a pattern
        named = []
    if not named:
        raise pytest.UsageError(f"--benchmark-compare must name a run or nothing, got no file {asked}")
    return named


def _require_table(path: Path) -> None:
    """Refuse a run that can't be shown beside this one."""
    for benchmark in require_sound(read_results(path), f"the run {path}")["benchmarks"]:
        if lacking := [column for column in _COLUMNS if column not in benchmark["stats"]]:
            raise ResultsError(
                f"the run {path}: {benchmark['fullname']}: must have the statistics of pytest-benchmark's table, "
                f"got no {', '.join(lacking)}"
            )


def session_of(config: pytest.Config) -> Any:
    """Return pytest-benchmark's session; None where that plugin is not loaded."""
    return getattr(config, "_benchmarksession", None)


def is_untimed(config: pytest.Config) -> bool:
    """Say whether pytest-benchmark calls benchmarks once, as with xdist, or not at all."""
    bench = session_of(config)
    return bench is not None and bool(bench.disabled or bench.skip)


def is_compared(config: pytest.Config) -> bool:
    """Say whether benchmarks were to run, and there is something to hold them against."""
    bench = session_of(config)
    return bool(bench and bench.compared_mapping) and not (config.option.collectonly or config.option.setuponly)


def judge(config: pytest.Config, place: dict[str, str], rules: Rules | None) -> Decision:
    """Judge this one process as the gate does, its counters and what vanished; without rules, no times.

    What was left out on purpose is not missing. The times of one process are a single sample, and decide nothing.
    """
    bench, decision = session_of(config), Decision(allowed=config.option.stage_allow_changed)
    mine = _results([b.as_dict(include_data=False) for b in bench.benchmarks if not b.has_error], place)
    here, verdicts = by_name(mine), []
    for run in bench.compared_mapping.values():
        asked = [b for name, b in run.items() if name in here or not selection.is_left_out(config, b)]
        stored = _results(asked, place)
        if rules:
            verdicts += decide.judge_benchmarks([stored], [mine], rules, decision.allowed)
        else:
            verdicts += decide.judge_presence([stored], [mine])
            verdicts += judge_counters([stored], [mine], Rules(), decision.allowed)
        decision.rules_differ += decide.differing_markers([stored], [mine])
    decision.verdicts = verdicts
    return decision


def _results(benchmarks: list[Any], place: dict[str, str]) -> Results:
    own: Any = {"schema": SCHEMAS["results"], "failed": 0, "exit_status": 0, "regressed": []}
    return {"benchmarks": benchmarks, "machine_info": place, "stagebench": own}


def differences(session: pytest.Session, judged: Decision) -> tuple[list[str], list[str]]:
    """Say what is wrong with the benchmarks of this session: gone, or with other work or content; and what else to say.

    A benchmark that did not run because the session failed, or was stopped, has not gone.
    """
    bench, wrong = session_of(session.config), []
    ran = {b.fullname: b for b in bench.benchmarks if not b.has_error}
    for name, benchmark in ran.items():
        try:
            check(benchmark.extra_info, Info, short_name(name), ResultsError)
        except ResultsError as error:
            wrong.append(str(error))
    waited_for = () if session.exitstatus == pytest.ExitCode.OK else {item.nodeid for item in session.items}
    said = [f"{short_name(v.benchmark)}: {v.reason}" for v in judged.verdicts if v.allowed]
    for v in judged.verdicts:
        if v.kind == "time" and v.verdict == "missing" and v.benchmark not in waited_for:
            wrong.append(f"{short_name(v.benchmark)}: in the baseline only, gone or renamed")
        elif v.kind == "counter" and v.verdict != "pass" and not _is_luck(v):
            wrong.append(f"{short_name(v.benchmark)}: {v.reason}")
    for name, stored in (each for run in bench.compared_mapping.values() for each in run.items()):
        if name not in ran and selection.is_left_out(session.config, stored):
            said.append(f"{short_name(name)}: in the baseline only, left out")
    return wrong, said


def _is_luck(verdict: Verdict) -> bool:
    """Say whether there was less of what depends on what ran before."""
    return verdict.verdict == "improvement" and (verdict.counter or "").rpartition(".")[-1] in INEXACT
