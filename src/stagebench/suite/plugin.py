"""The pytest plugin: the identity in pytest-benchmark's JSON, the baseline, and lines about both."""

from __future__ import annotations

import os
import secrets
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import pytest
from pytest_benchmark.session import PerformanceRegression
from rich.console import Console

from stagebench.core.errors import GateError, StagebenchError, StageError
from stagebench.core.machine import environment
from stagebench.core.results import SCHEMAS, short_name
from stagebench.core.shown import plain, show
from stagebench.gate.limits import RULES_FILE, Rules, limit_keys, read_rules
from stagebench.gate.runner import COPY_OF
from stagebench.gate.runner.lockstep import Lockstep
from stagebench.gate.verdicts import NOT_MEASURED, Decision, exit_code
from stagebench.suite import judging, selection
from stagebench.suite.options import PREFIX, PYTEST, SETTINGS, add_to_pytest

if TYPE_CHECKING:
    from stagebench.suite.settings import Settings  # imports torch, which other benchmarks don't need

_PLUGINS = ("stagebench.suite.entry_point", "stagebench.suite.fixtures")  # the first has the markers
pytest_plugins = (*_PLUGINS, *["stagebench.gate.runner.in_process"] * (COPY_OF in os.environ))
pytest_addoption = add_to_pytest

_SAID = pytest.StashKey[list[str]]()  # lines about the comparison
_LOCKSTEP = pytest.StashKey[Lockstep]()
_RULES = pytest.StashKey[Rules]()
_DECISION = pytest.StashKey[Decision]()
_MEANT = pytest.StashKey[set[int | None]]()  # exit statuses that are verdicts under `--stage-gate`; others are errors


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int | None, int | None]:
    """Record in the saved files how the session ended, after everything else that may fail."""
    gated = config.option.stage_gate
    try:
        status = yield
        if gated and status not in config.stash.get(_MEANT, {status}):
            status = NOT_MEASURED
    except PerformanceRegression:  # already printed by pytest-benchmark
        status = pytest.ExitCode.TESTS_FAILED
    except Exception as error:
        if not gated or isinstance(error, pytest.UsageError):
            raise
        traceback.print_exc()  # as Python does, but with an exit status that is not a verdict
        return NOT_MEASURED
    if status is not None:
        with _usage_errors():
            judging.finish(config, status, config.stash.get(_DECISION, Decision()))
    return status


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn our errors into pytest's usage errors of one line."""
    try:
        yield
    except StagebenchError as error:
        raise pytest.UsageError(str(error)) from error
    except click.BadParameter as error:
        raise pytest.UsageError(error.format_message().replace("--", PREFIX)) from error


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config: pytest.Config) -> None:
    """Refuse invalid settings, and let a bare `--benchmark-compare` find its baseline."""
    option = config.option
    given = [option.stage_input, *(getattr(option, f"stage_{each.name}") for each in SETTINGS)]
    with _usage_errors():
        context = click.Context(click.Command("pytest"))
        for each in PYTEST:
            value = getattr(option, name := f"stage_{each.name}")
            setattr(option, name, each.type_cast_value(context, each.default if value is None else value))
    if option.stage_order_seed is None:
        option.stage_order_seed = secrets.randbelow(2**16)
    config.stash[_LOCKSTEP] = Lockstep.of_environment()
    config.stash[selection.DESELECTED], config.stash[judging.ENDED] = {}, set()
    config.stash[_MEANT] = set[int | None]((None, pytest.ExitCode.OK, pytest.ExitCode.USAGE_ERROR))
    if option.stage_timed_gc and config.getoption("benchmark_disable_gc", None):
        raise pytest.UsageError(
            f"garbage collection must be on or off, got {PREFIX}timed-gc and --benchmark-disable-gc"
        )
    option.benchmark_disable_gc = not option.stage_timed_gc
    with _usage_errors():
        config.stash[_SAID] = []
        if asked := any(value is not None for value in given):
            settings(config)
        config.stash[_SAID] = judging.find(config, lambda models: identity(config, models))
        if selection.SETTINGS in config.stash and not (asked or config.getoption("benchmark_compare", None)):
            del config.stash[selection.SETTINGS]  # models count only once a benchmark of them is collected
        config.stash[_RULES] = read_rules(config.rootpath / RULES_FILE) if option.stage_gate else Rules()


def settings(config: pytest.Config) -> Settings:
    """Return this session's settings of models, read when first needed; the length is fixed by default."""
    if _SAID not in config.stash:
        raise pytest.UsageError(f"benchmarks of stagebench need its plugin from the start, add -p {__name__}")
    if selection.SETTINGS not in config.stash:
        from stagebench.suite.settings import check_input, resolve

        option = config.option
        with _usage_errors():
            found = resolve({each.name: getattr(option, f"stage_{each.name}") for each in PYTEST})
            if option.stage_input is not None:
                check_input(option.stage_input, found.loading)
        config.stash[selection.SETTINGS] = found
    return config.stash[selection.SETTINGS]


def lockstep(config: pytest.Config) -> Lockstep:
    """Return this process's side of the lockstep with the process that it is compared with."""
    return config.stash[_LOCKSTEP]


