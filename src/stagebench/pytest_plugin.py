"""The pytest side: options, the GPU marker, the identity in pytest-benchmark's JSON, and the right baseline."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.session import PerformanceRegression
from pytest_benchmark.utils import get_machine_id, load_storage
from rich.console import Console

from stagebench import baseline, environment, gate, gate_report, outcome, selection
from stagebench.errors import StagebenchError
from stagebench.gate_rules import Rules, limit_keys, read_rules
from stagebench.models.registry import BUILDERS
from stagebench.results import SCHEMA, read_sound_run, require_sound, validate
from stagebench.settings import check_backends, check_input, parse_size, resolve_models, resolve_settings
from stagebench.turns import Turns
from stagebench.types import (
    BACKENDS,
    DECODERS,
    DEFAULT_QUESTION,
    DTYPES,
    KERNELS,
    MEDIA,
    PREPROCESSORS,
    PROFILES,
    SLICES,
    TIME_UNITS,
    GenerationSettings,
    LoadSettings,
    ModelSettings,
)
from stagebench.verdict import Verdict, exit_code

_NOTE = pytest.StashKey[str]()
_SETTINGS = pytest.StashKey[tuple[tuple[str, ...], ModelSettings, GenerationSettings, LoadSettings]]()
_OTHER_WORK = pytest.StashKey[list[str]]()
_RULES = pytest.StashKey[Rules]()
_VERDICTS = pytest.StashKey[list[Verdict]]()
_TURNS = pytest.StashKey[Turns]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("stagebench")
    group.addoption("--models", default=",".join(BUILDERS), help="comma-separated; default: %(default)s")
    group.addoption("--device", help="cpu or cuda; default: cuda where there is one")
    group.addoption("--profile", choices=PROFILES, help="default: tiny on a CPU, 7b on a GPU")
    group.addoption("--weights", help="checkpoint folder or hub id, for one model")
    group.addoption("--pickled-weights", action="store_true", help="read weights from .bin too, which is a pickle")
    group.addoption("--dtype", choices=DTYPES, help="default: float32 on a CPU, bfloat16 on a GPU")
    group.addoption("--kernels", choices=KERNELS, default="efficient", help="attention kernels on a GPU")
    group.addoption("--threads", type=int, help="of torch on the CPU; default: 1 for tiny, else torch's own choice")
    group.addoption("--preprocess", choices=PREPROCESSORS, default="pil", help="images to pixels; default: %(default)s")
    group.addoption(
        "--backends", default="eager", help=f"comma-separated, of {', '.join(BACKENDS)}; default: %(default)s"
    )
    group.addoption("--new-tokens", type=int, default=32, help="limit of new tokens; default: %(default)s")
    group.addoption("--natural-length", action="store_true", help="let a model stop early; default: fixed length")
    group.addoption("--input", type=Path, help="clip, recording or folder; default: the embedded scene")
    group.addoption("--decoder", choices=DECODERS, default="pyav", help="of video; default: %(default)s")
    group.addoption("--slices", choices=SLICES, default="count", help="of events, equal count or time")
    group.addoption(
        "--time-unit", choices=TIME_UNITS, help="of recordings that do not say it; default: us, if it can be"
    )
    group.addoption("--image-size", metavar="WxH", help="of event images; default: what their events reach")
    group.addoption("--start", type=float, default=0.0, help="seconds into the clip or recording")
    group.addoption("--duration", type=float, help="seconds to read; default: all")
    group.addoption("--frame-cache", type=Path, help="keep decoded frames there; default: no cache")
    group.addoption(
        "--media", choices=MEDIA, default="own", help="what all models get of the scene; default: %(default)s"
    )
    group.addoption("--scale", action="store_true", help="also time stages by images, batch and context: minutes")
    group.addoption("--load-matrix", action="store_true", help="also time loading by length, size and decoder: minutes")
    group.addoption("--question", default=DEFAULT_QUESTION, help="default: %(default)s")
    group.addoption("--rounds", type=int, default=10, help="timed rounds a benchmark; default: %(default)s")
    group.addoption("--timed-gc", action="store_true", help="let Python collect garbage in timed rounds")
    group.addoption("--baselines", type=Path, default=Path("baselines"), help="default: %(default)s")
    group.addoption(
        "--gate",
        action="store_true",
        help="with --benchmark-compare: verdicts, and the exit status of `stagebench gate`",
    )
    group.addoption("--gate-time", action="store_true", help="likewise, and an inconclusive time sets exit status 3")
    group.addoption("--times-only", action="store_true", help="no proof, no counters: this very code was proven before")
    group.addoption("--order-seed", type=int, help="shuffles the models; default: drawn, printed and stored")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int | None, int | None]:
    """Note in what was saved how the session ended, after everything that could still fail."""
    try:
        status = yield
    except PerformanceRegression:  # pytest-benchmark has said which
        status = pytest.ExitCode.TESTS_FAILED
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
    config.stash[_TURNS] = Turns.of_environment()
    if config.option.timed_gc and config.getoption("benchmark_disable_gc", None):
        raise pytest.UsageError("garbage is collected or not, got --timed-gc and --benchmark-disable-gc")
    config.option.benchmark_disable_gc = not config.option.timed_gc
    with _usage_errors():
        config.stash[_SETTINGS] = _resolve(config)
        _find_baseline(config)
        _require_baseline(config)
        if config.option.gate:
            config.stash[_RULES] = read_rules(config.rootpath / "pyproject.toml")


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
        decoder=option.decoder,
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


def turns(config: pytest.Config) -> Turns:
    """Those that this process takes with the one that it is held against."""
    return config.stash[_TURNS]


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
        read_sound_run(found)
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
        read_sound_run(path)


def _require_baseline(config: pytest.Config) -> None:
    """Refuse at once what pytest-benchmark would refuse when all is measured."""
    fails = "--benchmark-compare-fail" if config.getoption("benchmark_compare_fail", None) else None
    judge = "--gate" if config.option.gate else fails
    if judge and not config.getoption("benchmark_compare", None):
        note = config.stash.get(_NOTE, "--benchmark-compare names it, or finds the one of this environment")
        raise pytest.UsageError(f"{judge} needs a baseline: {note}")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, machine_info: dict[str, str], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse what is not comparable, where pytest-benchmark would only warn."""
    path = Path(str(config.getoption("benchmark_compare")))
    with _usage_errors():
        stored = require_sound(validate(compared_benchmark, f"the run {path}"), f"the run {path}")
        baseline.require_comparable(machine_info, path, stored["machine_info"])


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, str]:
    """Put the identity where pytest-benchmark keeps the machine."""
    return identity(config)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Note what decides whether the run may become a baseline, and pytest-benchmark does not say."""
    output_json["stagebench"] = outcome.so_far(config) | {
        "schema": SCHEMA,
        "selection": selection.described(config),
        "deselected": selection.deselected(config),
        "regressed": _regressed(config, benchmarks),
        "times_only": config.option.times_only,
        "order_seed": config.option.order_seed,
        "load_warning": environment.load_warning(),
        "turns": turns(config).taken,
    }


def _regressed(config: pytest.Config, benchmarks: list[Any]) -> list[str]:
    """What `--gate` or `--benchmark-compare-fail` is about to fail: pytest-benchmark saves before it checks."""
    session: Any = config._benchmarksession  # type: ignore[attr-defined] # pytest-benchmark puts it there
    judged = _verdicts(config) if config.option.gate else []
    return [v.benchmark for v in judged if v.verdict == "regression"] + [
        benchmark.fullname
        for benchmark in benchmarks
        for stored in session.compared_mapping.values()
        if benchmark.fullname in stored
        for check in session.compare_fail or ()
        if check.fails(benchmark, stored[benchmark.fullname]["stats"])
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Wait for the first turn: while something is timed, only one of two processes is to run."""
    turns(session.config).begin()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to judge what won't be timed."""
    bench: Any = getattr(session.config, "_benchmarksession", None)  # pytest-benchmark puts it there, if it is loaded
    if session.config.option.gate and (bench.disabled or bench.skip):
        raise pytest.UsageError("--gate judges what is timed, got benchmarks that are disabled or skipped")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note which items ran."""
    result = yield
    outcome.note_end(item)
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With `--gate`, judge. Else fail where a benchmark vanished, or did other work: then its time says nothing."""
    config = session.config
    if not _is_compared(config):
        return
    if session.exitstatus == pytest.ExitCode.OK and config.option.gate:
        session.exitstatus = _gate_status(config)
        return
    mine = _measured(config)
    here = {b["fullname"] for b in mine}
    if session.exitstatus != pytest.ExitCode.OK:  # it failed, or ended before all had run
        here |= {item.nodeid for item in session.items}
    wrong: list[str] = []
    left_out: list[str] = []
    for stored in _compared(config):
        only_there = [b for b in stored if b["fullname"] not in here]
        gone = _asked_for(config, only_there)
        wrong += baseline.work_differences(mine, stored)
        wrong += [f"{_short(b)}: in the baseline only, gone or renamed" for b in gone]
        left_out += [f"{_short(b)}: in the baseline only, left out" for b in only_there if b not in gone]
    config.stash[_OTHER_WORK] = [*wrong, *left_out]
    if wrong and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_compared(config: pytest.Config) -> bool:
    """Whether benchmarks were timed, and there is something to hold them against."""
    bench: Any = getattr(config, "_benchmarksession", None)
    if bench is None or not bench.compared_mapping or config.option.collectonly or config.option.setuponly:
        return False
    if bench.disabled or bench.skip:
        config.stash[_NOTE] = "nothing was timed, so nothing is compared"
    return not (bench.disabled or bench.skip)


