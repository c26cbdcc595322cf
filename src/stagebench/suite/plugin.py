"""The pytest side: options, the GPU marker, the identity in pytest-benchmark's JSON, and the right baseline."""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.session import PerformanceRegression
from pytest_benchmark.utils import get_machine_id, load_storage
from rich.console import Console

from stagebench.core import environment
from stagebench.core.errors import BaselineError, GateError, StagebenchError
from stagebench.core.results import read_results, require_sound, validate
from stagebench.core.settings import GenerationSettings, LoadSettings, ModelSettings
from stagebench.core.shown import plain
from stagebench.core.tables import show
from stagebench.gate import baseline
from stagebench.gate import report as gate_report
from stagebench.gate.limits import limit_keys, read_rules
from stagebench.gate.runner.lockstep import Lockstep
from stagebench.gate.verdicts import NOT_MEASURED
from stagebench.suite import judging, options, outcome, selection
from stagebench.suite.settings import check_backends, check_input, parse_size, resolve_models, resolve_settings

_COLUMNS = ("min", "max", "mean", "stddev", "median", "iqr", "outliers", "rounds", "iterations")
"""What pytest-benchmark's table takes from a stored run; its own list is elsewhere in each of its versions."""

_NOTE = pytest.StashKey[str]()
_SETTINGS = pytest.StashKey[tuple[tuple[str, ...], ModelSettings, GenerationSettings, LoadSettings]]()
_LINES = pytest.StashKey[list[str]]()
_LOCKSTEP = pytest.StashKey[Lockstep]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    options.add(parser.getgroup("stagebench"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int | None, int | None]:
    """Note in what was saved how the session ended, after everything that could still fail."""
    judged = config.option.gate or config.option.gate_time
    try:
        status = yield
        if status is not None and judged:
            status = judging.as_of_gate(config, status)
    except PerformanceRegression:  # pytest-benchmark has said which
        status = pytest.ExitCode.TESTS_FAILED
    except Exception as error:
        if not judged or isinstance(error, pytest.UsageError):
            raise
        traceback.print_exc()  # as Python would, but with an exit status that is no verdict
        return NOT_MEASURED
    if status is not None:
        with _usage_errors():
            outcome.finish(config, status)
    return status


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Let pytest say our errors in one line."""
    try:
        yield
    except StagebenchError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config: pytest.Config) -> None:
    """Refuse settings that make no sense, and let a bare `--benchmark-compare` find its baseline."""
    if config.option.order_seed is None:
        config.option.order_seed = secrets.randbelow(2**16)
    config.addinivalue_line("markers", "gate(threshold, floor): how much slower than its baseline is too much")
    config.addinivalue_line("markers", "eager: plain code whatever the backend, and so timed once")
    config.option.gate = config.option.gate or config.option.gate_time
    config.stash[_LOCKSTEP] = Lockstep.of_environment()
    if config.option.timed_gc and config.getoption("benchmark_disable_gc", None):
        raise pytest.UsageError("garbage is collected or not, got --timed-gc and --benchmark-disable-gc")
    config.option.benchmark_disable_gc = not config.option.timed_gc
    with _usage_errors():
        config.stash[_SETTINGS] = _resolve(config)
        _find_baseline(config)
        _require_baseline(config)
        if config.option.gate:
            config.stash[judging.RULES] = read_rules(config.rootpath / "pyproject.toml")


def _resolve(config: pytest.Config) -> tuple[tuple[str, ...], ModelSettings, GenerationSettings, LoadSettings]:
    option = config.option
    if option.rounds < 1:
        raise pytest.UsageError(f"--rounds must be at least 1, got {option.rounds}")
    models = resolve_models(selection.names(option.models))
    settings = resolve_settings(
        models,
        option.profile,
        option.weights,
        option.device,
        option.dtype,
        option.kernels,
        option.threads,
        seed=0,
        preprocess=option.preprocess,
        pickled_weights=option.pickled_weights,
    )
    loading = LoadSettings(
        slices=option.slices,
        image_size=parse_size(option.image_size),
        start=option.start,
        duration=option.duration,
        cache=option.frame_cache,
        media=option.media,
        time_unit=option.time_unit,
    )
    check_backends(backends(config), settings.device)
    if option.input is not None:
        check_input(option.input, loading)
    return models, settings, GenerationSettings(option.new_tokens, fixed_length=not option.natural_length), loading


def models(config: pytest.Config) -> tuple[str, ...]:
    """The models of this session, each once."""
    return config.stash[_SETTINGS][0]


def backends(config: pytest.Config) -> tuple[str, ...]:
    """What runs the stages, each once."""
    return selection.names(config.option.backends)


def model_settings(config: pytest.Config) -> ModelSettings:
    """How they are built."""
    return config.stash[_SETTINGS][1]


def generation_settings(config: pytest.Config) -> GenerationSettings:
    """How text is generated; at fixed length by default, so that runs do equal work."""
    return config.stash[_SETTINGS][2]


def lockstep(config: pytest.Config) -> Lockstep:
    """Those that this process takes with the one that it is held against."""
    return config.stash[_LOCKSTEP]


def load_settings(config: pytest.Config) -> LoadSettings:
    """How media are read."""
    return config.stash[_SETTINGS][3]


def identity(config: pytest.Config) -> dict[str, str]:
    """The environment of this session."""
    option = config.option
    here = environment.identity(
        model_settings(config),
        generation_settings(config),
        option.question,
        option.input,
        load_settings(config),
        option.timed_gc,
    )
    return here | {"timer": str(option.benchmark_timer)}


def _find_baseline(config: pytest.Config) -> None:
    asked = config.getoption("benchmark_compare", None)
    if isinstance(asked, str):
        _require_readable(config, asked)
    if asked is not True:
        return
    root, here = config.rootpath / config.option.baselines, identity(config)
    found = baseline.find(root, here)
    if found is None:
        config.option.benchmark_compare = []
        config.stash[_NOTE] = (
            f"no baseline yet for this environment, so nothing is compared; {baseline.closest(root, here)}"
        )
    else:
        _require_table(found)
        config.option.benchmark_compare = str(found)
        config.stash[_NOTE] = f"comparing with {found.parent.name}/{found.name}"


def _require_readable(config: pytest.Config, asked: str) -> None:
    """Refuse what names no stored run: pytest-benchmark would go on and compare with nothing."""
    option = config.option
    if option.benchmark_storage.startswith("elasticsearch"):
        return
    storage = load_storage(
        option.benchmark_storage, logger=None, default_machine_id=get_machine_id(), netrc=option.benchmark_netrc
    )
    try:
        named = storage.query(asked) if asked else []
    except ValueError:  # neither a file nor a pattern
        named = []
    if not named:
        raise pytest.UsageError(f"--benchmark-compare must name a run or nothing, got no file {asked}")
    for path in named:
        _require_table(path)


def _require_table(path: Path) -> None:
    """Refuse a run that can't be shown beside this one."""
    for benchmark in require_sound(read_results(path), f"the run {path}")["benchmarks"]:
        if lacking := [column for column in _COLUMNS if column not in benchmark["stats"]]:
            raise BaselineError(
                f"the run {path}: {benchmark['fullname']}: must have the statistics of pytest-benchmark's table, "
                f"got no {', '.join(lacking)}"
            )


def _require_baseline(config: pytest.Config) -> None:
    """Refuse at once what pytest-benchmark would refuse when all is measured."""
    fails = "--benchmark-compare-fail" if config.getoption("benchmark_compare_fail", None) else None
    judge = "--gate" if config.option.gate else fails
    if judge and not config.getoption("benchmark_compare", None):
        note = config.stash.get(_NOTE, "--benchmark-compare names it, or finds the one of this environment")
        raise pytest.UsageError(f"{judge} needs a baseline: {note}")


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, machine_info: dict[str, str], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse what is not comparable, where pytest-benchmark would only warn."""
    path = Path(str(config.getoption("benchmark_compare")))
    with _usage_errors():
        stored = require_sound(validate(compared_benchmark, f"the run {path}"), f"the run {path}")
        if differing := environment.differences(machine_info, stored["machine_info"]):
            raise BaselineError(f"not comparable with {path}: {'; '.join(differing)}")
    compared_benchmark["machine_info"] = machine_info  # pytest-benchmark would miss the keys that came later


@pytest.hookimpl(optionalhook=True, tryfirst=True)  # the first result counts
def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, str]:
    """Put the identity where pytest-benchmark keeps the machine."""
    return identity(config)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Note what decides whether the run may become a baseline, and pytest-benchmark does not say."""
    output_json["stagebench"] = outcome.so_far(config) | {
        "selection": selection.described(config),
        "deselected": selection.deselected(config),
        "regressed": judging.regressed(config, identity(config), benchmarks),
        "times_only": config.option.times_only,
        "order_seed": config.option.order_seed,
        "load_warning": environment.load_warning(),
        "turns": lockstep(config).turns,
    }


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Wait for the first turn: while something is timed, only one of two processes is to run."""
    lockstep(session.config).begin()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to judge what won't be timed."""
    if session.config.option.gate and judging.is_untimed(session.config):
        raise pytest.UsageError("--gate judges what is timed, got benchmarks that are disabled or skipped")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note which items ran."""
    result = yield
    outcome.note_end(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave out what was skipped, or failed as a marker allows, after it was timed: its own checks did not pass."""
    report = yield
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if report.skipped and benchmark is not None:
        benchmark.has_error = True  # as pytest-benchmark does with what fails while it is timed
    return report


def pytest_exception_interact(node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any]) -> None:
    """Note what failed, because under `--gate` an error is no verdict."""
    if call.excinfo is not None:
        judging.note_failure(node.config, call.excinfo.value)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With `--gate`, judge. Else fail where a benchmark vanished, or did other work: then its time says nothing."""
    config, passed = session.config, session.exitstatus == pytest.ExitCode.OK
    if not judging.is_compared(config):
        return
    if judging.is_untimed(config):
        config.stash[_NOTE] = "nothing was timed, so nothing is compared"
    elif passed and config.option.gate:
        session.exitstatus = judging.gate_status(config, identity(config))
    else:
        wrong, said = judging.differences(session, identity(config))
        config.stash[_LINES] = [*wrong, *said]
        if wrong and passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Note what was left out on purpose."""
    selection.note_deselected(items)


