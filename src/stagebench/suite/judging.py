"""Compare a session of pytest with a stored run, and record how it ended in the files that it saves.

The stored run is found, read and checked before anything is measured, and judged at the end. Saved runs have `complete:
false` until pytest has its exit status, because pytest-benchmark saves before the last hooks. A killed run keeps it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.utils import get_machine_id, load_storage

from stagebench.core.checks import check
from stagebench.core.errors import ResultsError
from stagebench.core.machine.environment import differences
from stagebench.core.machine.locks import scratch_folder
from stagebench.core.places import Place
from stagebench.core.results import (
    SCHEMAS,
    Info,
    Results,
    read_at,
    read_results,
    require_sound,
    short_name,
    write_results,
)
from stagebench.gate import baseline, decide
from stagebench.gate.limits import INEXACT, Rules
from stagebench.gate.verdicts import Decision, Verdict
from stagebench.suite import selection
from stagebench.suite.options import PREFIX

ENDED = pytest.StashKey[set[str]]()  # items that ended; a session that stops early may still exit with 0
NAME = pytest.StashKey[str]()  # identifies the session's files
_COLUMNS = ("min", "max", "mean", "stddev", "median", "iqr", "outliers", "rounds", "iterations")
"""Statistics of a stored run that pytest-benchmark's table needs; its own list moves between versions."""


def find(config: pytest.Config, identity: Callable[[bool], dict[str, str]]) -> list[str]:
    """Resolve a bare `--benchmark-compare` to this environment's baseline; return lines to print about it.

    Nothing is collected yet, so `identity` gets whether models run. Raise ResultsError for an incomparable run, and
    UsageError where the run, or a baseline to judge by, is missing: pytest-benchmark would compare with nothing.
    """
    asked, said, runs = config.getoption("benchmark_compare", None), [], []
    if isinstance(asked, str):
        runs = _named(config, asked)
    elif asked is True:
        place = config.option.stage_baselines.below(config.rootpath)
        found = baseline.find(place, identity(False)) or baseline.find(place, here := identity(True))
        runs = [_on_disk(config, place, found)] if found else []
        config.option.benchmark_compare = str(runs[0]) if found else []
        without = "no baseline yet for this environment, so nothing is compared"
        said = [f"comparing with {found}" if found else f"{without}; {baseline.closest(place, here)}"]
    for path in runs:
        _require_comparable(path, identity)
    fails = "--benchmark-compare-fail" if config.getoption("benchmark_compare_fail", None) else None
    judge = f"{PREFIX}gate" if config.option.stage_gate else fails
    if judge and not config.getoption("benchmark_compare", None):
        how = said or ["--benchmark-compare names it, or finds the one of this environment"]
        raise pytest.UsageError(f"{judge} needs a baseline: {how[0]}")
    return said


def _on_disk(config: pytest.Config, place: Place, name: str) -> Path:
    """Return a path from which pytest-benchmark can read a baseline: for a store, a copy for this session."""
    if not place.store:
        return place.folder / name
    stack = ExitStack()
    config.add_cleanup(stack.close)
    copy = stack.enter_context(scratch_folder()) / baseline.FILE_NAME
    write_results(copy, read_at(place, name))
    return copy


def _named(config: pytest.Config, asked: str) -> list[Path]:
    """Return the requested stored runs, by path, number or pattern."""
    place, netrc = config.option.benchmark_storage, config.option.benchmark_netrc
    storage = load_storage(place, logger=None, default_machine_id=get_machine_id(), netrc=netrc)
    named: list[Path] = []
    with suppress(ValueError):  # neither a file nor a pattern
        named = storage.query(asked) if asked else []
    if not named:
        raise pytest.UsageError(f"--benchmark-compare must name a run or nothing, got no file {asked}")
    return named


def _require_comparable(path: Path, identity: Callable[[bool], dict[str, str]]) -> None:
    """Refuse a run of another environment, or one that pytest-benchmark's table can't show."""
    run = require_sound(read_results(path), f"the run {path}")
    for each in run["benchmarks"]:
        shown = f"the run {path}: {each['fullname']}: the statistics of pytest-benchmark's table"
        check(each["stats"], dict.fromkeys(_COLUMNS, Any), shown, ResultsError)
    there = run["machine_info"]
    if differing := differences(identity(there["profile"] != "none"), there):
        raise ResultsError(f"not comparable with {path}: {'; '.join(differing)}")