def _short(benchmark: Mapping[str, Any]) -> str:
    return str(benchmark["fullname"]).split("::")[-1]


def _measured(config: pytest.Config) -> list[dict[str, Any]]:
    """The benchmarks of this session that did not fail."""
    session: Any = config._benchmarksession  # type: ignore[attr-defined] # pytest-benchmark puts it there
    return [b.as_dict(include_data=False) for b in session.benchmarks if not b.has_error]


def _compared(config: pytest.Config) -> list[list[dict[str, Any]]]:
    """The benchmarks of each run that this session is compared with."""
    session: Any = config._benchmarksession  # type: ignore[attr-defined] # pytest-benchmark puts it there
    return [list(stored.values()) for stored in session.compared_mapping.values()]


def _verdicts(config: pytest.Config) -> list[Verdict]:
    """What the gate says of this one process: of its counters, and of what vanished. Its times are a single sample."""
    if _VERDICTS not in config.stash:
        rules, head = config.stash[_RULES], {"benchmarks": _measured(config), "machine_info": identity(config)}
        config.stash[_VERDICTS] = [
            verdict
            for stored in _compared(config)
            for verdict in gate.judge_benchmarks([{"benchmarks": _asked_for(config, stored)}], [head], rules)
        ]
    return config.stash[_VERDICTS]


