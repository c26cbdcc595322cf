"""The pytest side: options, the GPU marker, the identity in pytest-benchmark's JSON, and the right baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stagebench import baseline, environment
from stagebench.errors import StagebenchError
from stagebench.models.registry import BUILDERS
from stagebench.types import DEFAULT_QUESTION, DTYPES, KERNELS, PROFILES, GenerationSettings, ModelSettings

_NOTE = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("stagebench")
    group.addoption("--models", default=",".join(BUILDERS), help="comma-separated; default: %(default)s")
    group.addoption("--device", default="auto", help="cpu, cuda, or auto: cuda where there is one")
    group.addoption("--profile", choices=PROFILES, help="default: tiny on a CPU, 7b on a GPU")
    group.addoption("--weights", help="checkpoint folder or hub id, for --profile pretrained and one model")
    group.addoption("--dtype", choices=DTYPES, help="default: float32 on a CPU, bfloat16 on a GPU")
    group.addoption("--kernels", choices=KERNELS, default="efficient", help="attention kernels on a GPU")
    group.addoption("--new-tokens", type=int, default=32, help="limit of new tokens; default: %(default)s")
    group.addoption("--natural-length", action="store_true", help="let a model stop early; default: fixed length")
    group.addoption("--input", type=Path, help="clip, recording or folder; default: the embedded scene")
    group.addoption("--question", default=DEFAULT_QUESTION, help="default: %(default)s")
    group.addoption("--rounds", type=int, default=10, help="timed rounds a benchmark; default: %(default)s")
    group.addoption("--baselines", type=Path, default=Path("baselines"), help="default: %(default)s")
    group.addoption("--order-seed", type=int, default=0, help="shuffles the models; default: %(default)s")


def model_settings(config: pytest.Config) -> ModelSettings:
    """The models' settings out of the command line.

    Raises:
        pytest.UsageError: where they contradict each other or the machine.
    """
    device = config.getoption("device")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise pytest.UsageError(f"--device {device} needs a CUDA device, got none")
    on_gpu = device.startswith("cuda")
    weights = config.getoption("weights")
    try:
        return ModelSettings(
            profile=config.getoption("profile") or ("pretrained" if weights else "7b" if on_gpu else "tiny"),
            weights=weights,
            device=device,
            dtype=config.getoption("dtype") or ("bfloat16" if on_gpu else "float32"),
            kernels=config.getoption("kernels"),
        )
    except StagebenchError as error:
        raise pytest.UsageError(str(error)) from error


def generation_settings(config: pytest.Config) -> GenerationSettings:
    """How text is generated, out of the command line; fixed length by default, so that runs do equal work."""
    try:
        return GenerationSettings(
            max_new_tokens=config.getoption("new_tokens"), fixed_length=not config.getoption("natural_length")
        )
    except StagebenchError as error:
        raise pytest.UsageError(str(error)) from error


def identity(config: pytest.Config) -> dict[str, str]:
    """The environment of this session."""
    given: Path | None = config.getoption("input")
    sample = f"{given.name} ({given.stat().st_size} bytes)" if given and given.is_file() else str(given or "scene")
    sample += f": {config.getoption('question')}"
    return environment.identity(model_settings(config), generation_settings(config).describe(), sample)


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads the option
def pytest_configure(config: pytest.Config) -> None:
    """Let a bare `--benchmark-compare` find the baseline of this environment."""
    if config.getoption("benchmark_compare", None) is not True:
        return
    root = config.rootpath / config.getoption("baselines")
    here = identity(config)
    found = baseline.find(root, here)
    if found is None:
        config.option.benchmark_compare = []
        config.stash[_NOTE] = f"no baseline yet for this environment, so nothing is compared; {_closest(root, here)}"
    else:
        config.option.benchmark_compare = str(found)
        config.stash[_NOTE] = f"comparing with {found.parent.name}/{found.name}"


def _closest(root: Path, here: dict[str, str]) -> str:
    stored = sorted(root.glob(f"*/{baseline.FILE_NAME}"))
    if not stored:
        return f"{root.name}/ is empty"
    apart = {path: baseline.differences(here, baseline.read_run(path)["machine_info"]) for path in stored}
    nearest = min(stored, key=lambda path: len(apart[path]))
    return f"the closest, {nearest.parent.name}, differs in {'; '.join(apart[nearest])}"


def pytest_benchmark_compare_machine_info(
    config: pytest.Config, machine_info: dict[str, str], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse what is not comparable, where pytest-benchmark would only warn."""
    try:
        baseline.require_comparable(
            machine_info, Path(str(config.getoption("benchmark_compare"))), compared_benchmark["machine_info"]
        )
    except StagebenchError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, str]:
    """Put the identity where pytest-benchmark keeps the machine."""
    return identity(config)


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Note what a gate must know and pytest-benchmark does not say: whether anything failed."""
    session = config.pluginmanager.getplugin("session")
    output_json["stagebench"] = {
        "schema": baseline.SCHEMA,
        "failed": session.testsfailed if session else 0,
        "order_seed": config.getoption("order_seed"),
    }


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Print the settings, and which baseline is compared with."""
    settings = model_settings(config)
    lines = [
        f"stagebench: {settings.profile} profile, {settings.dtype} on {settings.device}; "
        f"{generation_settings(config).describe()}"
    ]
    return [*lines, *([config.stash[_NOTE]] if _NOTE in config.stash else [])]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Repeat under the table what it was compared with: the head has scrolled away."""
    if _NOTE in config.stash:
        terminalreporter.write_line(f"stagebench: {config.stash[_NOTE]}", bold=True)


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
