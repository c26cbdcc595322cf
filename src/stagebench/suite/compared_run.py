"""The run that a session of pytest is compared with: found, readable and comparable before anything is measured."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.utils import get_machine_id, load_storage

from stagebench.core.errors import ResultsError
from stagebench.core.results import read_results, require_sound
from stagebench.gate import baseline
from stagebench.suite.options import PREFIX

_COLUMNS = ("min", "max", "mean", "stddev", "median", "iqr", "outliers", "rounds", "iterations")
"""What pytest-benchmark's table takes from a stored run; its own list is elsewhere in each of its versions."""


def find(config: pytest.Config, identity: Callable[[], dict[str, str]]) -> str | None:
    """Let a bare `--benchmark-compare` mean the baseline of this environment; return what to say of it.

    Raises:
        ResultsError: for a run that can't be shown beside this one.
        pytest.UsageError: where there is no such run, or none to judge by: pytest-benchmark would go on and compare
            with nothing.
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
    option = config.option
    if option.benchmark_storage.startswith("elasticsearch"):
        return []
    storage = load_storage(
        option.benchmark_storage, logger=None, default_machine_id=get_machine_id(), netrc=option.benchmark_netrc
    )
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