@pytest.fixture(autouse=True)
def _gate_marker(request: pytest.FixtureRequest) -> None:
    """Keep a benchmark's own limits with its numbers, because a gate sees nothing but these."""
    marker = request.node.get_closest_marker("gate")
    if marker is not None and "benchmark" in request.fixturenames:
        if marker.args:
            raise GateError(f"the marker of {request.node.nodeid} names its limits, got {marker.args!r:.60} without")
        limit_keys(marker.kwargs, f"the marker of {request.node.nodeid}")
        request.getfixturevalue("benchmark").extra_info["gate"] = dict(marker.kwargs)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Print the settings, the order, and which baseline is compared with."""
    settings = model_settings(config)
    lines = [
        f"stagebench: {settings.profile} profile, {settings.dtype} on {settings.device}, {settings.threads} threads, "
        f"{settings.preprocess} preprocessing; "
        f"{generation_settings(config).describe()}; models in order {config.option.order_seed}"
    ]
    return [*lines, *filter(None, [environment.load_warning(), config.stash.get(_NOTE, None)])]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say under the table what it was compared with (the head has scrolled away), and what does not compare."""
    for line in [config.stash.get(_NOTE, None), *config.stash.get(_LINES, [])]:
        if line:
            terminalreporter.write_line(f"stagebench: {plain(line)}", bold=True)
    if judged := config.stash.get(judging.VERDICTS, []):
        writer = config.get_terminal_writer()
        console = Console(width=writer.fullwidth, force_terminal=writer.hasmarkup)
        with console.capture() as shown:
            show(gate_report.to_table(judged, judging.differing_markers(config, identity(config))), console)
        terminalreporter.write_line(shown.get())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu`, with a reason, where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, found none"))


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """A CUDA device; a test that asks for it is skipped where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, found none")
    return torch.device("cuda")
