"""The plugin that `stagebench.suite.plugin` loads in processes of a gate or a recording, so that they only time.

It turns off what a project's settings may enable: workers, coverage, a profiler, skipped benchmarks, comparisons with a
stored run. Importable without torch.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stagebench.core.checks import check
from stagebench.core.results import Counters
from stagebench.gate.runner import COPY_OF

_ON = {"benchmark_only": True, "numprocesses": 0, "dist": "no", "tx": []}  # the last three are pytest-xdist's
_OFF = [f"benchmark_{name}" for name in "skip disable autosave save compare compare_fail cprofile histogram".split()]
_OFF += ["benchmark_precision", "looponfail", "profile", "profile_svg"]  # the last two are pytest-profiling's
_OF_A_MARKER = ("min_rounds", "max_time", "precision", "cprofile")


@pytest.hookimpl(wrapper=True)  # before pytest-cov starts in the same hook
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Turn off coverage while benchmarks are timed."""
    early_config.known_args_namespace.no_cov = True
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Iterator[Any]:
    """Turn off other plugins' options; a plugin that shuffles gets the same seed on both sides."""
    for name, value in (dict.fromkeys(_OFF) | _ON).items():
        setattr(config.option, name, value)
    config.option.randomly_seed = int(config.option.stage_order_seed or 0)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remove a marker's options of timing, so that those of the process hold."""
    for marker in item.iter_markers("benchmark"):
        for name in set(_OF_A_MARKER) & marker.kwargs.keys():
            del marker.kwargs[name]  # type: ignore[attr-defined] # a dict


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Iterator[Any]:
    """Refuse modules of the repository where its copy is measured: both sides would run the same code."""
    done = yield
    repository, _, copies = os.environ[COPY_OF].partition(os.pathsep)
    for name, module in list(sys.modules.items()) if repository else ():
        path = Path(getattr(module, "__file__", None) or "/")
        if path.is_relative_to(repository) and not any(map(path.is_relative_to, (copies, sys.prefix))):
            raise pytest.UsageError(f"a process of a gate must import the copy that it measures, got {name} of {path}")
    return done


@pytest.hookimpl(optionalhook=True, trylast=True)
def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Keep only what is judged of other projects' records, because they may hold anything under our names."""
    machine = output_json["machine_info"]
    output_json["machine_info"] = {key: value for key, value in machine.items() if isinstance(value, str)}
    if machine.get("profile") == "none":
        for benchmark in output_json["benchmarks"]:
            info = benchmark["extra_info"]
            # Checked here, where the benchmark is known: invalid JSON can't be read back.
            check(info.get("counters", {}), Counters, f"{benchmark['fullname']}: counters", pytest.UsageError)
            benchmark |= {"extra_info": {key: info[key] for key in ("counters", "gate") if key in info}, "params": None}
