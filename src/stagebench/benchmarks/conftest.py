"""Fixtures of the benchmarks: a sample, the models one after the other, and the verification of each.

A benchmark has one name, whether pytest is given this package or the repository's folder `benchmarks`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stagebench.backends.load import with_backend
from stagebench.benchmarks import gpu_monitored, no_capture_guard
from stagebench.core.artifacts import Sample
from stagebench.core.machine import environment
from stagebench.core.results import BENCHMARKS
from stagebench.core.stages import BEFORE_GENERATE
from stagebench.media.synthetic_clip import SyntheticClip, write_synthetic_clip
from stagebench.models.protocol import VisionLanguageModel
from stagebench.models.registry import build_model
from stagebench.models.weights import release
from stagebench.pipeline.run_stages import Options
from stagebench.pipeline.timing import pinned_runtime
from stagebench.pipeline.verify import Reference, Verification, count_reference, verify
from stagebench.suite import judging, plugin
from stagebench.suite.selection import BY_DEFAULT


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Have the plugin, where a folder with these fixtures is named on the command line and nothing else asks for it."""
    begun = pluginmanager.has_plugin("session")  # what reads options has read them
    if not begun and not pluginmanager.has_plugin(plugin.__name__):
        pluginmanager.register(plugin, plugin.__name__)


class _OfPackage(pytest.Module):
    """One of our files, named by its place in `benchmarks`, not by where it is installed."""

    def funcnamefilter(self, name: str) -> bool:
        """Take ours, whatever names of functions the settings around us ask for."""
        return name.startswith("test_")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Collect a file of this package, also where the settings around us ask for other names of files."""
    found = yield
    if file_path.parent != Path(__file__).parent or not file_path.match("test_*.py"):
        return found
    return [_OfPackage.from_parent(parent, path=file_path, nodeid=f"{BENCHMARKS}/{file_path.name}")]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let reports of a failure name the same file, not the one that a function was imported from."""
    item.location = (item.nodeid.partition("::")[0], *item.location[1:])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise over the models, in an order that the seed shuffles: none of them always pays for going first."""
    if "model" in metafunc.fixturenames:
        settings = plugin.settings(metafunc.config)
        names, backends = list(settings.models), list(settings.backends)
        draw = random.Random(metafunc.config.option.stage_order_seed)
        draw.shuffle(names)
        draw.shuffle(backends)
        pairs = [(name, backend) for name in names for backend in backends]
        ids = [name if backend == "eager" else f"{name}-{backend}" for name, backend in pairs]
        metafunc.parametrize(("plain_model", "model"), pairs, indirect=True, scope="session", ids=ids)


@pytest.hookimpl(tryfirst=True)  # before -k and -m, so that what is left out anyway is not laid at their door
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out plain code for all backends but one, and, without `--stage-scale`, what takes minutes."""
    timed_plainly = "eager" in plugin.settings(config).backends
    left = [
        item
        for item in items
        if (timed_plainly and _is_repeated(item)) or (_is_scale(item) and not config.option.stage_scale)
    ]
    items[:] = [item for item in items if item not in left]
    for item in left:
        item.stash[BY_DEFAULT] = True
    config.hook.pytest_deselected(items=left)


def _is_scale(item: pytest.Item) -> bool:
    return item.path.name == "test_scale.py"


def _is_repeated(item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    plain = item.get_closest_marker("eager") is not None or params.get("stage") in BEFORE_GENERATE
    return plain and params.get("model", "eager") != "eager"


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> SyntheticClip:
    """The synthetic clip, as video and as events."""
    return write_synthetic_clip(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    """Keyword arguments of `generate()`, the same for all models."""
    return plugin.settings(pytestconfig).generation.options()


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.option.stage_rounds)


@pytest.fixture(scope="session")
def telemetry_of_gpu(pytestconfig: pytest.Config) -> Iterator[environment.Gpu | None]:
    """The GPU that is timed, for a look at its clocks; None on a CPU, or where NVML is not installed.

    None too beside another process: to repeat what was disturbed would put both out of step.
    """
    device = torch.device(plugin.settings(pytestconfig).model.device)
    if device.type != "cuda" or not plugin.lockstep(pytestconfig).alone:
        yield None
        return
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    with environment.opened_gpu(uuid, own_processes=1) as gpu:
        yield gpu


@pytest.fixture
def pedantic(
    benchmark: Any,
    model: VisionLanguageModel,
    telemetry_of_gpu: environment.Gpu | None,
    rounds: int,
    pytestconfig: pytest.Config,
) -> Callable[..., Any]:
    """`benchmark.pedantic` for what a model does, with everything set up before a timed round.

    On a GPU it notes clocks and power, and repeats what was disturbed.
    """
    if benchmark.disabled:  # pytest-benchmark calls it once, and times nothing
        return functools.partial(gpu_monitored.pedantic, benchmark, [], None, rounds=rounds)
    collected = judging.session_of(pytestconfig).benchmarks
    watching = functools.partial(gpu_monitored.pedantic, benchmark, collected, telemetry_of_gpu)
    return no_capture_guard.settled(model, watching, rounds, plugin.lockstep(pytestconfig).pass_on)


@pytest.fixture(scope="session")
def plain_model(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Iterator[VisionLanguageModel]:
    """Each model once a session; pytest frees one before it builds the next."""
    settings = plugin.settings(pytestconfig).model
    release()  # the model before this one is out of reach by now, but its memory is not yet free
    with pinned_runtime(settings):
        yield build_model(request.param, settings)


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest, plain_model: VisionLanguageModel) -> VisionLanguageModel:
    """The model with each of the backends."""
    release()
    return with_backend(plain_model, request.param)


@pytest.fixture(scope="session")
def sample(plain_model: VisionLanguageModel, synthetic: SyntheticClip, pytestconfig: pytest.Config) -> Sample:
    """What the model looks at: the given input, or the synthetic clip as its own kind of media or `--stage-media`."""
    loading = plugin.settings(pytestconfig).loading
    path = pytestconfig.option.stage_input or synthetic.shown(loading.media, plain_model.input_kind)
    return Sample(path, pytestconfig.option.stage_question, loading)


@pytest.fixture(scope="session")
def reference(
    plain_model: VisionLanguageModel, sample: Sample, options: Options, pytestconfig: pytest.Config
) -> Reference | None:
    """What all backends of a model are held against, counted once.

    None with `--stage-times-only`: a process before this one has proven the same code.
    """
    return None if pytestconfig.option.stage_times_only else count_reference(plain_model, sample, options)


@pytest.fixture(scope="session")
def verified(model: VisionLanguageModel, reference: Reference | None) -> Verification | None:
    """Nothing is timed before an untimed pass gave the tokens, and did the work, of `generate()`."""
    if reference is None:
        return None
    found = verify(model, reference)
    text = model.tokenizer.decode(found.generation.token_ids[0])
    if model.profile != "pretrained":  # a pretrained tokenizer need not give a text's tokens back
        assert len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) == len(found.generation.token_ids[0])
    return found