def identity(config: pytest.Config, models: bool = False) -> dict[str, str]:
    """Return this session's environment, with the settings of models if they run or `models` is true."""
    own = settings(config) if models else config.stash.get(selection.SETTINGS, None)
    timed_gc = config.option.stage_timed_gc
    described = own.identity(timed_gc) if own else environment.of_any_suite(timed_gc)
    return described | {"timer": str(config.option.benchmark_timer)}


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_compare_machine_info(machine_info: dict[str, str], compared_benchmark: dict[str, Any]) -> None:
    """Keep pytest-benchmark from reporting keys added later; incomparable runs were refused before."""
    compared_benchmark["machine_info"] = machine_info


@pytest.hookimpl(optionalhook=True, tryfirst=True)  # the first result counts
def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, str]:
    """Return the identity in place of pytest-benchmark's description of the machine."""
    return identity(config)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add what decides whether the run may become a baseline, and pytest-benchmark does not record."""
    session: Any = config.pluginmanager.getplugin("session")
    output_json["stagebench"] = {
        "schema": SCHEMAS["results"],
        "failed": session.testsfailed,
        "exit_status": int(session.exitstatus),
        "regressed": [],
        "complete": False,
        "session": config.stash.setdefault(judging.NAME, secrets.token_hex(8)),
        "selection": selection.described(config),
        "deselected": selection.deselected(config),
        "times_only": config.option.stage_times_only,
        "order_seed": config.option.stage_order_seed,
        "load_warning": environment.load_warning(),
        "turns": lockstep(config).turns,
    }


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Refuse to judge benchmarks that are not timed; then wait for the first turn in lockstep."""
    if session.config.option.stage_gate and judging.is_untimed(session.config):
        raise pytest.UsageError(f"{PREFIX}gate needs timed benchmarks, got disabled or skipped ones")
    lockstep(session.config).begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record which items ended, and leave out benchmarks that were timed but skipped, or failed as expected."""
    report = yield
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if report.skipped and benchmark is not None:
        benchmark.has_error = True  # as pytest-benchmark does for failures while timing
    if call.when == "teardown":
        item.config.stash[judging.ENDED].add(item.nodeid)
    return report


def pytest_exception_interact(node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any]) -> None:
    """Record that a benchmark's own check failed: under `--stage-gate` only that failure is a verdict."""
    if call.excinfo is not None and call.excinfo.errisinstance((AssertionError, StageError, pytest.fail.Exception)):
        node.config.stash[_MEANT].add(pytest.ExitCode.TESTS_FAILED)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Judge the session with `--stage-gate`, else fail it where a benchmark is missing, or did other work."""
    config, passed = session.config, session.exitstatus == pytest.ExitCode.OK
    if not judging.is_compared(config):
        return
    if judging.is_untimed(config):
        config.stash[_SAID] = ["nothing was timed, so nothing is compared"]
        return
    with _usage_errors():
        decision = judging.judge(config, identity(config), config.stash[_RULES])
    if passed and config.option.stage_gate:
        config.stash[_DECISION] = decision
        session.exitstatus = exit_code(v for v in decision.verdicts if (v.kind, v.verdict) != ("time", "inconclusive"))
        config.stash[_MEANT].add(session.exitstatus)
    else:
        wrong = judging.wrong_with(session, decision)
        allowed = [f"{short_name(v.benchmark)}: {v.reason}" for v in decision.verdicts if v.allowed]
        config.stash[_SAID] += [*wrong, *allowed]
        if wrong and passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Record which benchmarks are left out on purpose, by any option or plugin."""
    for item in items:
        if "benchmark" in getattr(item, "fixturenames", ()):
            item.config.stash[selection.DESELECTED][item.nodeid] = not item.stash.get(selection.BY_DEFAULT, False)


@pytest.fixture(autouse=True)
def _gate_marker(request: pytest.FixtureRequest) -> None:
    """Store a benchmark's own limits with its numbers, because a gate reads only these."""
    marker = request.node.get_closest_marker("gate")
    if marker is not None and "benchmark" in request.fixturenames:
        if marker.args:
            raise GateError(f"the marker of {request.node.nodeid} must name its limits, got {marker.args!r:.60}")
        limit_keys(marker.kwargs, f"the marker of {request.node.nodeid}")
        request.getfixturevalue("benchmark").extra_info["gate"] = dict(marker.kwargs)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Print the settings and the order of our models, and the baseline of the comparison."""
    own = config.stash.get(selection.SETTINGS, None)
    line = f"stagebench: {own.describe()}; models in order {config.option.stage_order_seed}" if own else ""
    return list(filter(None, [line, environment.load_warning(), *config.stash[_SAID]]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the lines about the comparison again under the table, because the head has scrolled away."""
    for line in config.stash[_SAID]:
        terminalreporter.write_line(f"stagebench: {plain(line)}", bold=True)
    if _DECISION in config.stash:
        writer = config.get_terminal_writer()
        console = Console(width=writer.fullwidth, force_terminal=writer.hasmarkup)
        with console.capture() as shown:
            show(config.stash[_DECISION].as_table(), console)
        terminalreporter.write_line(shown.get())