def session_of(config: pytest.Config) -> Any:
    """Return pytest-benchmark's session; None where that plugin is not loaded."""
    return getattr(config, "_benchmarksession", None)


def is_untimed(config: pytest.Config) -> bool:
    """Return whether pytest-benchmark calls benchmarks only once, as with xdist, or not at all."""
    bench = session_of(config)
    return bench is not None and bool(bench.disabled or bench.skip)


def is_compared(config: pytest.Config) -> bool:
    """Return whether benchmarks run and are compared with a stored run."""
    bench = session_of(config)
    return bool(bench and bench.compared_mapping) and not (config.option.collectonly or config.option.setuponly)


def judge(config: pytest.Config, place: dict[str, str], rules: Rules) -> Decision:
    """Judge this process as the gate does, by counters and missing benchmarks; one process's times decide nothing."""
    allowed, bench, decision = config.option.stage_allow_changed, session_of(config), Decision()
    mine = _results([b.as_dict(include_data=False) for b in bench.benchmarks if not b.has_error], place)
    ran, verdicts = {b["fullname"] for b in mine["benchmarks"]}, []
    for run in bench.compared_mapping.values():
        asked = [b for name, b in run.items() if name in ran or not selection.is_left_out(config, b)]
        stored = _results(asked, place)
        verdicts += decide.judge([stored], [mine], rules, allowed)
        decision.rules_differ += decide.differing_markers([stored], [mine])
    decision.verdicts = verdicts
    return decision


def _results(benchmarks: list[Any], place: dict[str, str]) -> Results:
    return {
        "benchmarks": benchmarks,
        "machine_info": place,
        "stagebench": {"schema": SCHEMAS["results"], "failed": 0, "exit_status": 0, "regressed": []},
    }


def wrong_with(session: pytest.Session, judged: Decision) -> list[str]:
    """Return a line for each benchmark of this session with other work or content, or missing without a reason."""
    wrong = []
    for benchmark in session_of(session.config).benchmarks:
        try:
            check(benchmark.extra_info, Info, short_name(benchmark.fullname), ResultsError)
        except ResultsError as error:
            wrong.append(str(error))
    waited_for = () if session.exitstatus == pytest.ExitCode.OK else {item.nodeid for item in session.items}
    for v in judged.verdicts:
        if v.kind == "time" and v.verdict == "missing" and v.benchmark not in waited_for:
            wrong.append(f"{short_name(v.benchmark)}: in the baseline only, removed or renamed")
        elif v.kind == "counter" and v.verdict != "pass" and not _is_luck(v):
            wrong.append(f"{short_name(v.benchmark)}: {v.reason}")
    return wrong


def _is_luck(verdict: Verdict) -> bool:
    """Return whether a verdict is an improvement of an inexact counter, which depends on earlier work."""
    return verdict.verdict == "improvement" and (verdict.counter or "").rpartition(".")[-1] in INEXACT


def finish(config: pytest.Config, status: int, judged: Decision) -> None:
    """Write the final exit status and the regressions to all saved files of this session, atomically."""
    if NAME not in config.stash:
        return
    session: Any = config.pluginmanager.getplugin("session")
    slower = {name for name, _ in session_of(config).performance_regressions}
    slower |= {v.benchmark for v in judged.verdicts if v.verdict in ("regression", "changed")}
    complete = config.stash[ENDED].issuperset(item.nodeid for item in session.items)
    for path, results in _saved(config):
        results["stagebench"] |= {"final_status": int(status), "complete": complete, "regressed": sorted(slower)}
        write_results(path, results)


def _saved(config: pytest.Config) -> Iterator[tuple[Path, Results]]:
    """Yield the files of this session: that of `--benchmark-json`, and the latest one in the storage."""
    option, storage, places = config.option, session_of(config).storage, []
    if (place := option.benchmark_json) is not None:  # a path, or before pytest-benchmark 5.3 a file
        path = config.invocation_params.dir / (place if isinstance(place, Path) else place.name)
        places.append([path] if path.is_file() else [])  # reading a terminal would block
    if (option.benchmark_save or option.benchmark_autosave) and hasattr(storage, "query"):
        places.append(storage.query()[::-1])
    for paths in places:
        for path in paths:
            with suppress(ResultsError):  # the storage may hold other files
                results = read_results(path)
                if results["stagebench"].get("session") == config.stash[NAME]:
                    yield path, results
                    break