def _asked_for(config: pytest.Config, stored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The baseline without what was left out on purpose: that is not missing."""
    return [b for b in stored if not selection.is_left_out(config, b)]


def _gate_status(config: pytest.Config) -> int:
    """The exit status as of `stagebench gate`; a time that one process can't decide counts with `--gate-time` only."""
    undecided = [v for v in _verdicts(config) if v.kind == "time" and v.verdict == "inconclusive"]
    return exit_code(v for v in _verdicts(config) if config.option.gate_time or v not in undecided)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Note what was left out on purpose."""
    selection.note_deselected(items)


@pytest.fixture(autouse=True)
def _gate_marker(request: pytest.FixtureRequest) -> None:
    """Keep a benchmark's own limits with its numbers, because a gate sees nothing but these."""
    marker = request.node.get_closest_marker("gate")
    if marker is not None and "benchmark" in request.fixturenames:
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
    for line in [config.stash.get(_NOTE, None), *config.stash.get(_OTHER_WORK, [])]:
        if line:
            terminalreporter.write_line(f"stagebench: {line}", bold=True)
    if judged := config.stash.get(_VERDICTS, []):
        console = Console(width=max(config.get_terminal_writer().fullwidth, 120))
        with console.capture() as shown:
            console.print(gate_report.to_table(judged))
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
